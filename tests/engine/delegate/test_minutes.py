"""What a text model is told of a conversation whose words come late, or are too many."""

from __future__ import annotations

from engine.delegate.minutes import MAX_OPEN, Minutes
from engine.ipc import protocol as p

SESSION = "s"


def wrote(minutes: Minutes, utterance: int, text: str) -> None:
    minutes.written_down(p.InputTranscript(SESSION, utterance, text, final=True))


def texts(minutes: Minutes) -> list[tuple[str, str]]:
    return [(item.role, item.text) for item in minutes.task().items]


async def test_a_long_output_leaves_the_question_and_its_call() -> None:
    minutes = Minutes()
    minutes.speech_began(1)
    wrote(minutes, 1, "What is new?")
    minutes.called("i", "c", "look", "{}")
    assert minutes.gave_back(p.FunctionOutputIn(SESSION, "o", "c", "x" * 30_000))
    told = texts(minutes)
    assert told[:2] == [("user", "What is new?"), ("call", "{}")]
    assert told[2][0] == "output" and len(told[2][1]) == 12_000


async def test_words_that_come_late_stand_where_they_were_said() -> None:
    minutes = Minutes()
    minutes.speech_began(1)
    await minutes.settled(0)
    minutes.said(1, 0, "Let me check.")
    minutes.speech_began(2)
    wrote(minutes, 2, "Hello?")
    # What nobody waits for holds nothing up.
    await minutes.settled(1e9)
    wrote(minutes, 1, "What is new?")
    assert texts(minutes) == [
        ("user", "What is new?"),
        ("assistant", "Let me check."),
        ("user", "Hello?"),
    ]


async def test_places_are_kept_of_the_newest_utterances_without_words() -> None:
    minutes = Minutes()
    for utterance in range(3 * MAX_OPEN):
        minutes.speech_began(utterance)
    minutes.said(1, 0, "Yes.")
    wrote(minutes, MAX_OPEN, "first of the late")
    wrote(minutes, MAX_OPEN - 1, "too late")
    told = [text for _, text in texts(minutes) if text]
    assert told == ["first of the late", "Yes.", "too late"]
