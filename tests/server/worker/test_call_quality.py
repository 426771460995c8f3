"""The opinion figure of a call: its scale, the last seconds, and what the client tells."""

from __future__ import annotations

import pytest

from server.worker.call_quality import FRESH_S, CallQuality, mos
from signaling.session.core import ClientFigures
from tests.server.worker.talk import Talk
from tests.waiting import Clock


def test_scale_is_that_of_listeners() -> None:
    assert mos(20, 0) == pytest.approx(4.4, abs=0.05)
    assert mos(0, 100) < 2 and mos(5_000, 0) == 1.0
    worse = [mos(20, 0), mos(150, 0), mos(150, 2), mos(400, 2), mos(400, 10)]
    assert worse == sorted(worse, reverse=True) and len(set(worse)) == 5


def counted(seconds: int, concealed_s: float = 0.0) -> dict[str, float]:
    return {"totalSamplesReceived": 16_000 * seconds, "concealedSamples": 16_000 * concealed_s}


def test_last_seconds_count_and_what_was_before_is_forgotten() -> None:
    quality = CallQuality(Clock())
    for second in range(10):
        quality.look(counted(second, concealed_s=second / 5))
    bad = quality.row(counted(10), {})["mosIn"]
    for second in range(10, 30):
        quality.look(counted(second, concealed_s=2))
    assert bad == mos(0, 20) and quality.row(counted(30), {})["mosIn"] == mos(0, 0)


def test_figures_of_the_client_count_while_they_are_fresh() -> None:
    clock = Clock()
    quality = CallQuality(clock)
    reported = {"roundTripTime": 0.1, "fractionLost": 0.05}
    assert quality.row({}, reported)["mosOut"] == mos(50, 5)
    quality.tell(ClientFigures(rtt_ms=40, concealed_pct=1, in_buffer_ms=30))
    row = quality.row({}, reported)
    assert row["mosOut"] == mos(50, 1) and row["client"]["rtt_ms"] == 40
    clock.now += FRESH_S + 1
    assert quality.row({}, reported)["mosOut"] == mos(50, 5)


def test_figures_of_the_client_are_bounded() -> None:
    talk = Talk()
    talk.ask({"type": "session.stats", "figures": {"rtt_ms": 12.5, "other": 1}})
    assert talk.commands.quality.row({}, {})["client"] == {"rtt_ms": 12.5}
    for figures in ({"rtt_ms": -1}, {"concealed_pct": 101}, {"rtt_ms": "fast"}, {"rtt_ms": 1e9}):
        talk.ask({"type": "session.stats", "figures": figures, "event_id": "mine"})
    wrong = [event["error"]["param"] for event in talk.of("error")]
    assert len(wrong) == 4 and all(param.startswith("figures.") for param in wrong)
