"""A call in which nothing is said: it is warned once, and ends; whatever is said counts."""

from __future__ import annotations

import pytest

from engine.ipc import protocol as p
from server.worker.idle_limit import IdleLimit
from tests.server.worker.talk import SESSION, Talk


class IdleTalk(Talk):
    def __init__(self, limit_s: float) -> None:
        super().__init__()
        self.ended: list[str] = []
        self.idle = IdleLimit(limit_s, self.conversation, self.ended.append, self.clock)

    def wait(self, seconds: int) -> None:
        for _ in range(seconds):
            self.idle.look()
            self.clock.now += 1
        self.idle.look()

    def warned(self) -> int:
        return len([e for e in self.of("session.warning") if e["code"] == "call_idle"])


@pytest.mark.parametrize(("limit_s", "announced_s"), [(120, 30), (40, 10)])
def test_idle_call_is_warned_once_before_it_ends(limit_s: int, announced_s: int) -> None:
    talk = IdleTalk(limit_s)
    talk.wait(limit_s - announced_s - 1)
    assert talk.warned() == 0
    talk.wait(announced_s)
    assert talk.warned() == 1 and talk.ended == []
    talk.wait(1)
    assert talk.ended == ["idle"]


def test_whoever_speaks_writes_or_listens_is_not_idle() -> None:
    talk = IdleTalk(60)
    talk.wait(50)
    talk.hear(p.SpeechStarted(SESSION, 0, 1))
    talk.wait(100)
    talk.hear(p.SpeechStopped(SESSION, 16_000, 1))
    talk.wait(50)
    talk.ask({"type": "conversation.item.create", "item": {"type": "message", "role": "user"}})
    talk.answer(1, {0: "Well."}, 1000)
    talk.wait(100)
    assert talk.ended == []
    talk.play(1100)
    talk.wait(59)
    assert talk.ended == []
    talk.wait(1)
    assert talk.ended == ["idle"]


def test_rest_is_no_silence_however_long() -> None:
    talk = IdleTalk(60)
    talk.wait(40)
    for _ in range(1000):
        talk.clock.now += 1
        talk.idle.rest()
    talk.wait(59)
    assert talk.ended == [] and talk.warned() == 1
    talk.wait(1)
    assert talk.ended == ["idle"]


def test_there_need_be_no_limit() -> None:
    talk = IdleTalk(0)
    talk.wait(5000)
    assert talk.ended == [] and talk.warned() == 0
