"""The thread that speaks, beside the one that thinks.

Speech is many small kernels, thinking reads large weights: on one GPU they overlap, each in its own
stream. Orders are carried out in the order in which they were given; what several slots are to say
at the same time is said as one batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from engine.gpu.timing import Stages
from engine.minicpmo.models.code2wav import VoiceBase
from engine.minicpmo.speech.code2wav import Pcm
from engine.minicpmo.speech.pipeline import NO_SOUND, Speaker
from engine.minicpmo.speech.talker import Speak

log = logging.getLogger(__name__)

IDLE_WAIT_S = 0.5
GATHER_S = 0.04
"""For so long a unit waits for others that are being decided: two steps of the language model for
many sessions. A batch of its own for the late ones would take twice as long."""


@dataclass(frozen=True, eq=False)
class Say:
    """Something to say in a slot."""

    speak: Speak
    is_unit: bool
    """Of full duplex; else a group of a turn-based reply."""
    owner: Any
    """Comes back with the sound."""
    ready: torch.cuda.Event | None = None
    """Passed in the other stream when the tensors of `speak` are there."""
    starts: bool = False
    """First of a turn: what the slot was saying is forgotten before."""
    others_follow: bool = False
    """Other slots will say something in a moment: together costs little more than alone."""
    given: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, eq=False)
class Spoken:
    """What became of a `Say`; every one is answered, also without sound where it was dropped."""

    say: Say
    pcm: Pcm
    is_last: bool = True
    """No more parts follow."""
    stages: Stages = field(default_factory=list)
    error: BaseException | None = None


@dataclass(frozen=True)
class _Voice:
    slot: int
    base: VoiceBase


@dataclass(frozen=True)
class _Hush:
    slot: int


@dataclass(frozen=True)
class _Clear:
    slot: int


_Order = Say | _Voice | _Hush | _Clear


class VoiceLane:
    """Owns the speaker. Orders may come from any thread; `done` is called from this one.

    Without `start`, `step` does what is waiting in the caller's thread.
    """

    def __init__(self, speaker: Speaker, done: Callable[[Spoken], None]) -> None:
        self.speaker = speaker
        self.done = done
        self._orders: deque[_Order] = deque()
        self._wake = threading.Event()
        self._is_stopping = False
        self.is_broken = False
        """The thread has ended by an error; nothing is said any more."""
        self._thread = threading.Thread(target=self._run, name="voice", daemon=True)
        self._stream = (
            torch.cuda.Stream(speaker.device, priority=-1)  # type: ignore[no-untyped-call]
            if speaker.device.type == "cuda"
            else None
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish the batch under way and end; blocks until then."""
        self._is_stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def warm_up(self, show: Callable[[str], None]) -> None:
        """Capture the speaker's graphs in this lane's stream."""
        with self._in_stream():
            self.speaker.warm_up(show)

    # ------------------------------------------------------------------ orders

    def say(self, say: Say) -> None:
        self._give(say)

    def set_voice(self, slot: int, base: VoiceBase) -> None:
        """Give a slot its voice; what it was saying is dropped."""
        self._give(_Voice(slot, base))

    def hush(self, slot: int) -> None:
        """Say nothing of what was ordered before for this slot, and forget its turn."""
        self._give(_Hush(slot))

    def clear(self, slot: int) -> None:
        """Leave nothing of a session in the slot."""
        self._give(_Clear(slot))

    def _give(self, order: _Order) -> None:
        self._orders.append(order)
        self._wake.set()

    # ------------------------------------------------------------------ the loop

    def _run(self) -> None:
        try:
            while not self._is_stopping:
                self._wake.clear()
                wait_s = self._gathering_s() or (0.0 if self.step() else IDLE_WAIT_S)
                if wait_s:
                    self._wake.wait(wait_s)
        except Exception:  # noqa: BLE001 - the boundary: whoever asks learns that it is broken
            log.exception("the voice lane has ended")
            self.is_broken = True

    def _gathering_s(self) -> float:
        """How long to wait for more before what is there is said; 0: it is time."""
        says = [order for order in tuple(self._orders) if isinstance(order, Say)]
        if not says or not says[-1].others_follow:
            return 0.0
        return max(0.0, says[0].given + GATHER_S - time.monotonic())

    def step(self) -> bool:
        """Carry out what waits, up to and including one batch; whether there was anything."""
        if not self._orders:
            return False
        batch: dict[int, Say] = {}
        with self._in_stream():
            while self._orders:
                order = self._orders[0]
                if isinstance(order, Say):
                    slot = order.speak.slot
                    kinds = {say.is_unit for say in batch.values()}
                    if slot in batch or kinds - {order.is_unit}:
                        break
                    batch[slot] = order
                else:
                    dropped = batch.pop(order.slot, None)
                    if dropped is not None:
                        self.done(Spoken(dropped, NO_SOUND))
                    self._carry_out(order)
                self._orders.popleft()
            if batch:
                self._say(list(batch.values()))
        return True

    def _carry_out(self, order: _Voice | _Hush | _Clear) -> None:
        match order:
            case _Voice():
                self.speaker.set_voice(order.slot, order.base)
            case _Hush():
                self.speaker.hush(order.slot)
            case _Clear():
                self.speaker.clear(order.slot)

    def _say(self, batch: list[Say]) -> None:
        stages: Stages = []
        unanswered = dict(enumerate(batch))

        def emit(place: int, pcm: Pcm, is_last: bool) -> None:
            if is_last:
                del unanswered[place]
            self.done(Spoken(batch[place], pcm, is_last, stages))

        try:
            for say in batch:
                self._receive(say)
                if say.starts:
                    self.speaker.hush(say.speak.slot)
            run = self.speaker.unit if batch[0].is_unit else self.speaker.group
            run([say.speak for say in batch], stages, emit)
        except Exception as error:  # noqa: BLE001 - the boundary: the owners end their sessions
            log.exception("speaking failed")
            for say in unanswered.values():
                self.done(Spoken(say, NO_SOUND, error=error))

    def _receive(self, say: Say) -> None:
        """Make the tensors of another stream safe to use in this one."""
        if self._stream is None or say.ready is None:
            return
        self._stream.wait_event(say.ready)
        say.speak.hidden.record_stream(self._stream)

    def _in_stream(self) -> AbstractContextManager[Any]:
        if self._stream is None:
            return nullcontext()
        context: AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return context
