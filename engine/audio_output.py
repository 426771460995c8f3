"""What a session says: sound, words and calls, and what of it was heard."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from engine.ipc.protocol import (
    MAX_AHEAD_MS,
    OUTPUT_HZ,
    AudioOut,
    FromEngine,
    FunctionCallOut,
    Heard,
    Interrupt,
    Modality,
    ResponseDone,
    ResponseStarted,
    TextOut,
    TokenSplit,
    sum_of,
)

PIECE_SAMPLES = OUTPUT_HZ // 2
AHEAD_SAMPLES = (MAX_AHEAD_MS - 1_000) * OUTPUT_HZ // 1000
"""Sound that may be under way: a report is up to 200 ms old, a piece half a second long."""

Status = Literal["completed", "cancelled", "failed", "incomplete"]


class AudioOutput:
    """Owned by one session. Epochs count from 1; at most one response is open."""

    def __init__(
        self, session: str, send: Callable[[FromEngine], None], *, codes_hz: int = 0
    ) -> None:
        """`codes_hz`: tokens that a second of sound is made of; 0: it is made of none."""
        self._codes_hz = codes_hz
        self._session = session
        self._send = send
        self._numbered = 0
        self.epoch = 0
        """Of the newest response that enters the conversation."""
        self.is_open = False
        """A response is being generated."""
        self.samples = 0
        """Sound of the newest epoch so far."""
        self.tokens = 0
        self.made_from = TokenSplit()
        """The input of the newest epoch."""
        self._heard = 0
        self._is_playing = False
        self._marks: list[tuple[int, int]] = []
        """(samples, tokens) after each piece of the newest epoch."""
        self._waiting: deque[AudioOut | TextOut | ResponseDone] = deque()
        """Made, but too far ahead of what was heard."""

    @property
    def is_speaking(self) -> bool:
        """Something of the newest epoch is being made or may still be playing."""
        return self.is_open or self._is_playing

    @property
    def _codes(self) -> int:
        """Tokens that the sound of the newest epoch was made of."""
        return -(-self.samples * self._codes_hz // OUTPUT_HZ)

    @property
    def is_full(self) -> bool:
        """There is enough to play; making more can wait."""
        return self._is_playing and self.samples - self._heard > AHEAD_SAMPLES

    @property
    def heard_tokens(self) -> int:
        """Tokens of the newest epoch whose sound was heard."""
        return max((tokens for samples, tokens in self._marks if samples <= self._heard), default=0)

    def number_aside(self) -> int:
        """Number a response out of band."""
        self._numbered += 1
        return self._numbered

    def begin(
        self,
        trigger: Literal["speech", "request", "proactive"],
        *,
        utterance: int = 0,
        modality: Modality = "audio",
        request: str = "",
        says: str = "",
    ) -> None:
        """Open a response."""
        assert not self.is_open, f"epoch {self.epoch} is still open"
        while self._waiting:
            # What is heard of an older epoch is not told any more: it would wait for ever.
            self._send(self._waiting.popleft())
        self._numbered += 1
        self.epoch = self._numbered
        self.is_open = True
        self.samples = self.tokens = self._heard = 0
        self.made_from = TokenSplit()
        self._is_playing = False
        self._marks = []
        self._send(
            ResponseStarted(self._session, self.epoch, trigger, utterance, modality, request, says)
        )

    def say(
        self, text: str, pcm: NDArray[np.int16], *, tokens: int = 0, last: bool = False
    ) -> None:
        """Words and the sound that goes with them."""
        if text or last:
            self._waiting.append(TextOut(self._session, self.epoch, self.samples, text, last))
        for start in range(0, max(len(pcm), int(last)), PIECE_SAMPLES):
            piece = pcm[start : start + PIECE_SAMPLES]
            is_end = last and start + PIECE_SAMPLES >= len(pcm)
            sound = AudioOut(self._session, self.epoch, self.samples, piece.tobytes(), is_end)
            self._waiting.append(sound)
            self.samples += len(piece)
        self._is_playing = self._is_playing or len(pcm) > 0
        self.tokens += tokens
        self._marks.append((self.samples, self.tokens))
        self._pump()

    def call(self, call_id: str, name: str, arguments: str, *, last: bool = True) -> None:
        """Call a function, or go on with its arguments; it waits for no sound."""
        assert self.is_open, "a function is called within a response"
        self._send(FunctionCallOut(self._session, self.epoch, call_id, name, arguments, last))

    def finish(self, status: Status, reason: str = "", *, input_tokens: int = 0) -> None:
        """All of the response is out, or it ends early."""
        if self.is_open:
            self.is_open = False
            self._waiting.append(
                ResponseDone(
                    self._session,
                    self.epoch,
                    status,
                    reason,
                    input_tokens or sum_of(self.made_from),
                    self.tokens + self._codes,
                    self.made_from,
                    TokenSplit(text=self.tokens, audio=self._codes if self._codes_hz else None),
                )
            )
            self._pump()

    def interrupt(self) -> None:
        """Barge-in: nothing more of this epoch is to be heard."""
        self._send(Interrupt(self._session, self.epoch))
        self._drop("turn_detected")

    def cancel(self) -> None:
        """The client has cut the playback itself."""
        self._drop("client_cancelled")

    def heard(self, message: Heard) -> None:
        """A report of the playout."""
        if message.epoch != self.epoch:
            return
        self._heard = max(self._heard, message.samples)
        if message.final:
            self._is_playing = False
            if not message.interrupted:
                # Played to its last sample.
                self._heard = max(self._heard, self.samples)
        self._pump()

    def _drop(self, reason: str) -> None:
        ended = any(isinstance(message, ResponseDone) for message in self._waiting)
        self._waiting.clear()
        self.is_open = self.is_open or ended
        self._is_playing = False
        self.finish("cancelled", reason)

    def _pump(self) -> None:
        """Send what is due: sound only so far ahead of what was heard, the rest in its order."""
        while self._waiting:
            message = self._waiting[0]
            if isinstance(message, AudioOut) and message.pts - self._heard > AHEAD_SAMPLES:
                return
            self._send(self._waiting.popleft())
