"""The responses of a session: those that are made or heard, and those that can be truncated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from engine.ipc import protocol as p
from media.playout import Loudness
from server.worker.items import Items
from server.worker.recording import CallRecording
from server.worker.responses import ActiveResponse, Asked, Emit
from signaling.errors import ProtocolError
from signaling.session import events as ev
from signaling.session.items import Item, MessageItem

HEARD_INTERVAL_SAMPLES = p.OUTPUT_HZ // 5
MAX_PAST = 16
"""Answers that are over and can still be truncated."""


class SpeechPlayout(Protocol):
    """The part of `media.playout.Playout` used here."""

    can_hold: bool
    """What was pushed can wait, or be turned down: the client does not have it yet."""

    def push(self, epoch: int, pcm: bytes) -> None: ...

    def finish(self, epoch: int) -> None: ...

    def clear(self) -> Any: ...

    def lower(self, loudness: Loudness) -> None: ...

    def heard(self, epoch: int) -> int: ...

    def take_played(self) -> bytes: ...

    @property
    def waiting_ms(self) -> int: ...


class SessionResponses:
    """Also the playout's listener: `started`, `progressed` and `drained` come from there."""

    def __init__(
        self,
        session_id: str,
        items: Items,
        emit: Emit,
        to_engine: Callable[[p.Message], bool],
        *,
        on_first_sound: Callable[[], None],
    ) -> None:
        """`on_first_sound` is called when the first sample of an answer is on its way."""
        self.is_sent_ahead = False
        """Whether the client gets sound before its time, and says itself what it heard."""
        self.answers_heard = 0
        """Answers that were heard to their end."""
        self.recording: CallRecording | None = None
        """What keeps the sound of answers, if anything does."""
        self._session_id = session_id
        self._items = items
        self._emit = emit
        self._to_engine = to_engine
        self._on_first_sound = on_first_sound
        self._speaker: SpeechPlayout | None = None
        self._responses: dict[int, ActiveResponse] = {}
        self._past: dict[str, ActiveResponse] = {}

    def use(self, speaker: SpeechPlayout, *, is_sent_ahead: bool = False) -> None:
        """Give the playout that speaks the answers; once, before any message.

        `is_sent_ahead`: the client gets sound before its time, and says itself what it heard.
        """
        self._speaker = speaker
        self.is_sent_ahead = is_sent_ahead

    @property
    def speaker(self) -> SpeechPlayout:
        assert self._speaker is not None, "use() comes first"
        return self._speaker

    @property
    def active(self) -> ActiveResponse | None:
        """The newest response of the conversation whose end was not told."""
        return next(reversed(self.running()), None)

    @property
    def is_answering(self) -> bool:
        """Whether a response is made or heard."""
        return any(not r.is_out_of_band for r in self._responses.values())

    def get(self, response_id: str | None) -> ActiveResponse | None:
        """The response of this id whose end was not told; None: that of the conversation."""
        if response_id is None:
            return self.active
        return next(
            (r for r in self._responses.values() if r.id == response_id and not r.is_ended), None
        )

    def of_item(self, item_id: str) -> ActiveResponse | None:
        """The response whose message this is, while it is made or heard."""
        return next((r for r in self._responses.values() if r.item_id == item_id), None)

    def running(self) -> list[ActiveResponse]:
        """The responses of the conversation whose end was not told."""
        return [r for r in self._responses.values() if not (r.is_out_of_band or r.is_ended)]

    def spoken_items(self) -> dict[str | None, Item | None]:
        """What was heard so far of the answers whose end was not told, by item."""
        return {r.item_id: r.spoken_item for r in self._responses.values() if not r.is_ended}

    # ------------------------------------------------------------------ from the engine

    def begin(self, message: p.ResponseStarted, asked: Asked) -> None:
        response = ActiveResponse(message.epoch, message.modality, self._emit, self._items, asked)
        self._responses[message.epoch] = response
        if not response.is_out_of_band:
            # From now on the playout knows the epoch, so that a cut before its first sample holds.
            self.speaker.push(message.epoch, b"")
        response.begin()

    def hear(self, message: p.AudioOut | p.TextOut | p.FunctionCallOut) -> None:
        response = self._responses.get(message.epoch)
        match message:
            case p.AudioOut():
                samples = len(message.pcm) // 2
                if response is not None:
                    response.add_sound(message.pts, samples)
                    if self.recording is not None:
                        self.recording.said(message.epoch, message.pcm[: 2 * samples])
                # The next piece begins with a whole sample, however this one ends.
                self.speaker.push(message.epoch, message.pcm[: 2 * samples])
            case p.TextOut() if response is not None:
                response.add_text(message.pts, message.text)
            case p.FunctionCallOut() if response is not None:
                response.add_call(message)

    def done(self, message: p.ResponseDone) -> None:
        response = self._responses.get(message.epoch)
        if response is None:
            return
        if message.status == "cancelled":
            is_barge_in = message.reason == "turn_detected"
            self.cut(message.epoch, "turn_detected" if is_barge_in else "client_cancelled")
            return
        response.outcome = message
        if response.is_out_of_band:
            del self._responses[message.epoch]
            response.end()
            return
        if self.is_sent_ahead:
            response.end()
        self.speaker.finish(message.epoch)

    # ------------------------------------------------------------------ from the playout

    def started(self, epoch: int) -> None:
        """The first sample of an epoch was taken."""
        response = self._responses.get(epoch)
        if response is None:
            return
        self._on_first_sound()
        response.audible()

    def sent(self, epoch: int, start: int, pcm: bytes) -> None:
        """Sound of an epoch went out ahead of its time, `start` samples from its beginning."""
        response = self._responses.get(epoch)
        if response is not None:
            response.release(start)
            response.send(start, pcm)

    def progressed(self, epoch: int, samples: int) -> None:
        """`samples` of an epoch have been taken, or must have been heard, so far."""
        response = self._responses.get(epoch)
        if response is None:
            return
        if not self.is_sent_ahead:
            response.release(samples)
        if self.recording is not None:
            self.recording.heard(epoch, samples)
        if samples - response.reported_samples >= HEARD_INTERVAL_SAMPLES:
            response.reported_samples = samples
            self._to_engine(p.Heard(self._session_id, epoch, samples))

    def drained(self, epoch: int) -> None:
        """A finished epoch was played to its last sample."""
        response = self._responses.pop(epoch, None)
        if response is None:
            return
        if response.outcome is None:
            # A newer epoch came before the engine said how this one ended.
            response.outcome = p.ResponseDone(self._session_id, epoch, "completed")
        heard = self.speaker.heard(epoch)
        if self.recording is not None:
            self.recording.heard(epoch, heard, is_over=True)
        self._to_engine(p.Heard(self._session_id, epoch, heard, final=True))
        if not response.is_ended:
            response.end()
        response.played(heard)
        self.answers_heard += 1
        self._keep(response)

    # ------------------------------------------------------------------ cutting

    def strand(self) -> None:
        """Cut what is being said, which nobody will hear."""
        if self._responses:
            self.cut(max(self._responses), "client_cancelled")

    def cut(self, epoch: int, reason: ev.CancelReason) -> bool:
        """Silence every response up to `epoch`; whether there was one."""
        stale = [r for r in self._responses.values() if r.epoch <= epoch]
        if not all(r.is_out_of_band for r in stale):
            self.speaker.clear()
        for response in stale:
            if response.is_out_of_band and response.epoch != epoch:
                continue
            del self._responses[response.epoch]
            samples = 0 if response.is_out_of_band else self.speaker.heard(response.epoch)
            if not response.is_out_of_band:
                self._to_engine(
                    p.Heard(self._session_id, response.epoch, samples, final=True, interrupted=True)
                )
            if self.recording is not None:
                self.recording.heard(response.epoch, samples, is_over=True)
            response.cut(samples, reason, is_known=not self.is_sent_ahead)
            self._keep(response)
        return bool(stale)

    def _keep(self, response: ActiveResponse) -> None:
        if response.item_id is None or response.is_out_of_band:
            return
        self._past[response.item_id] = response
        if len(self._past) > MAX_PAST:
            del self._past[next(iter(self._past))]

    def truncate(self, item_id: str, end_ms: int) -> None:
        """Take back what of an answer that is over was heard later; raises `ProtocolError`."""
        response = self._past.get(item_id)
        heard_ms = None if response is None else response.heard_ms
        if response is None or heard_ms is None:
            raise ProtocolError(
                "item_id: only newer items of the assistant that were spoken can be truncated.",
                param="item_id",
            )
        item = self._items.get(item_id)
        is_whole = isinstance(item, MessageItem) and item.status == "completed"
        if end_ms > heard_ms and (is_whole or self.is_sent_ahead):
            raise ProtocolError(
                f"audio_end_ms: {heard_ms} ms of sound is already shorter than {end_ms} ms.",
                param="audio_end_ms",
            )
        heard = response.forget(end_ms * p.OUTPUT_HZ // 1000)
        self._to_engine(
            p.Heard(self._session_id, response.epoch, heard, final=True, interrupted=True)
        )
