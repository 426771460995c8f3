"""What a session of the native engine says: sound and words, and what of it was heard."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.protocol import (
    MAX_AHEAD_MS,
    OUTPUT_HZ,
    AudioOut,
    FromEngine,
    Heard,
    Interrupt,
    Modality,
    ResponseDone,
    ResponseStarted,
    TextOut,
)

PIECE_SAMPLES = OUTPUT_HZ // 2

Status = Literal["completed", "cancelled", "failed", "incomplete"]


class Output:
    """Owned by one session. Epochs count from 1; at most one response is open."""

    def __init__(self, session: str, send: Callable[[FromEngine], None]) -> None:
        self._session = session
        self._send = send
        self.epoch = 0
        self.is_open = False
        """A response is being generated."""
        self.samples = 0
        """Sound of the newest epoch so far."""
        self.tokens = 0
        self._heard = 0
        self._is_playing = False
        self._marks: list[tuple[int, int]] = []
        """(samples, tokens) after each piece of the newest epoch."""

    @property
    def is_speaking(self) -> bool:
        """Something of the newest epoch is being made or may still be playing."""
        return self.is_open or self._is_playing

    @property
    def ahead_ms(self) -> float:
        """Sound sent beyond what was heard."""
        return (self.samples - self._heard) * 1000 / OUTPUT_HZ if self._is_playing else 0.0

    @property
    def is_full(self) -> bool:
        """No more may be sent before more was heard."""
        return self.ahead_ms > MAX_AHEAD_MS - 1_000

    @property
    def heard_tokens(self) -> int:
        """Tokens of the newest epoch whose sound was heard."""
        return max((tokens for samples, tokens in self._marks if samples <= self._heard), default=0)

    def begin(
        self,
        trigger: Literal["speech", "request", "proactive"],
        *,
        utterance: int = 0,
        modality: Modality = "audio",
    ) -> None:
        """Open a response."""
        assert not self.is_open, f"epoch {self.epoch} is still open"
        self.epoch += 1
        self.is_open = True
        self.samples = self.tokens = self._heard = 0
        self._is_playing = False
        self._marks = []
        self._send(ResponseStarted(self._session, self.epoch, trigger, utterance, modality))

    def say(
        self, text: str, pcm: NDArray[np.int16], *, tokens: int = 0, last: bool = False
    ) -> None:
        """Words and the sound that goes with them."""
        if text or last:
            self._send(TextOut(self._session, self.epoch, self.samples, text, last))
        for start in range(0, max(len(pcm), int(last)), PIECE_SAMPLES):
            piece = pcm[start : start + PIECE_SAMPLES]
            is_end = last and start + PIECE_SAMPLES >= len(pcm)
            self._send(AudioOut(self._session, self.epoch, self.samples, piece.tobytes(), is_end))
            self.samples += len(piece)
        self._is_playing = self._is_playing or len(pcm) > 0
        self.tokens += tokens
        self._marks.append((self.samples, self.tokens))

    def finish(self, status: Status, reason: str = "", *, input_tokens: int = 0) -> None:
        """All of the response is out, or it ends early."""
        if self.is_open:
            self.is_open = False
            self._send(
                ResponseDone(self._session, self.epoch, status, reason, input_tokens, self.tokens)
            )

    def interrupt(self) -> None:
        """Barge-in: nothing more of this epoch is to be heard."""
        self._send(Interrupt(self._session, self.epoch))
        self.finish("cancelled", "turn_detected")
        self._is_playing = False

    def cancel(self) -> None:
        """The client has cut the playback itself."""
        self.finish("cancelled", "client_cancelled")
        self._is_playing = False

    def heard(self, message: Heard) -> None:
        """A report of the playout."""
        if message.epoch != self.epoch:
            return
        self._heard = max(self._heard, message.samples)
        if message.final:
            self._is_playing = False
