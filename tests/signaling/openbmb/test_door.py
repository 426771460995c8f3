"""A session as clients of openbmb-realtime see it: order of messages, units, answers, the end."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from signaling.errors import ProtocolError
from signaling.openbmb.door import OpenBmbDoor
from signaling.session import events as ev
from signaling.session.core import Abilities
from signaling.settings import SessionSettings, Video
from tests.signaling.live.rig import NotedCore

NATIVE = Abilities(hears_in_units=True, sees=True)
SOUND = base64.b64encode(bytes(64)).decode()


class NotedPort:
    """Takes sound of whole float32 samples that are not all ones."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.pictures: list[bytes] = []

    def append(self, data: bytes) -> None:
        if data == b"\xff" * len(data):
            raise ValueError("some samples are no numbers")
        self.taken.append(data)

    def flush(self) -> None: ...

    def drop(self) -> None: ...

    def see(self, file: bytes) -> None:
        self.pictures.append(file)

    def encode(self, pcm: bytes) -> bytes:
        return b"encoded " + pcm


class Rig:
    """A door, what it sends, and what it asks for."""

    def __init__(self, abilities: Abilities = NATIVE, *, video: bool = True) -> None:
        self.core = NotedCore(abilities)
        self.core.settings = SessionSettings(video=Video(enabled=video))
        self.port = NotedPort()
        self.sent: list[dict[str, Any]] = []
        self.door = OpenBmbDoor(self.core, self._take, port=self.port)

    def _take(self, text: str) -> None:
        self.sent.append(json.loads(text))

    def ask(self, kind: str, **members: Any) -> None:
        self.door.receive(json.dumps({"type": kind, **members}))

    def append(self, **members: Any) -> None:
        self.ask("input.append", input={"audio": SOUND, **members})

    def ready(self) -> None:
        settings = self.core.settings
        self.door.tell(ev.SessionReady(session_id="s1", settings=settings, expires_at=None))

    def begin(self, **payload: Any) -> Rig:
        self.ready()
        self.ask("session.init", payload=payload)
        self.take()
        return self

    def unit(self, decision: Any) -> None:
        self.door.tell(ev.Figures(figures={}, decision=decision))

    def answer(self, *, tokens: tuple[int, int] = (0, 0), **more: Any) -> None:
        """An answer of a word with sound, whole."""
        self.door.tell(ev.ResponseBegan(response=info(**more)))
        self.word("Hello.")
        self.sound(b"pcm")
        self.end(tokens=tokens)

    def word(self, text: str) -> None:
        place: Any = {"response_id": "r1", "item_id": "i1", "index": 0}
        self.door.tell(ev.WordsReleased(**place, modality="audio", text=text, start=0, end=0))

    def sound(self, pcm: bytes) -> None:
        place: Any = {"response_id": "r1", "item_id": "i1", "index": 0}
        self.door.tell(ev.SpeechReleased(**place, start=0, pcm=pcm))

    def end(self, *, tokens: tuple[int, int] = (0, 0)) -> None:
        usage = ev.Usage(input_tokens=tokens[0], output_tokens=tokens[1])
        self.door.tell(ev.ResponseEnded(response=info(usage=usage)))

    def take(self) -> list[dict[str, Any]]:
        sent, self.sent = self.sent, []
        return sent

    @property
    def types(self) -> list[str]:
        return [message["type"] for message in self.take()]


def info(**more: Any) -> ev.ResponseInfo:
    return ev.ResponseInfo(id="r1", modality="audio", status="in_progress", **more)


# ------------------------------------------------------------------ the start


def test_a_session_waits_is_initialised_and_created() -> None:
    rig = Rig()
    rig.door.tell(ev.QueueMoved(position=2, eta_s=30.0))
    rig.door.tell(ev.QueueMoved(position=1, eta_s=None))
    assert rig.take() == [
        {"type": "session.queued", "position": 2, "estimated_wait_s": 30.0},
        {"type": "session.queue_update", "position": 1},
    ]
    rig.ready()
    rig.ready()
    assert rig.take() == [{"type": "session.queue_done"}]
    config = {"temperature": 0.7, "length_penalty": 1.2, "tts_enabled": False}
    rig.ask("session.init", payload={"system_prompt": "Be brief.", "config": config})
    assert rig.take() == [{"type": "session.created", "session_id": "live_1"}]
    assert rig.core.asked == [
        (
            "update",
            {
                "instructions": "Be brief.",
                "output_modalities": ["text"],
                "engine": {"temperature": 0.7, "length_penalty": 1.2},
            },
        )
    ]
    SessionSettings().merge(rig.core.asked[0][1])


def test_init_before_its_turn_counts_when_the_turn_comes() -> None:
    rig = Rig()
    rig.ask("session.update", session={"instructions": "Be brief.", "max_slice_nums": 2})
    assert rig.types == [] and rig.core.asked == []
    rig.ready()
    assert rig.types == ["session.queue_done", "session.created"]
    assert rig.core.asked[0][1] == {"instructions": "Be brief.", "video": {"detail": "high"}}


def test_what_has_no_effect_is_told_and_ends_nothing() -> None:
    rig = Rig()
    rig.ready()
    voice = {"ref_audio_base64": "AAAA", "tts_ref_audio_base64": "AAAA"}
    config = {"max_tokens": 20, "max_kv_tokens": 8000}
    rig.ask("session.init", payload={"config": config, "voice": voice, "max_slice_nums": 9})
    told = rig.take()[2:]
    assert {message["type"] for message in told} == {"session.warning"} and len(told) == 5
    rig.ask("session.init", payload={})
    rig.ask("input.commit")
    assert [message["code"] for message in rig.take()] == ["already_initialised", "unknown_event"]
    assert all(asked[0] == "update" for asked in rig.core.asked)


def test_video_is_refused_at_the_start_where_nothing_is_seen() -> None:
    rig = Rig(Abilities())
    rig.ready()
    [error] = rig.take()
    assert error["error"]["code"] == "video_unsupported" and "audio" in error["error"]["message"]
    assert rig.core.asked == [("hang up", "bad_input")]
    blind = Rig(Abilities(), video=False)
    blind.ready()
    assert blind.types == ["session.queue_done"]


# ------------------------------------------------------------------ sound and pictures


def test_sound_and_the_last_picture_go_to_the_engine_once_the_session_is_created() -> None:
    rig = Rig()
    rig.append()
    rig.append()
    assert [message["code"] for message in rig.take()] == ["not_ready"] and rig.port.taken == []
    rig.begin()
    frames = [base64.b64encode(file).decode() for file in (b"first", b"last")]
    rig.append(video_frames=frames)
    rig.ask("input_audio_buffer.append", audio=SOUND)
    assert rig.port.taken == [bytes(64)] * 2 and rig.port.pictures == [b"last"]
    heard = Rig(video=False).begin()
    heard.append(video_frames=frames)
    assert heard.port.pictures == [], "a session of mode audio looks at nothing"


@pytest.mark.parametrize("audio", ["////", "no base64!", "A" * 853_336])
def test_sound_that_is_none_ends_the_session_with_its_reason(audio: str) -> None:
    rig = Rig().begin()
    rig.ask("input.append", input={"audio": audio})
    [error] = rig.take()
    assert "input.audio" in error["error"]["message"] and rig.port.taken == []
    assert rig.core.asked == [("hang up", "bad_input")]
    rig.append()
    rig.unit("listen")
    assert rig.port.taken == [] and rig.sent == [], "nothing counts after an error"


def test_forced_listening_cuts_the_answer_and_lasts_for_one_unit() -> None:
    rig = Rig().begin()
    rig.append(force_listen=True)
    assert rig.core.asked == [("clear",), ("listen", True)] and len(rig.port.taken) == 1
    rig.unit("speak")
    assert rig.core.asked[2:] == [], "that unit had begun before"
    rig.unit("listen")
    rig.unit("listen")
    assert rig.core.asked[2:] == [("listen", False)]
    cascade = Rig(Abilities(sees=True)).begin()
    cascade.append(force_listen=True)
    assert cascade.core.asked == [("clear",), ("listen", True), ("listen", False)]


# ------------------------------------------------------------------ answers


def test_each_unit_that_listens_is_told_unless_an_answer_is_still_being_sent() -> None:
    rig = Rig().begin()
    rig.unit("listen")
    rig.unit("speak")
    assert rig.take() == [{"type": "response.listen"}]
    rig.door.tell(ev.ResponseBegan(response=info()))
    rig.word("Hi.")
    rig.unit("listen")
    rig.sound(b"pcm")
    rig.end(tokens=(11, 7))
    rig.unit("listen")
    sound = base64.b64encode(b"encoded pcm").decode()
    usage = {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}
    assert rig.take() == [
        {"type": "response.output_text.delta", "text": "Hi.", "end_of_turn": False},
        {"type": "response.output_audio.delta", "audio": sound},
        {"type": "response.output_text.delta", "text": "", "end_of_turn": True},
        {"type": "response.listen", "usage": usage},
        {"type": "response.listen", "usage": usage},
    ]


def test_engine_without_units_listens_after_each_answer_and_usage_is_of_the_session() -> None:
    rig = Rig(Abilities(sees=True)).begin()
    rig.unit("listen")
    assert rig.sent == []
    rig.answer(tokens=(10, 5))
    rig.answer(tokens=(20, 5))
    listens = [message for message in rig.take() if message["type"] == "response.listen"]
    assert [message["usage"]["total_tokens"] for message in listens] == [15, 40]


def test_usage_tells_sound_and_pictures_apart_where_the_engine_does() -> None:
    rig = Rig().begin()
    read = ev.TokenShares(text=2, audio=30, image=64)
    for written in (ev.TokenShares(text=3, audio=25), ev.TokenShares(text=4)):
        usage = ev.Usage(
            input_tokens=96, output_tokens=28, input_shares=read, output_shares=written
        )
        rig.door.tell(ev.ResponseEnded(response=info(usage=usage)))
    rig.unit("listen")
    [listen] = rig.take()
    assert listen["usage"] == {
        "input_tokens": 192,
        "output_tokens": 56,
        "total_tokens": 248,
        "input_tokens_details": {"audio_tokens": 60, "vision_tokens": 128},
        "output_tokens_details": {"audio_tokens": 25},
    }


def test_responses_out_of_band_and_those_without_a_word_are_no_answers() -> None:
    rig = Rig().begin()
    rig.answer(is_out_of_band=True)
    rig.door.tell(ev.ResponseBegan(response=info()))
    rig.end()
    assert rig.sent == []


def test_what_the_user_said_is_told() -> None:
    rig = Rig().begin()
    said: Any = {"item_id": "i", "grown": "", "start_ms": 0, "end_ms": 1}
    rig.door.tell(ev.TranscriptCompleted(text="what time is it", **said))
    rig.door.tell(ev.TranscriptCompleted(text="", **said))
    assert [message["transcript"] for message in rig.take()] == ["what time is it"]


# ------------------------------------------------------------------ the end


@pytest.mark.parametrize(
    ("reason", "is_failure", "told"),
    [
        ("hangup", False, "stopped"),
        ("goodbye", False, "stopped"),
        ("max_duration", False, "timeout"),
        ("context_limit", False, "context_full"),
        ("server_shutdown", False, "server_shutdown"),
        ("engine_gone", True, "error"),
    ],
)
def test_the_end_has_a_reason_and_a_failure_an_error(
    reason: str, is_failure: bool, told: str
) -> None:
    rig = Rig().begin()
    rig.door.tell(ev.SessionOver(reason=reason, message="So it is.", is_failure=is_failure))
    *errors, closed = rig.take()
    assert closed == {"type": "session.closed", "reason": told, "message": "So it is."}
    assert [error["error"]["code"] for error in errors] == ([reason] if is_failure else [])


def test_client_closes_and_hears_of_warnings_and_late_refusals() -> None:
    rig = Rig().begin()
    rig.door.tell(ev.Notice(code="call_ends_soon", message="Soon."))
    rig.door.tell(ev.Refusal(error=ProtocolError("Not so.", code="overloaded")))
    assert [message["code"] for message in rig.take()] == ["call_ends_soon", "overloaded"]
    rig.ask("session.close", reason="user_stop")
    rig.word("late")
    assert rig.core.asked == [("hang up", "hangup")] and rig.sent == []
