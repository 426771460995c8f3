"""What sounds over an answer: the playout is told at once, the client when it is decided."""

from __future__ import annotations

import numpy as np
import pytest

from engine.ipc import protocol as p
from media.sentahead import SentAhead
from server.worker.engine_settings import engine_config
from signaling.settings import SessionSettings
from tests.server.worker.talk import SESSION, Talk


def peak(pcm: bytes | None) -> int:
    return 0 if pcm is None else int(np.abs(np.frombuffer(pcm, np.int16)).max())


def test_an_answer_is_turned_down_waits_and_goes_on_without_a_word_to_the_client() -> None:
    talk = Talk()
    talk.answer(1, {0: "Once upon a time."}, 1_000)
    talk.play(100)
    talk.take_types()
    talk.hear(p.OverlapTold(SESSION, "ducked", pts=32_000))
    talk.play(20)
    assert peak(talk.play(20)[0]) == 251
    talk.hear(p.OverlapTold(SESSION, "held", pts=32_000))
    talk.play(20)
    assert [peak(pcm) for pcm in talk.play(200)] == [0] * 10
    assert talk.events == []
    talk.hear(p.OverlapTold(SESSION, "full", "acknowledgement", 32_000, 420))
    talk.play(20)
    assert peak(talk.play(20)[0]) == 1000
    told = talk.one("metrics")["metrics"]
    assert told == {
        "overlap": "acknowledgement",
        "overlap_start_ms": 2_000,
        "overlap_decided_ms": 420,
    }
    talk.play(1_000)
    assert talk.one("response.done")["response"]["status"] == "completed"


def test_an_interruption_ends_the_answer_at_what_was_heard() -> None:
    talk = Talk()
    talk.answer(1, {0: "Once upon a time."}, 1_000)
    talk.play(100)
    talk.hear(p.OverlapTold(SESSION, "held", pts=32_000))
    talk.play(300)
    talk.hear(
        p.OverlapTold(SESSION, "", "interruption", 32_000, 600),
        p.SpeechStarted(SESSION, 2, 32_000),
        p.Interrupt(SESSION, 1),
    )
    assert talk.one("metrics")["metrics"]["overlap"] == "interruption"
    heard = talk.sent(p.Heard)[-1]
    assert heard.interrupted and heard.samples == 24 * 100
    talk.answer(2, {0: "Yes?"}, 100)
    assert peak(talk.play(20)[0]) == 1000


def test_over_a_websocket_the_engine_knows_that_nothing_can_wait() -> None:
    talk = Talk()
    assert talk.conversation.engine_config().turn_detection.can_hold
    talk.conversation.responses.use(
        SentAhead(listener=talk.conversation.responses), is_sent_ahead=True
    )
    assert not talk.conversation.engine_config().turn_detection.can_hold
    talk.hear(p.OverlapTold(SESSION, "held", pts=0))


@pytest.mark.parametrize("kind", ["semantic_vad", "server_vad"])
def test_settings_of_overlap_reach_the_engine(kind: str) -> None:
    def asked(**more: object) -> p.TurnDetection:
        given = {"audio": {"input": {"turn_detection": {"type": kind, **more}}}}
        return engine_config(SessionSettings().merge(given)).turn_detection

    assert (asked().overlap, asked().cut_words) == ("smart", p.CUT_WORDS)
    found = asked(overlap="hold", cut_words=["basta"])
    assert (found.overlap, found.cut_words) == ("hold", ("basta",))
    assert asked(cut_words=[]).cut_words == ()
