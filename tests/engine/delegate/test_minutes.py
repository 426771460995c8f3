"""What a text model is told of a conversation whose words come late, or are too many."""

from __future__ import annotations

from engine.delegate.minutes import Minutes
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
