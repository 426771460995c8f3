"""The speech thread, beside the one that runs the language model.

Speech consists of many small kernels, the language model reads large weights: on one GPU they
overlap, each in its own stream. Orders are carried out as they were given; requests of several
slots that wait at the same time become one batch.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from engine.gpu.timing import Stages
from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.models.code2wav import VoiceBase
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.session import Session
from engine.minicpmo.speech.code2wav import Pcm
from engine.minicpmo.speech.pipeline import NO_SOUND, SpeechPipeline
from engine.minicpmo.speech.talker import TalkerInput

log = logging.getLogger(__name__)

IDLE_WAIT_S = 0.5
GATHER_S = 0.04
"""How long a unit waits for others that are being decided: two steps of the language model for
many sessions. A batch of its own for the late ones would take twice as long."""
SPEECH_SEED = 0x5EED


@dataclass(frozen=True, eq=False)
class SpeechRequest:
    """Text to be spoken in a slot."""

    session: str
    input: TalkerInput
    is_unit: bool
    """A full-duplex unit; else a group of a turn-based reply."""
    on_chunk: Callable[[SpeechChunk], None]
    """For whoever receives the chunks; the worker does not call it."""
    ready: torch.cuda.Event | None = None
    """Passed in the other stream when the tensors of `input` are complete."""
    starts: bool = False
    """First of a turn: what the slot still has to say is dropped before."""
    others_follow: bool = False
    """Other slots will request speech in a moment: one batch costs little more than one slot."""
    given: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, eq=False)
class SpeechChunk:
    """Sound of a request. Each request gets a last chunk, an empty one if it was dropped."""

    request: SpeechRequest
    pcm: Pcm
    is_last: bool = True
    stages: Stages = field(default_factory=list)
    error: BaseException | None = None


@dataclass(frozen=True)
class _SetVoice:
    slot: int
    base: VoiceBase


@dataclass(frozen=True)
class _Cancel:
    slot: int


@dataclass(frozen=True)
class _Clear:
    slot: int


_Order = SpeechRequest | _SetVoice | _Cancel | _Clear


class SpeechWorker:
    """Owns the pipeline. Orders may come from any thread; `done` is called from the speech thread.

    Without `start`, `step` carries out what waits in the caller's thread.
    """

    def __init__(self, pipeline: SpeechPipeline, done: Callable[[SpeechChunk], None]) -> None:
        self.pipeline = pipeline
        self.done = done
        self._orders: deque[_Order] = deque()
        self._wake = threading.Event()
        self._is_stopping = False
        self.is_broken = False
        """The thread has ended by an error; no request is answered any more."""
        self._thread = threading.Thread(target=self._run, name="speech", daemon=True)
        self._stream = (
            torch.cuda.Stream(pipeline.device, priority=-1)  # type: ignore[no-untyped-call]
            if pipeline.device.type == "cuda"
            else None
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Finish the current batch and end; blocks until then."""
        self._is_stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()

    def warm_up(self, show: Callable[[str], None]) -> None:
        """Capture the pipeline's graphs in the worker's stream."""
        with self._in_stream():
            self.pipeline.warm_up(show)

    # ------------------------------------------------------------------ orders

    def set_voice(self, slot: int, base: VoiceBase) -> None:
        """Give a slot its voice; what it still has to say is dropped."""
        self.submit(_SetVoice(slot, base))

    def cancel(self, slot: int) -> None:
        """Drop the slot's earlier requests and its turn."""
        self.submit(_Cancel(slot))

    def clear(self, slot: int) -> None:
        """Leave nothing of a session in the slot."""
        self.submit(_Clear(slot))

    def submit(self, order: _Order) -> None:
        """Hand an order over; from any thread."""
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
            log.exception("the speech thread has ended")
            self.is_broken = True

    def _gathering_s(self) -> float:
        """How long to wait for more requests before a batch begins; 0: begin now."""
        requests = [order for order in tuple(self._orders) if isinstance(order, SpeechRequest)]
        if not requests or not requests[-1].others_follow:
            return 0.0
        return max(0.0, requests[0].given + GATHER_S - time.monotonic())

    def step(self) -> bool:
        """Carry out what waits, up to and including one batch; return whether anything waited."""
        if not self._orders:
            return False
        batch: dict[int, SpeechRequest] = {}
        with self._in_stream():
            while self._orders:
                order = self._orders[0]
                if isinstance(order, SpeechRequest):
                    slot = order.input.slot
                    kinds = {request.is_unit for request in batch.values()}
                    if slot in batch or kinds - {order.is_unit}:
                        break
                    batch[slot] = order
                else:
                    dropped = batch.pop(order.slot, None)
                    if dropped is not None:
                        self.done(SpeechChunk(dropped, NO_SOUND))
                    self._carry_out(order)
                self._orders.popleft()
            if batch:
                self._speak(list(batch.values()))
        return True

    def _carry_out(self, order: _SetVoice | _Cancel | _Clear) -> None:
        match order:
            case _SetVoice():
                self.pipeline.set_voice(order.slot, order.base)
            case _Cancel():
                self.pipeline.cancel(order.slot)
            case _Clear():
                self.pipeline.clear(order.slot)

    def _speak(self, batch: list[SpeechRequest]) -> None:
        stages: Stages = []
        unanswered = dict(enumerate(batch))

        def emit(place: int, pcm: Pcm, is_last: bool) -> None:
            if is_last:
                del unanswered[place]
            self.done(SpeechChunk(batch[place], pcm, is_last, stages))

        try:
            for request in batch:
                self._receive(request)
                if request.starts:
                    self.pipeline.cancel(request.input.slot)
            run = self.pipeline.unit if batch[0].is_unit else self.pipeline.group
            run([request.input for request in batch], stages, emit)
        except Exception as error:  # noqa: BLE001 - the boundary: these sessions end
            log.exception("speaking failed")
            for request in unanswered.values():
                self.done(SpeechChunk(request, NO_SOUND, error=error))

    def _receive(self, request: SpeechRequest) -> None:
        """Make the tensors of another stream safe to use in this one."""
        if self._stream is None or request.ready is None:
            return
        self._stream.wait_event(request.ready)
        request.input.hidden.record_stream(self._stream)

    def _in_stream(self) -> AbstractContextManager[Any]:
        if self._stream is None:
            return nullcontext()
        context: AbstractContextManager[Any] = torch.cuda.stream(self._stream)
        return context


class SessionSpeech:
    """One session's requests to the worker, with the random numbers of its speech."""

    def __init__(self, runner: Runner, worker: SpeechWorker, session: Session) -> None:
        self.generation = 0
        """Cancellations so far: sound of an older generation must not be heard."""
        self._runner = runner
        self._worker = worker
        self._session = session.id
        self._slot = session.slot
        self._draws = Draws(session.seed ^ SPEECH_SEED)

    def say(
        self,
        ids: Sequence[int],
        states: Sequence[Tensor],
        on_chunk: Callable[[SpeechChunk], None],
        *,
        is_unit: bool,
        ends: bool,
        starts: bool = False,
        others_follow: bool = False,
    ) -> None:
        """Request sound for spoken ids [T] and the state [C] of each.

        `ends`, `starts`: the last and the first of a turn. `others_follow`: see `SpeechRequest`.
        """
        (given, hidden), ready = self._runner.speech(ids, states)
        self._worker.submit(
            SpeechRequest(
                self._session,
                TalkerInput(self._slot, given, hidden, self._draws, ends=ends),
                is_unit,
                on_chunk,
                ready=ready,
                starts=starts,
                others_follow=others_follow,
            )
        )

    def cancel(self) -> None:
        """Drop what was requested before."""
        self.generation += 1
        self._worker.cancel(self._slot)
