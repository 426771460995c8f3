"""What a recording says: its utterances in order and where they are; and why there are none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.builtin.interfaces import Transcript
from engine.builtin.recordings import NO_SPEECH, NOT_UNDERSTOOD, hear
from tests.engine.builtin.rig import hiss, speech


class Utterances:
    """A recogniser that says what the test wants of each utterance, in order."""

    def __init__(self, *transcripts: Transcript) -> None:
        self.transcripts = list(transcripts)
        self.fed: list[int] = []
        self.is_owed = False

    def listen(self, on_partial: Callable[[str], None], language: str = "") -> Utterances:
        self.fed.append(0)
        return self

    def feed(self, pcm: bytes) -> None:
        self.fed[-1] += len(pcm)

    async def finish(self) -> Transcript:
        return self.transcripts.pop(0)

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abandon(self) -> None: ...


def recording(*pieces: bytes) -> NDArray[np.float32]:
    samples = np.frombuffer(b"".join(pieces), np.int16)
    return samples.astype(np.float32) / np.float32(32_768)


TWO = recording(hiss(500), speech("hello"), hiss(2_000), speech("who"), hiss(500))


async def test_utterances_are_told_in_order_with_their_times() -> None:
    recogniser = Utterances(Transcript("hello"), Transcript("who are you"))
    heard = await hear(TWO, recogniser)
    assert heard.text == "hello who are you" and heard.error == ""
    one, two = heard.segments
    assert 400 < one.start_ms < one.end_ms < two.start_ms < two.end_ms <= len(TWO) // 16
    assert two.start_ms - one.end_ms > 1_200
    assert len(recogniser.fed) == 2 and min(recogniser.fed) > 10_000


async def test_what_was_not_understood_costs_only_itself() -> None:
    heard = await hear(TWO, Utterances(Transcript("", error="a bad line"), Transcript("who")))
    assert heard.text == "who" and heard.error == ""


@pytest.mark.parametrize(
    ("sound", "transcripts", "error"),
    [
        (recording(hiss(1_000)), (), NO_SPEECH),
        (recording(), (), NO_SPEECH),
        (TWO, (Transcript(""), Transcript("")), NOT_UNDERSTOOD),
        (TWO, (Transcript(""), Transcript("", error="a bad line")), "a bad line"),
    ],
)
async def test_why_there_are_no_words_is_told(
    sound: NDArray[np.float32], transcripts: tuple[Transcript, ...], error: str
) -> None:
    heard = await hear(sound, Utterances(*transcripts))
    assert (heard.segments, heard.error) == ((), error)
