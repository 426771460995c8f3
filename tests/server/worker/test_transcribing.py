"""Sessions that only write down what is said: their settings, what they tell, what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
from openai.types.realtime import RealtimeTranscriptionSessionCreateRequest

from engine.ipc import protocol as p
from server.worker.in_force import check_served
from signaling.errors import ProtocolError
from signaling.session.core import Abilities
from signaling.settings import SessionSettings
from tests.server.worker.talk import SESSION, Talk

WRITES = Abilities(transcribes=True, languages=("en",))


def transcribing(**more: Any) -> Talk:
    talk = Talk(type="transcription", **more)
    talk.conversation.abilities = WRITES
    return talk


def test_only_what_is_heard_is_shown_and_turns_are_found() -> None:
    talk = transcribing()
    talk.conversation.greet(talk.door)
    shown = talk.one("session.created")["session"]
    assert shown["object"] == "realtime.transcription_session"
    assert set(shown["audio"]) == {"input"} and "instructions" not in shown
    assert shown["audio"]["input"]["turn_detection"]["type"] == "server_vad"
    RealtimeTranscriptionSessionCreateRequest.model_validate(shown, strict=True)


def test_nothing_is_answered() -> None:
    talk = transcribing()
    talk.ask({"type": "session.update", "session": {"audio": {"input": {}}}})
    turns = talk.sent(p.UpdateSession)[-1].config.turn_detection
    assert not turns.create_response and not turns.interrupt_response
    talk.ask({"type": "response.create", "event_id": "e1"})
    error = talk.one("error")["error"]
    assert (error["code"], error["event_id"]) == ("unsupported_event", "e1")
    assert talk.sent(p.CreateResponse) == []


def test_turn_is_committed_becomes_an_item_and_is_written_down() -> None:
    talk = transcribing()
    talk.hear(
        p.SpeechStarted(SESSION, 1, 0),
        p.InputTranscript(SESSION, 1, "what", final=False),
        p.SpeechStopped(SESSION, 1, 16_000),
        p.InputTranscript(SESSION, 1, "what time", final=True),
    )
    assert [kind.rpartition("buffer.")[2] for kind in talk.types] == [
        "speech_started",
        "conversation.item.input_audio_transcription.delta",
        "speech_stopped",
        "committed",
        "conversation.item.added",
        "conversation.item.done",
        "conversation.item.input_audio_transcription.completed",
    ]


@pytest.mark.parametrize(
    "given",
    [
        {"instructions": "Be kind."},
        {"audio": {"output": {"voice": "marin"}}},
        {"tools": []},
        {"type": "realtime"},
    ],
    ids=str,
)
def test_what_belongs_to_answers_is_refused_by_name(given: dict[str, Any]) -> None:
    talk = transcribing()
    talk.ask({"type": "session.update", "session": given})
    [name] = given
    assert talk.one("error")["error"]["param"].startswith(f"session.{name}")
    assert talk.types == ["error"] and talk.to_engine == []


def test_session_that_answers_does_not_become_one_that_does_not() -> None:
    talk = Talk()
    talk.ask({"type": "session.update", "session": {"type": "transcription"}})
    assert talk.one("error")["error"]["param"] == "session.type"


def test_engine_that_writes_nothing_down_cannot_serve_it() -> None:
    settings = SessionSettings().merge({"type": "transcription"})
    with pytest.raises(ProtocolError) as refused:
        check_served(settings, Abilities())
    assert refused.value.param == "session.type"
    check_served(settings, WRITES)
    check_served(SessionSettings(), Abilities())
