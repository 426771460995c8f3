"""The echo engine: speaks back each utterance. No models, so it starts at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from engine.base import Progress, Send
from engine.builtin.interfaces import Parts, Speech, Transcript, Turn
from engine.builtin.resampler import Resampler
from engine.builtin.session import CascadeSession
from engine.files.decoder import FileDecoder
from engine.ipc.protocol import INPUT_HZ, OUTPUT_HZ, VERSION, SessionConfig, Welcome

HONOURS = ("mode", "modalities", "turn_detection", "transcribe", "after")
MAX_KEPT_BYTES = 2 * INPUT_HZ * 60
TONE_HZ = 440.0
TONE_S = 0.4
TONE_LEVEL = 8_000
FADE_S = 0.02
NOT_TRANSCRIBED = "the echo engine does not transcribe"


class EchoEngine:
    """Implements `engine.interface.Engine`; of pictures it tells only which cannot be read."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._decoder = FileDecoder()
        self._eyes = ThreadPoolExecutor(1, thread_name_prefix="eyes")

    def welcome(self, slots: int) -> Welcome:
        return Welcome(
            version=VERSION,
            kind="echo",
            label="Echo engine",
            description="Speaks back what it hears and types back what it reads. For tests.",
            slots=slots,
            modes=("full_duplex", "half_duplex", "turn_based"),
            languages=(),
            voices=(),
            video=False,
            appends=("commentary",),
            honours=HONOURS,
        )

    async def start(self, progress: Progress) -> None:
        progress("nothing to load")

    def open(self, session: str, slot: int, config: SessionConfig, send: Send) -> CascadeSession:
        parts = Parts(
            EchoRecogniser(),
            EchoAnswerer(),
            self._eyes,
            self._decoder,
            _any_voice,
            honours=frozenset(HONOURS),
        )
        return CascadeSession(session, config, send, parts)

    def pending_ms(self) -> float:
        """Sound is taken as it comes, so none ever waits."""
        return 0.0

    async def close(self) -> None:
        self._decoder.close()
        self._eyes.shutdown(wait=False, cancel_futures=True)


class EchoUtterance:
    """Keeps the sound, at most a minute of it."""

    def __init__(self) -> None:
        self._pcm = bytearray()
        self.is_owed = False

    def feed(self, pcm: bytes) -> None:
        self._pcm += pcm[: MAX_KEPT_BYTES - len(self._pcm)]

    async def finish(self) -> Transcript:
        return Transcript("", error=NOT_TRANSCRIBED, pcm=bytes(self._pcm))

    def pause(self) -> None:
        """What was said is kept either way."""

    def resume(self) -> None:
        """The same."""

    def abandon(self) -> None:
        self._pcm.clear()


class EchoRecogniser:
    def listen(self, on_partial: Callable[[str], None], language: str = "") -> EchoUtterance:
        return EchoUtterance()


class EchoAnswerer:
    """Answers speech with itself, text with itself and a tone."""

    async def answer(self, turn: Turn) -> AsyncGenerator[Speech, None]:
        if turn.transcript is not None and turn.transcript.pcm:
            sound = np.frombuffer(turn.transcript.pcm, np.int16)
            # A minute of sound takes long enough to be noticed by the other sessions.
            pcm = await asyncio.to_thread(to_output_rate, sound)
            text = f"You spoke for {len(sound) / INPUT_HZ:.1f} seconds."
        else:
            item = turn.conversation.last("user")
            pcm = tone()
            text = item.text if item is not None and item.text else "Nothing to echo."
        words = text.split(" ")
        spaced = [word + " " for word in words[:-1]] + words[-1:]
        step = len(pcm) // max(1, len(spaced))
        yield Speech(pcm, tuple((at * step, word) for at, word in enumerate(spaced)), last=True)


def to_output_rate(sound: NDArray[np.int16]) -> NDArray[np.int16]:
    """16 kHz to 24 kHz, all at once."""
    resampler = Resampler(INPUT_HZ, OUTPUT_HZ)
    return np.concatenate([resampler.push(sound), resampler.flush()])


def tone() -> NDArray[np.int16]:
    """A soft beep, 24 kHz."""
    at_s = np.arange(round(TONE_S * OUTPUT_HZ)) / OUTPUT_HZ
    fade = np.clip(np.minimum(at_s, TONE_S - at_s) / FADE_S, 0, 1)
    return (TONE_LEVEL * fade * np.sin(2 * np.pi * TONE_HZ * at_s)).astype(np.int16)


def _any_voice(_: str) -> bool:
    return True
