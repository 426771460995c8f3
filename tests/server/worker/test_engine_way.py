"""The way to an engine that does not keep up: what has happened is told later, in its order."""

from __future__ import annotations

from engine.ipc import protocol as p
from server.worker.engine_way import MAX_OWED, EngineWay

SESSION = "rtc_test"
FINAL = p.Heard(SESSION, 1, 480, final=True, interrupted=True)
CANCEL = p.CancelResponse(SESSION, 1)


class Line:
    """Takes messages while `keeps_up`."""

    def __init__(self) -> None:
        self.keeps_up = True
        self.taken: list[p.Message] = []

    def send(self, message: p.Message) -> bool:
        if self.keeps_up:
            self.taken.append(message)
        return self.keeps_up


def update(mode: p.Mode) -> p.UpdateSession:
    return p.UpdateSession(SESSION, p.SessionConfig(mode=mode))


def test_without_an_engine_nobody_is_told() -> None:
    way = EngineWay()
    assert not way.send(update("turn_based"))
    line = Line()
    way.open(line)
    assert way.send(CANCEL) and line.taken == [CANCEL]
    way.close()
    assert not way.send(CANCEL) and line.taken == [CANCEL]


def test_settings_and_what_was_heard_and_cut_reach_an_engine_that_stood_still() -> None:
    way, line = EngineWay(), Line()
    way.open(line)
    line.keeps_up = False
    owed = [update("turn_based"), CANCEL, FINAL, update("half_duplex")]
    assert all(map(way.send, owed))
    assert not way.catch_up() and line.taken == []
    line.keeps_up = True
    assert way.catch_up() and line.taken == owed
    assert way.catch_up() and line.taken == owed


def test_what_is_asked_for_is_refused_and_never_overtakes_what_is_owed() -> None:
    way, line = EngineWay(), Line()
    way.open(line)
    line.keeps_up = False
    asked = p.CreateResponse(SESSION)
    assert way.send(CANCEL) and not way.send(asked)
    line.keeps_up = True
    assert way.send(asked) and line.taken == [CANCEL, asked]


def test_what_is_owed_is_bounded() -> None:
    way, line = EngineWay(), Line()
    way.open(line)
    line.keeps_up = False
    for samples in range(2 * MAX_OWED):
        way.send(p.Heard(SESSION, 1, samples))
    line.keeps_up = True
    way.catch_up()
    assert len(line.taken) == MAX_OWED and line.taken[-1] == p.Heard(SESSION, 1, 2 * MAX_OWED - 1)


def test_numbers_of_a_later_line_are_none_of_an_earlier_one() -> None:
    way, sent = EngineWay(), list[p.Message]()
    way.open(Taking(sent))
    started = p.ResponseStarted("s", 1, "speech", 2)
    assert way.numbered(started) == started
    way.close()
    way.open(Taking(sent))
    again = way.numbered(started)
    assert isinstance(again, p.ResponseStarted)
    assert again.epoch != 1 and again.utterance != 2
    assert way.numbered(p.SpeechStarted("s", 2, 0)) == p.SpeechStarted("s", again.utterance, 0)
    asked = p.ResponseStarted("s", 1, "request")
    assert way.numbered(asked) == p.ResponseStarted("s", again.epoch, "request"), "no utterance"
    assert way.send(p.Heard("s", 1, 10)) and sent == [], "of the earlier line"
    assert way.send(p.CancelResponse("s", again.epoch))
    assert sent == [p.CancelResponse("s", 1)]


class Taking:
    """An open line."""

    def __init__(self, sent: list[p.Message]) -> None:
        self._sent = sent

    def send(self, message: p.Message) -> bool:
        self._sent.append(message)
        return True
