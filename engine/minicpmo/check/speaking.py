"""A written and a spoken answer of the whole engine, their times, what a recogniser hears."""

from __future__ import annotations

import asyncio
import time
import wave
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from engine.base import EngineError, EngineSession
from engine.builtin.recogniser import RecogniserPool
from engine.config import MiniCpmoConfig
from engine.dsp.resample import resample
from engine.ipc import protocol as p
from engine.minicpmo.check.report import CheckSection
from engine.minicpmo.engine import MiniCpmoEngine

QUESTION = "Please tell me in one short sentence what a lighthouse is for."
ANSWER_TOKENS = 48
ANSWER_TIMEOUT_S = 300.0
LISTEN_HZ = 16_000
PIECE_BYTES = 640
"""Of a caller's sound at once, 20 ms."""
BENCH_UNITS = 6


class _Caller:
    """A session of the engine, what it said, and when each thing came; it plays sound at once."""

    def __init__(self, engine: MiniCpmoEngine, name: str, config: p.SessionConfig) -> None:
        self._name = name
        self._loop = asyncio.get_running_loop()
        self._started = 0.0
        self.text = ""
        self.pcm = bytearray()
        self.first_text_ms: float | None = None
        self.first_sound_ms: float | None = None
        self.unit_ms: list[float] = []
        self.took_ms = 0.0
        self.tokens = 0
        self.failed = ""
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._unit: asyncio.Future[None] = self._loop.create_future()
        self.session: EngineSession = engine.open(name, 0, config, self._take)

    async def ask(self, question: str) -> None:
        """Wait for the whole answer, or for what went wrong."""
        self._started = time.perf_counter()
        self.session.handle(p.ItemIn(self._name, "question", "user", (p.TextPart(question),)))
        self.session.handle(p.CreateResponse(self._name))
        await self._until(self._finished)

    async def unit(self, pcm: bytes, pts: int) -> None:
        """Say a unit's sound, and wait until all that it led to is there."""
        self._unit = self._loop.create_future()
        self._started = time.perf_counter()
        for start in range(0, len(pcm), PIECE_BYTES):
            piece = pcm[start : start + PIECE_BYTES]
            self.session.handle(p.AudioIn(self._name, pts + start // 2, piece))
        await self._until(self._unit)

    async def _until(self, future: asyncio.Future[None]) -> None:
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                await future
        except TimeoutError:
            self.failed = f"nothing for {ANSWER_TIMEOUT_S:g} s"

    def _take(self, message: p.FromEngine) -> None:
        passed = round(1000 * (time.perf_counter() - self._started), 1)
        match message:
            case p.TextOut():
                self.first_text_ms = self.first_text_ms or passed
                self.text += message.text
            case p.AudioOut():
                self.first_sound_ms = self.first_sound_ms or passed
                self.pcm += message.pcm
                end = message.pts + len(message.pcm) // 2
                self.session.handle(p.Heard(self._name, message.epoch, end, final=message.last))
            case p.UnitDone():
                self.unit_ms.append(passed)
                _resolve(self._unit)
            case p.ResponseDone():
                self.took_ms, self.tokens = passed, message.output_tokens
                if message.status in ("failed", "cancelled"):
                    self.failed = message.reason or message.status
                _resolve(self._finished)
            case p.SessionRefused() | p.SessionEnded():
                if not self._finished.done():
                    self.failed = self.failed or message.reason
                _resolve(self._finished)
                _resolve(self._unit)


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Wanted(NamedTuple):
    """What is asked of the engine."""

    settings: MiniCpmoConfig
    wav: Path
    answer_tokens: int = ANSWER_TOKENS
    bench: bool = False
    memory_gib: float = 0.0


async def check_speaking(folder: Path, wanted: Wanted, show: Callable[[str], None]) -> CheckSection:
    """Start the engine with one session, ask it a question twice: in words, then aloud."""
    section = CheckSection("speaking")
    engine = MiniCpmoEngine(str(folder), 1, wanted.settings, memory_gib=wanted.memory_gib)
    started = time.perf_counter()
    try:
        await engine.start(show)
    except EngineError as error:
        section.fault(f"the engine does not start: {error}")
        await engine.close()
        return section
    section.facts["start_s"] = round(time.perf_counter() - started, 1)
    section.ok(f"the engine was ready after {section.facts['start_s']} s")
    try:
        await _answers(engine, wanted, section, show)
        if wanted.bench:
            show("measuring units of a call")
            await _bench(engine, section)
    finally:
        await engine.close()
    return section


async def _answers(
    engine: MiniCpmoEngine, wanted: Wanted, section: CheckSection, show: Callable[[str], None]
) -> None:
    show("asking for a written answer")
    written = await _ask(engine, wanted, ("text",))
    _tell(section, "written", written, written.first_text_ms)
    show("asking for a spoken answer")
    spoken = await _ask(engine, wanted, ("audio",))
    _tell(section, "spoken", spoken, spoken.first_sound_ms)
    if not spoken.pcm:
        if not spoken.failed:
            section.note("there was no sound: without a voice it answers in text")
        return
    seconds = len(spoken.pcm) / 2 / p.OUTPUT_HZ
    _write(wanted.wav, spoken.pcm)
    section.ok(f"{seconds:.1f} s of sound in {wanted.wav}: please listen to it")
    section.facts["sound_s"] = round(seconds, 1)
    show("recognising what was said")
    section.facts["recognised"] = heard = await _recognise(spoken.pcm, show)
    section.note(f"the built-in recogniser, which knows clear English, heard: {heard!r}")


def _tell(section: CheckSection, name: str, answer: _Caller, first_ms: float | None) -> None:
    if answer.failed:
        section.fault(f"the {name} answer failed: {answer.failed}")
        return
    section.ok(f"the {name} answer began after {first_ms} ms and took {answer.took_ms} ms:")
    section.table([answer.text.strip() or "(no words)"])
    section.facts[name] = answer.text.strip()
    section.facts[f"{name}_ms"] = [first_ms, answer.took_ms]
    section.facts[f"{name}_tokens"] = answer.tokens


async def _ask(
    engine: MiniCpmoEngine, wanted: Wanted, modalities: tuple[p.Modality, ...]
) -> _Caller:
    config = p.SessionConfig(
        mode="turn_based",
        modalities=modalities,
        sampling=p.Sampling(greedy=True, seed=0, max_output_tokens=wanted.answer_tokens),
    )
    caller = _Caller(engine, "check", config)
    await caller.ask(QUESTION)
    await caller.session.close()
    return caller


def _write(path: Path, pcm: bytes | bytearray) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(p.OUTPUT_HZ)
        file.writeframes(bytes(pcm))


async def _recognise(pcm: bytes | bytearray, show: Callable[[str], None]) -> str:
    """What the built-in engine's recogniser hears, or why it hears nothing."""
    samples = torch.from_numpy(np.frombuffer(bytes(pcm), np.int16).astype(np.float32))
    narrow = resample(samples, p.OUTPUT_HZ, LISTEN_HZ).clamp(-32_768, 32_767).to(torch.int16)
    pool = RecogniserPool(1)
    try:
        await pool.start(show)
        utterance = pool.listen_for(commands=False).listen(lambda text: None)
        utterance.feed(narrow.numpy().tobytes())
        found = await utterance.finish()
        return found.text or found.error
    except (EngineError, ImportError) as error:
        return f"nothing: {error}"
    finally:
        await pool.close()


async def _bench(engine: MiniCpmoEngine, section: CheckSection) -> None:
    """Seconds of a call in full duplex, one after another, in one line."""
    samples = engine.welcome(1).unit_ms * LISTEN_HZ // 1000
    at_s = np.arange(samples) / LISTEN_HZ
    hum = (2000 * np.sin(2 * np.pi * 150 * at_s)).astype(np.int16).tobytes()
    caller = _Caller(engine, "bench", p.SessionConfig())
    for index in range(BENCH_UNITS):
        await caller.unit(hum, index * samples)
        if caller.failed:
            section.fault(f"a call in full duplex failed: {caller.failed}")
            break
    await caller.session.close()
    if caller.unit_ms:
        times = sorted(caller.unit_ms)
        section.facts["unit_ms"] = [times[len(times) // 2], times[-1]]
        section.ok(
            f"{len(times)} units of a call: half within {times[len(times) // 2]} ms, the slowest "
            f"{times[-1]} ms"
        )
