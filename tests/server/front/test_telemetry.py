"""Telemetry: the shape of `/api/stats`, and metrics that Prometheus can read."""

from __future__ import annotations

import os
from typing import Any

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from engine.ipc.child_process import LoopLag
from server.front.telemetry import Telemetry
from tests.server.front.rig import PaperFront, call_stats, engine_stats, worker_stats


def telemetry(paper: PaperFront) -> Telemetry:
    return Telemetry(paper.front, "1.2.3", "fake", LoopLag())


def samples(made: Telemetry) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample of the exposition by its name and labels."""
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(made.exposition().decode())
        for sample in family.samples
    }


@pytest.fixture
async def busy() -> PaperFront:
    """Two calls with statistics, one that waits, and one that ended."""
    paper = PaperFront(slots=2)
    ended = await paper.call()
    first, second = await paper.call("192.0.2.7"), None
    paper.ends(ended, "vanished")
    second = await paper.call()
    await paper.call()
    paper.says("engine-0", engine_stats())
    rtp = {"packetsReceived": 50, "packetsLost": 1, "concealedSamples": 960}
    stats = call_stats(first, **rtp), call_stats(second, **rtp), call_stats("rtc_gone", **rtp)
    paper.says("worker-0", worker_stats(calls=stats))
    return paper


async def test_statistics_have_their_documented_shape(busy: PaperFront) -> None:
    stats = telemetry(busy).stats()
    assert stats["version"] == "1.2.3" and stats["ready"] is True
    assert stats["calls_placed"] == 4 and stats["calls_ended"] == {"vanished": 1}
    assert stats["slots"] == {"total": 2, "used": 2, "capacity": 2}
    queue = stats["queue"]
    assert (queue["length"], queue["max"]) == (1, 2)
    assert set(queue["entries"][0]) == {"call_id", "position", "eta_s"}
    assert [engine["name"] for engine in stats["engines"]] == ["engine-0"]
    engine = stats["engines"][0]
    assert (engine["capacity"], engine["unit_p99_ms"], engine["late_share"]) == (2, 450.0, 0.02)
    assert engine["kind"] == "fake" and engine["units"] == {"count": 5}
    assert engine["latency_ms"]["asr"] == {"count": 5, "p50": 10.0, "p95": 20.0, "p99": 30.0}
    assert msgspec.json.decode(msgspec.json.encode(stats)) == stats


async def test_call_is_shown_with_its_peer_statistics_and_where_it_is_served(
    busy: PaperFront,
) -> None:
    calls = telemetry(busy).stats()["calls"]
    assert len(calls) == 2, "a call that is over, or has no statistics yet, is not shown"
    call: dict[str, Any] = calls[0]
    assert (call["remote"], call["worker"], call["engine"]) == (
        *("192.0.2.7", "worker-0", "engine-0"),
    )
    assert (call["state"], call["mode"], call["turns"]) == ("active", "full_duplex", 2)
    assert call["stats"][0]["packetsReceived"] == 50
    assert call["latency_ms"] == {"speech_stopped_to_audio": 420.0}


async def test_every_process_is_shown_with_what_it_uses(busy: PaperFront) -> None:
    front, engine, worker = telemetry(busy).stats()["processes"]
    assert (front["role"], front["pid"], front["state"]) == ("front", os.getpid(), "ready")
    assert front["rss_bytes"] > 1_000_000 and front["cpu_s"] > 0
    assert (engine["name"], engine["cpu_s"], engine["rss_bytes"]) == ("engine-0", 1.23, 50_000_000)
    assert (worker["name"], worker["loop_lag_ms"], worker["restarts"]) == ("worker-0", 1.5, 0)


async def test_process_that_is_down_is_shown_with_its_reason_and_no_stale_figures(
    busy: PaperFront,
) -> None:
    busy.down("worker-0", "killed by signal 11")
    worker = telemetry(busy).stats()["processes"][2]
    assert (worker["state"], worker["reason"], worker["restarts"]) == (
        *("backoff", "killed by signal 11", 1),
    )
    assert "cpu_s" not in worker


async def test_idle_server_has_statistics_too() -> None:
    made = telemetry(PaperFront(ready=False))
    stats = made.stats()
    assert stats["ready"] is False and stats["calls"] == [] and stats["engines"] == []
    assert samples(made)[("omnicall_ready", ())] == 0


async def test_connections_are_counted_once_there_is_a_door(busy: PaperFront) -> None:
    made = telemetry(busy)
    assert made.stats()["connections"] == {}
    counts = {"open": 7, "half_open": 3, "most": 100, "dismissed": 12}
    made.connections = lambda: counts
    assert made.stats()["connections"] == counts
    found = samples(made)
    assert found["omnicall_http_connections", (("state", "half_open"),)] == 3
    assert found["omnicall_http_connections", (("state", "served"),)] == 4
    assert found["omnicall_http_connections_dismissed_total", ()] == 12


async def test_metrics_can_be_parsed_and_say_the_same(busy: PaperFront) -> None:
    found = samples(telemetry(busy))
    assert found[("omnicall_ready", ())] == 1
    assert found[("omnicall_calls", ())] == 3
    assert found[("omnicall_calls_placed_total", ())] == 4
    assert found[("omnicall_calls_ended_total", (("reason", "vanished"),))] == 1
    assert found[("omnicall_queue_length", ())] == 1
    assert found[("omnicall_engine_slots", (("state", "used"),))] == 2
    assert found[("omnicall_engine_slots", (("state", "free"),))] == 0
    one = (("engine", "engine-0"),)
    assert found[("omnicall_engine_capacity", one)] == 2
    assert found[("omnicall_engine_unit_p99_ms", one)] == 450.0
    assert found[("omnicall_engine_late_share", one)] == 0.02
    assert found[("omnicall_engine_dropped_ms_total", one)] == 4
    labels = (("engine", "engine-0"), ("quantile", "p95"), ("stage", "asr"))
    assert found[("omnicall_engine_stage_ms", labels)] == 20.0
    engine = (("process", "engine-0"),)
    assert found[("omnicall_process_resident_bytes", engine)] == 50_000_000
    assert found[("omnicall_process_cpu_seconds_total", engine)] == 1.23
    assert found[("omnicall_process_restarts_total", engine)] == 0
    assert found[("omnicall_open_calls_packetsReceived", ())] == 100
    assert found[("omnicall_open_calls_concealedSamples", ())] == 1920


async def test_every_metric_is_described(busy: PaperFront) -> None:
    text = telemetry(busy).exposition().decode()
    families = list(text_string_to_metric_families(text))
    assert len(families) >= 12
    for family in families:
        assert family.name.startswith("omnicall_") and family.documentation.endswith(".")
        assert family.type in ("counter", "gauge")


async def test_no_call_id_or_address_is_in_the_metrics(busy: PaperFront) -> None:
    text = telemetry(busy).exposition().decode()
    assert "rtc_" not in text and "192.0.2" not in text
