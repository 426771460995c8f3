"""Speech from text: level, silence, words in time, voices, stopping, threads. Real espeak-ng."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import threading
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from engine.base import EngineError
from engine.builtin.clauses import Clause
from engine.builtin.interfaces import Speech
from engine.builtin.synthesiser import PEAK_LIMIT, Synthesiser
from tests.bench.behaviour.sounds import spoken


@pytest.fixture
async def voice() -> AsyncIterator[Synthesiser]:
    synthesiser = Synthesiser("en-us", 165)
    await synthesiser.start()
    yield synthesiser
    await synthesiser.close()


async def speak(voice: Synthesiser, text: str, name: str = "", speed: float = 1.0) -> Speech:
    return await voice.speak(Clause(text), name, speed)


@pytest.mark.parametrize("name", ["", "en-gb", "en-us+f3", "cmn", "de"])
async def test_speech_is_loud_enough_and_not_too_loud(voice: Synthesiser, name: str) -> None:
    speech = await speak(voice, "It is five past three, and 1,234 is a number.", name)
    peak = int(np.abs(speech.pcm.astype(int)).max())
    assert PEAK_LIMIT / 2.2 < peak <= PEAK_LIMIT
    assert 2.5 < len(speech.pcm) / 24_000 < 6


async def test_sound_begins_and_ends_without_waiting(voice: Synthesiser) -> None:
    pcm = (await speak(voice, "Hello.")).pcm.astype(int)
    loud = np.nonzero(np.abs(pcm) > 200)[0]
    assert loud[0] < 24 * 20
    assert len(pcm) - loud[-1] < 24 * 60


def types_alive() -> int:
    gc.collect()
    types = [found for found in gc.get_objects() if type(found) is type(ctypes.c_short * 1)]
    return len(types)


async def test_words_are_complete_and_in_time(voice: Synthesiser) -> None:
    text = "Count: 1,234 café “quoted” words! "
    speech = await speak(voice, text)
    assert "".join(word for _, word in speech.words) == text
    times = [at for at, _ in speech.words]
    assert times == sorted(times) and times[0] == 0
    assert len(set(times)) == len(times)
    assert times[-1] < len(speech.pcm)


async def test_speed_and_pause_change_the_length(voice: Synthesiser) -> None:
    text = "The quick brown fox jumps over the lazy dog"
    slow, fast = [len((await speak(voice, text, speed=speed)).pcm) for speed in (0.7, 1.8)]
    assert slow > 1.8 * fast
    paused = await voice.speak(Clause(text, pause_ms=500), "", 1.0)
    # The library speaks the same text a few samples longer or shorter each time.
    added = len(paused.pcm) - len((await speak(voice, text)).pcm)
    assert added == pytest.approx(12_000, abs=60)


async def test_speech_of_ever_new_lengths_leaves_no_types_behind(voice: Synthesiser) -> None:
    await speak(voice, "one")
    before = types_alive()
    for count in range(2, 7):
        await speak(voice, " ".join(["one"] * count))
    assert types_alive() == before


async def test_signs_alone_are_silent(voice: Synthesiser) -> None:
    speech = await speak(voice, " ... ")
    assert (len(speech.pcm), speech.words) == (0, ((0, " ... "),))


async def test_markup_is_shown_but_not_spoken(voice: Synthesiser) -> None:
    plain, marked = [await speak(voice, text) for text in ("very good", "**very** good")]
    assert "".join(word for _, word in marked.words) == "**very** good"
    assert len(marked.pcm) < 1.3 * len(plain.pcm)


@pytest.mark.parametrize(
    "name", ["alloy", "", "../../etc/passwd", "en-us+../x", "en us", "en-us\0"]
)
async def test_unknown_voices_are_refused(voice: Synthesiser, name: str) -> None:
    assert not voice.has_voice(name)
    assert voice.has_voice("en-us") and voice.has_voice("EN-GB+f3")


async def test_a_missing_default_voice_is_a_clear_error() -> None:
    synthesiser = Synthesiser("klingon", 165)
    with pytest.raises(EngineError, match="no voice 'klingon'"):
        await synthesiser.start()
    await synthesiser.close()


async def test_a_cancelled_clause_stops_within_a_chunk(voice: Synthesiser) -> None:
    long = asyncio.ensure_future(speak(voice, "word " * 20_000))
    await asyncio.sleep(0.05)
    long.cancel()
    begun = time.process_time()
    assert len((await speak(voice, "Hello.")).pcm) > 2_400
    # All of it would take more than half a minute of work.
    assert time.process_time() - begun < 5.0


async def test_two_synthesisers_on_two_threads_share_the_library(voice: Synthesiser) -> None:
    before = threading.active_count()
    other = Synthesiser("en-gb", 180)
    await other.start()
    texts = [f"Sentence number {index}." for index in range(60)]
    mine = asyncio.gather(*(speak(voice, text) for text in texts))
    theirs = asyncio.gather(*(speak(other, text, "en-us+f3") for text in texts))
    assert all(len(speech.pcm) for speech in [*await mine, *await theirs])
    await other.close()
    assert threading.active_count() < before + 20


async def test_nobody_else_who_speaks_silences_a_synthesiser(voice: Synthesiser) -> None:
    """Callers' voices are made by the same library, in the process of a bench or of these tests."""
    assert spoken("Hello there.", "en-gb").max() > 0
    assert len((await speak(voice, "Hello.")).pcm) > 24 * 200
    assert spoken("Hello there.", "en-us+f2").max() > 0
