"""What the tests of the CPU engines share: recorded speech, a log of messages, scripted parts."""

from __future__ import annotations

import asyncio
import wave
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from engine.base import EngineSession
from engine.builtin.interfaces import AnswerFailed, Parts, Speech, Transcript, Turn
from engine.builtin.session import CascadeSession
from engine.files.decoder import FileDecoder
from engine.ipc.protocol import AudioIn, AudioOut, FromEngine, Heard, SessionConfig
from tests.waiting import PATIENCE_S

DATA = Path(__file__).parents[1] / "data"
FRAME = 320
SESSION = "s"

M = TypeVar("M")


def speech(name: str) -> bytes:
    """A recorded phrase: 16 kHz PCM."""
    with wave.open(str(DATA / f"{name}.wav")) as file:
        return bytes(file.readframes(file.getnframes()))


def hiss(ms: int, level: int = 12) -> bytes:
    """A quiet room."""
    samples = np.random.default_rng(ms).integers(-level, level + 1, size=16 * ms, dtype=np.int16)
    return samples.tobytes()


def noise(ms: int, level_db: float, kind: str = "white") -> bytes:
    """Steady noise of this level (dBFS): "white", "pink", "rumble" or "hum" of the mains."""
    random = np.random.default_rng(ms)
    count = 16 * ms
    if kind == "hum":
        at_s = np.arange(count) / 16_000
        sound = sum((np.sin(2 * np.pi * 50 * n * at_s + n) / n for n in range(1, 12)), at_s * 0)
        sound += 0.02 * random.standard_normal(count)
    else:
        spectrum = np.fft.rfft(random.standard_normal(count))
        slope = {"white": 0.0, "pink": 0.5, "rumble": 1.0}[kind]
        hz = np.maximum(np.fft.rfftfreq(count, 1 / 16_000), 20)
        sound = np.fft.irfft(spectrum / hz**slope, count)
    sound *= 32_768 * 10 ** (level_db / 20) / np.sqrt(np.mean(sound**2))
    return np.clip(sound, -32_768, 32_767).astype(np.int16).tobytes()


def spoken_over(background: bytes, name: str, at_ms: int = 2_500) -> bytes:
    """A phrase within other sound."""
    mixed = np.frombuffer(background, np.int16).astype(np.int32)
    phrase = np.frombuffer(speech(name), np.int16)
    mixed[16 * at_ms :][: len(phrase)] += phrase
    return np.clip(mixed, -32_768, 32_767).astype(np.int16).tobytes()


def say(name: str, before_ms: int = 300, after_ms: int = 700) -> bytes:
    """A phrase with a quiet room around it."""
    return hiss(before_ms) + speech(name) + hiss(after_ms)


class Caller:
    """Feeds a session and keeps what it says."""

    def __init__(self) -> None:
        self.log: list[FromEngine] = []
        self.pts = 0
        self.listens = False
        """Report everything as heard at once."""
        self._session: EngineSession | None = None
        self._news = asyncio.Event()

    def connect(self, session: EngineSession) -> None:
        self._session = session

    @property
    def session(self) -> EngineSession:
        assert self._session is not None
        return self._session

    def receive(self, message: FromEngine) -> None:
        self.log.append(message)
        self._news.set()
        if self.listens and isinstance(message, AudioOut):
            end = message.pts + len(message.pcm) // 2
            asyncio.get_running_loop().call_soon(
                self.session.handle, Heard(SESSION, message.epoch, end)
            )

    async def hear(self, pcm: bytes, *, frame: int = FRAME) -> None:
        """Send PCM frame by frame, letting the engine run in between."""
        for start in range(0, len(pcm), 2 * frame):
            piece = pcm[start : start + 2 * frame]
            self.session.handle(AudioIn(SESSION, self.pts, piece))
            self.pts += len(piece) // 2
            await asyncio.sleep(0)

    def all(self, kind: type[M]) -> list[M]:
        return [message for message in self.log if isinstance(message, kind)]

    def heard(self, epoch: int, samples: int, *, final: bool, interrupted: bool = False) -> None:
        self.session.handle(Heard(SESSION, epoch, samples, final, interrupted))

    async def wait(
        self, kind: type[M], count: int = 1, where: Callable[[M], bool] = lambda _: True
    ) -> M:
        """The `count`-th message of this kind, waiting for it at most 20 s."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                found = [message for message in self.all(kind) if where(message)]
                if len(found) >= count:
                    return found[count - 1]
                self._news.clear()
                await self._news.wait()


async def settle(turns: int = 30) -> None:
    """Let everything that is ready run."""
    for _ in range(turns):
        await asyncio.sleep(0)


class ScriptedUtterance:
    """Recognises nothing: its transcript is the next of the script, when the test lets it."""

    def __init__(self, transcript: Transcript, gate: asyncio.Event) -> None:
        self.fed = self.pauses = self.resumes = 0
        self.is_abandoned = self.is_finished = self.is_owed = False
        self._transcript = transcript
        self._gate = gate

    def feed(self, pcm: bytes) -> None:
        self.fed += len(pcm)

    def pause(self) -> None:
        self.pauses += 1

    def resume(self) -> None:
        self.resumes += 1

    async def finish(self) -> Transcript:
        await self._gate.wait()
        self.is_finished = True
        return self._transcript

    def abandon(self) -> None:
        self.is_abandoned = True


class ScriptedRecogniser:
    def __init__(self, script: Sequence[Transcript]) -> None:
        self.script = list(script)
        self.utterances: list[ScriptedUtterance] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.on_partial: Callable[[str], None] = lambda _: None
        self.language = ""
        self.is_owed = False

    def listen(self, on_partial: Callable[[str], None], language: str = "") -> ScriptedUtterance:
        self.on_partial = on_partial
        self.language = language
        transcript = self.script.pop(0) if self.script else Transcript("something")
        self.utterances.append(ScriptedUtterance(transcript, self.gate))
        self.utterances[-1].is_owed = self.is_owed
        return self.utterances[-1]


class ScriptedAnswerer:
    """Answers everything with the same stretches of speech; may fail, break or never end."""

    def __init__(self, stretches_ms: Sequence[int] = (1_000,)) -> None:
        self.stretches_ms = list(stretches_ms)
        self.turns: list[Turn] = []
        self.failure: Exception | None = None
        self.hangs = False
        self.says_goodbye = False
        self.closed = 0

    async def answer(self, turn: Turn) -> AsyncGenerator[Speech, None]:
        self.turns.append(turn)
        turn.ends_session = self.says_goodbye
        try:
            for index, ms in enumerate(self.stretches_ms):
                step = 24 * ms // 4
                words = tuple((at * step, f"w{index}{at} ") for at in range(4))
                yield Speech(np.ones(24 * ms, np.int16), words)
            if self.failure is not None:
                raise self.failure
            if self.hangs:
                await asyncio.Event().wait()
        finally:
            self.closed += 1


def failing(reason: str) -> AnswerFailed:
    return AnswerFailed(reason)


class Scene(Caller):
    """A real session with scripted parts."""

    def __init__(
        self,
        config: SessionConfig | None = None,
        script: Sequence[Transcript] = (),
        stretches_ms: Sequence[int] = (1_000,),
    ) -> None:
        super().__init__()
        self.recogniser = ScriptedRecogniser(script)
        self.answerer = ScriptedAnswerer(stretches_ms)
        self.eyes = ThreadPoolExecutor(1)
        self.decoder = FileDecoder()
        parts = Parts(
            self.recogniser, self.answerer, self.eyes, self.decoder, lambda voice: voice == "known"
        )
        self.cascade = CascadeSession(SESSION, config or SessionConfig(), self.receive, parts)
        self.connect(self.cascade)

    async def close(self) -> None:
        await self.cascade.close()
        self.decoder.close()
        self.eyes.shutdown(wait=True)
