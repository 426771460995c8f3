"""Modes that the operator switched off: not begun in, not changed to, and told of."""

from __future__ import annotations

from engine.ipc.session_config import Mode
from server.worker.offered_modes import within
from signaling.settings import SessionSettings
from tests.server.worker.talk import Talk


def detects(kind: str | None) -> dict[str, object]:
    return {"audio": {"input": {"turn_detection": kind and {"type": kind}}}}


def test_session_begins_in_the_first_mode_where_its_own_is_not_offered() -> None:
    modes: tuple[Mode, ...] = ("half_duplex", "turn_based")
    for wanted, got in (
        ("semantic_vad", "ServerVad"),
        ("server_vad", "ServerVad"),
        (None, "NoneType"),
    ):
        settings = within(SessionSettings().merge(detects(wanted)), modes)
        assert type(settings.audio.input.turn_detection).__name__ == got
    transcribing = SessionSettings().merge({"type": "transcription"})
    assert within(transcribing, ("full_duplex",)) == transcribing


def test_what_was_asked_for_and_is_not_offered_is_told_and_later_refused() -> None:
    talk = Talk(modes=("turn_based", "half_duplex"))
    talk.conversation.greet(talk.door)
    [created] = talk.of("session.created")
    assert created["session"]["audio"]["input"]["turn_detection"] is None
    [warning] = talk.of("session.warning")
    assert warning["code"] == "mode_not_offered" and "null (turn-based)" in warning["message"]
    talk.ask({"type": "session.update", "session": detects("semantic_vad")})
    [error] = talk.of("error")
    assert error["error"]["param"] == "session.audio.input.turn_detection"
    assert '"server_vad" (half duplex)' in error["error"]["message"]
    talk.ask({"type": "session.update", "session": detects("server_vad")})
    [updated] = talk.of("session.updated")
    assert updated["session"]["audio"]["input"]["turn_detection"]["type"] == "server_vad"
