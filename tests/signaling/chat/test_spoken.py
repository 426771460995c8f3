"""Words of spoken answers: kept for an hour, and not without bounds."""

from signaling.chat import spoken
from signaling.chat.spoken import KEPT_S, SpokenAnswers
from tests.waiting import Clock


def test_words_are_kept_for_an_hour() -> None:
    clock = Clock()
    answers = SpokenAnswers(clock)
    answers.keep("a", "hello")
    assert answers.recall("a") == "hello" and answers.recall("b") is None
    clock.now += KEPT_S
    assert answers.recall("a") is None


def test_oldest_go_first() -> None:
    answers = SpokenAnswers()
    for n in range(spoken.MAX_KEPT + 1):
        answers.keep(str(n), "x")
    assert answers.recall("0") is None and answers.recall("1") == "x"
    answers.keep("long", "x" * spoken.MAX_KEPT_CHARS)
    assert answers.recall(str(spoken.MAX_KEPT)) is None and answers.recall("long") is not None
