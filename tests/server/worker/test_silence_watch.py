"""Silence after an answer: the user's turn is over by time, and the assistant is asked again."""

from __future__ import annotations

from typing import Any

from engine.ipc import protocol as p
from server.worker.silence_watch import SilenceWatch
from tests.server.worker.talk import SESSION, Talk
from tests.server.worker.test_conversation import speak

SILENT = {"audio": {"input": {"turn_detection": {"type": "server_vad", "idle_timeout_ms": 6000}}}}


class Rig:
    def __init__(self, **settings: Any) -> None:
        self.talk = Talk(**settings)
        self.watch = SilenceWatch(self.talk.conversation, self.talk.commands, self.talk.clock)
        self.watch.look()

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.5)):
            self.talk.clock.now += 0.5
            self.watch.look()

    def answer(self, epoch: int = 1) -> None:
        self.talk.answer(epoch, {0: "Hello."}, 100)
        self.talk.play(200)

    @property
    def asked(self) -> int:
        return len(self.talk.sent(p.CreateResponse))


def test_silence_after_an_answer_is_a_turn_and_is_answered_once() -> None:
    rig = Rig(**SILENT)
    rig.talk.conversation.input_pts = 20 * p.INPUT_HZ
    rig.wait(20)
    assert rig.asked == 0, "nothing was answered yet"
    rig.answer()
    rig.talk.take_types()
    rig.wait(5.5)
    assert rig.talk.types == []
    rig.wait(20)
    assert rig.asked == 1
    assert rig.talk.types == [
        "input_audio_buffer.timeout_triggered",
        "input_audio_buffer.committed",
        "conversation.item.added",
        "conversation.item.done",
    ]
    told = rig.talk.events[0]
    assert (told["audio_start_ms"], told["audio_end_ms"]) == (14_000, 20_000)
    assert rig.talk.events[1]["item_id"] == told["item_id"]
    rig.answer(2)
    rig.wait(7)
    assert rig.asked == 2


def test_who_speaks_or_is_spoken_to_is_not_idle() -> None:
    rig = Rig(**SILENT)
    rig.answer()
    rig.wait(4)
    rig.talk.hear(p.SpeechStarted(SESSION, 1, 0))
    rig.wait(20)
    assert rig.asked == 0
    rig.talk.hear(p.SpeechStopped(SESSION, 1, 100))
    rig.talk.hear(p.ResponseStarted(SESSION, 2, "speech", 1))
    rig.wait(20)
    assert rig.asked == 0
    speak(rig.talk, 2)
    rig.wait(20)
    assert rig.asked == 0


def test_without_the_setting_nobody_is_asked() -> None:
    rig = Rig(audio={"input": {"turn_detection": {"type": "server_vad"}}})
    rig.answer()
    rig.wait(60)
    assert rig.asked == 0
