"""A client that is away: for how long it is awaited, who gets its slot, and where it goes on."""

from __future__ import annotations

import pytest

from engine.ipc import protocol as p
from media.playout import Playout
from server.worker.absence import LEFT_S, Absence
from server.worker.keeping import Keeping
from tests.server.worker.talk import SESSION, samples, sound
from tests.server.worker.test_pause import PausingTalk


class LosableTalk(PausingTalk):
    """A conversation whose client may be away for 30 s, and for 10 s while others wait."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[str] = []
        self.told: list[float | None] = []
        self.absence = Absence(
            30.0,
            10.0,
            self.pause,
            give_up=self.ended.append,
            told=self.told.append,
            clock=self.clock,
        )

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            super().wait(1)
            self.absence.look()


def test_client_is_awaited_for_the_grace_time_and_then_given_up() -> None:
    talk = LosableTalk()
    talk.absence.begin("vanished")
    talk.wait(29)
    assert talk.ended == [] and talk.asked == [] and talk.told == [30.0]
    talk.wait(1)
    assert talk.ended == ["vanished"]


def test_client_that_comes_back_keeps_everything_and_the_next_absence_is_like_the_first() -> None:
    talk = LosableTalk()
    for _ in range(2):
        talk.absence.begin("vanished")
        talk.wait(25)
        talk.absence.end()
    talk.wait(100)
    assert talk.ended == [] and talk.asked == [] and talk.told == [30.0, None, 30.0, None]


def test_client_that_closed_its_connection_is_awaited_for_less_time() -> None:
    talk = LosableTalk()
    talk.absence.begin("vanished")
    talk.wait(3)
    talk.absence.begin("closed", LEFT_S)
    talk.wait(LEFT_S - 1)
    assert talk.ended == []
    talk.wait(1)
    assert talk.ended == ["closed"] and talk.told == [30.0, LEFT_S]


@pytest.mark.parametrize(("hurried_at_s", "given_at_s"), [(2, 10), (15, 15)])
def test_others_who_wait_get_the_slot_and_who_comes_back_asks_for_one(
    hurried_at_s: int, given_at_s: int
) -> None:
    talk = LosableTalk()
    talk.absence.begin("vanished")
    talk.wait(hurried_at_s)
    talk.absence.hurry()
    talk.wait(max(0, given_at_s - 1 - hurried_at_s))
    assert talk.asked == (["given"] if hurried_at_s >= given_at_s else [])
    talk.wait(given_at_s - hurried_at_s and 1)
    assert talk.asked == ["given"] and talk.ended == []
    talk.wait(3)
    talk.absence.end()
    assert talk.asked == ["given", "asked"]
    talk.pause.served()
    assert talk.one("session.resumed")["kept"] == "words"


def test_who_paused_before_still_pauses_after_it() -> None:
    talk = LosableTalk()
    talk.ask({"type": "session.pause"})
    talk.absence.begin("vanished")
    talk.absence.hurry()
    talk.wait(12)
    assert talk.asked == ["given"]
    talk.absence.end()
    assert talk.asked == ["given"] and talk.pause.is_on
    talk.ask({"type": "session.resume"})
    assert talk.asked == ["given", "asked"]


# ---------------------------------------------------------------- where it goes on


class Ear:
    """A playout's listener that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []

    def started(self, epoch: int) -> None:
        self.told.append(("started", epoch))

    def progressed(self, epoch: int, samples: int) -> None:
        return

    def drained(self, epoch: int) -> None:
        self.told.append(("drained", epoch))


def played(playout: Playout, ms: int) -> list[int]:
    """The middle sample of each packet; 0 for silence."""
    taken = [playout.take() for _ in range(ms // 20)]
    return [0 if pcm is None else int.from_bytes(pcm[480:482], "little") for pcm in taken]


def numbered(first: int, count: int) -> bytes:
    return b"".join(sound(20, 1000 + number) for number in range(first, first + count))


def test_what_was_in_doubt_is_played_again_and_nothing_while_nobody_hears() -> None:
    ear = Ear()
    playout = Playout(listener=ear)
    playout.push(1, numbered(0, 3))
    playout.push(2, numbered(3, 7))
    assert played(playout, 40) == [1000, 1001]
    playout.doubt()
    assert played(playout, 60) == [1002, 1003, 1004]
    playout.strand()
    assert played(playout, 100) == [0] * 5
    assert (playout.heard(1), playout.heard(2)) == (samples(40), 0)
    playout.go_on()
    assert played(playout, 180) == [*range(1002, 1010), 0]
    assert (playout.heard(1), playout.heard(2)) == (samples(60), samples(140))
    assert playout.taken_samples == samples(200)


def test_what_is_trusted_again_is_not_repeated_and_what_was_cut_never() -> None:
    playout = Playout(listener=Ear())
    playout.push(1, numbered(0, 10))
    playout.doubt()
    played(playout, 40)
    playout.trust()
    played(playout, 20)
    playout.strand()
    playout.go_on()
    assert played(playout, 20) == [1003]
    playout.doubt()
    played(playout, 20)
    playout.clear()
    playout.strand()
    playout.go_on()
    assert played(playout, 60) == [0] * 3


def test_answer_that_nobody_came_back_for_is_cut_where_it_was_heard() -> None:
    talk = LosableTalk()
    talk.answer(1, {0: "One. ", 1000: "Two. ", 2000: "Three."}, 3000)
    talk.play(500)
    talk.playout.doubt()
    talk.play(2000)
    talk.playout.strand()
    talk.conversation.responses.strand()
    heard = talk.sent(p.Heard)[-1]
    assert heard == p.Heard(SESSION, 1, samples(500), final=True, interrupted=True)


def test_who_comes_back_is_told_what_stands_and_what_is_being_said() -> None:
    talk = LosableTalk()
    talk.ask({"type": "conversation.item.create", "item": item("Hello.")})
    talk.answer(1, {0: "One. ", 1000: "Two."}, 2000)
    talk.play(500)
    talk.events.clear()
    talk.conversation.retell(talk.door)
    told = talk.one("session.continued")["items"]
    assert [(i["role"], words(i)) for i in told] == [("user", "Hello."), ("assistant", "One. ")]
    assert talk.types[1:] == [
        "response.created",
        "rate_limits.updated",
        "response.output_item.added",
        "conversation.item.added",
        "response.content_part.added",
        "output_audio_buffer.started",
    ]
    talk.play(2000)
    assert talk.one("response.done")["response"]["status"] == "completed"


def item(text: str) -> dict[str, object]:
    content = [{"type": "input_text", "text": text}]
    return {"type": "message", "role": "user", "content": content}


def words(told: dict[str, list[dict[str, str]]]) -> str:
    return "".join(part.get("text") or part.get("transcript") or "" for part in told["content"])


def test_what_another_worker_needs_is_told_when_there_is_news() -> None:
    talk = LosableTalk()
    keeping = Keeping(talk.conversation)
    assert keeping.news() is not None and keeping.news() is None
    talk.ask({"type": "conversation.item.create", "item": item("Hello.")})
    news = keeping.news()
    assert news is not None and len(news.items) == 1 and keeping.news() is None
    other = LosableTalk()
    other.conversation.restore(news.items)
    assert other.conversation.standing() == news.items
    assert "User: Hello." in other.conversation.recalled


def test_only_the_newest_of_a_long_conversation_is_kept() -> None:
    talk = LosableTalk()
    for number in range(100):
        talk.ask({"type": "conversation.item.create", "item": item(f"{number} " + "x" * 1000)})
    kept = talk.conversation.standing()
    assert 20 <= len(kept) <= 24 and kept[-1].id == talk.conversation.items.last_id
