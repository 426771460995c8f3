"""When a Whisper recogniser is asked, and which answer counts. Virtual time, no model."""

from __future__ import annotations

import asyncio

import pytest

from engine.builtin.recogniser import RecogniserPool
from engine.builtin.utterance import MAX_BYTES
from engine.builtin.whisper_recogniser import (
    AGAIN_BYTES,
    WhisperRecogniser,
    WhisperUtterance,
)
from tests.engine.builtin.fake_recognisers import CPU_PER_S, Machine
from tests.engine.builtin.test_overload import CORES, now, play, started

SECOND = 32_000


class Asking:
    """A pool of recognisers that only take time, and what they were asked."""

    def __init__(self, machine: Machine, pool: RecogniserPool) -> None:
        self.partials: list[str] = []
        self.begun = machine.begun
        self.pool = pool

    def listen(self, language: str = "") -> WhisperUtterance:
        return WhisperRecogniser(self.pool).listen(self.partials.append, language)


async def scene(machine: Machine) -> Asking:
    return Asking(machine, await started(machine, per_core=1))


def test_the_pause_at_the_end_is_when_the_words_are_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(machine: Machine) -> None:
        at = await scene(machine)
        words = at.listen("en-US")
        words.feed(bytes(SECOND))
        words.pause()
        words.feed(bytes(SECOND // 5))
        await asyncio.sleep(CPU_PER_S + 0.1)
        assert at.partials == ["", "understood"]
        before = now()
        assert (await words.finish()).text == "understood"
        assert now() == before
        assert [begin.language for begin in at.begun] == ["en"]
        await at.pool.close()

    play(monkeypatch, main)


def test_who_goes_on_behind_a_pause_is_heard_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(machine: Machine) -> None:
        at = await scene(machine)
        words = at.listen()
        words.feed(bytes(SECOND))
        words.pause()
        await asyncio.sleep(CPU_PER_S + 0.1)
        words.resume()
        words.feed(bytes(SECOND // 2))
        words.pause()
        assert at.partials == ["", "understood", "", ""]
        assert (await words.finish()).text == "understood"
        assert len(at.begun) == 2
        await at.pool.close()

    play(monkeypatch, main)


def test_where_no_words_are_found_nobody_waits_for_them_any_longer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(machine: Machine) -> None:
        machine.words = ""
        at = await scene(machine)
        words = at.listen()
        words.feed(bytes(SECOND))
        words.pause()
        assert at.partials == [""] and words.is_owed
        await asyncio.sleep(CPU_PER_S + 0.1)
        assert at.partials == ["", ""] and not words.is_owed
        words.abandon()
        await at.pool.close()

    play(monkeypatch, main)


def test_words_so_far_are_told_while_somebody_speaks_on(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(machine: Machine) -> None:
        at = await scene(machine)
        words = at.listen()
        for _ in range(10):
            words.feed(bytes(AGAIN_BYTES // 5))
            await asyncio.sleep(1)
        await asyncio.sleep(5)
        assert at.partials == ["understood"] * len(at.begun)
        assert len(at.begun) == 2
        words.abandon()
        await at.pool.close()

    play(monkeypatch, main)


def test_where_all_are_busy_only_ends_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(machine: Machine) -> None:
        at = await scene(machine)
        busy = [at.listen() for _ in range(CORES)]
        for words in busy:
            words.feed(bytes(5 * SECOND))
            words.pause()
        other = at.listen()
        other.feed(bytes(SECOND))
        other.pause()
        await asyncio.sleep(0)
        assert at.pool.waiting == 0
        assert (await other.finish()).text == "understood"
        for words in busy:
            assert (await words.finish()).text == "understood"
        await at.pool.close()

    play(monkeypatch, main)


def test_nothing_of_an_utterance_without_end_is_understood(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main(machine: Machine) -> None:
        at = await scene(machine)
        words = at.listen()
        for _ in range(MAX_BYTES // SECOND + 1):
            words.feed(bytes(SECOND))
        assert (await words.finish()).error == "the utterance is too long"
        assert at.pool.waiting == 0
        await at.pool.close()

    play(monkeypatch, main)


def test_a_click_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main(machine: Machine) -> None:
        at = await scene(machine)
        words = at.listen()
        words.feed(bytes(3_200))
        words.pause()
        assert (await words.finish()).text == ""
        assert at.begun == []
        await at.pool.close()

    play(monkeypatch, main)
