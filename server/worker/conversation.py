"""One conversation as its client sees it: what the engine says becomes Realtime events and sound.

Owned by the session, with the items, the utterances' ids and the responses that are not over.
`server.worker.requests` handles the other direction. Knows nothing of peers, sockets or tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from engine.ipc import protocol as p
from server.worker.engine_settings import engine_config
from server.worker.items import Items
from server.worker.responses import ActiveResponse, CancelReason, Emit, ItemStatus
from server.worker.unused_settings import unused
from signaling import server_events as ev
from signaling.errors import ProtocolError
from signaling.settings import SessionSettings

HEARD_INTERVAL_SAMPLES = p.OUTPUT_HZ // 5
MAX_UTTERANCES = 64
MAX_ASKED = 64
MAX_PAST = 16
"""Answers that are over and can still be truncated."""


class SpeechPlayout(Protocol):
    """The part of `media.playout.Playout` used here."""

    def push(self, epoch: int, pcm: bytes) -> None: ...

    def finish(self, epoch: int) -> None: ...

    def clear(self) -> Any: ...

    def heard(self, epoch: int) -> int: ...


class Asked(NamedTuple):
    """What a client asked an engine for, until the engine says what became of it."""

    metadata: dict[str, str] | None = None
    event_id: str | None = None


class UserSpeech:
    """A stretch of the user's speech and the item it became."""

    def __init__(self, item_id: str, start_pts: int) -> None:
        self.item_id = item_id
        self.start_pts = start_pts
        self.end_pts = start_pts
        self.partial = ""
        self.is_committed = False


class Conversation:
    """Also the playout's listener: `started`, `progressed` and `drained` come from there."""

    def __init__(
        self,
        settings: SessionSettings,
        *,
        emit: Emit,
        to_engine: Callable[[p.Message], bool],
        session_id: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._told_unused: set[str] = set()
        self.session_id = session_id
        self.items = Items()
        self.turns = 0
        self.latency_ms: dict[str, float] = {}
        self.kv_tokens = 0
        self.expires_at: int | None = None
        """Unix seconds; known when the call is served."""
        self._emit = emit
        self._to_engine = to_engine
        self._clock = clock
        self._speaker: SpeechPlayout | None = None
        self._utterances: dict[int, UserSpeech] = {}
        self._responses: dict[int, ActiveResponse] = {}
        self._past: dict[str, ActiveResponse] = {}
        self._asked: dict[str, Asked] = {}
        self._speech_stopped_at: float | None = None

    def use(self, speaker: SpeechPlayout) -> None:
        """Give the playout that speaks for this conversation; once, before any message."""
        self._speaker = speaker

    @property
    def speaker(self) -> SpeechPlayout:
        assert self._speaker is not None, "use() comes first"
        return self._speaker

    @property
    def active(self) -> ActiveResponse | None:
        """The newest response that is not over."""
        return next(reversed(self._responses.values()), None)

    @property
    def settings(self) -> SessionSettings:
        return self._settings

    def update(self, changes: Mapping[str, Any]) -> None:
        """Apply a partial session object and tell both sides; raises `ProtocolError`."""
        self._settings = self._settings.merge(changes)
        self._to_engine(p.UpdateSession(self.session_id, engine_config(self._settings)))
        self._emit(ev.SessionUpdated(session=self.session_object()))
        self.tell_unused()

    def tell_unused(self) -> None:
        """Tell of settings that change nothing; of each once."""
        for name in unused(self._settings):
            if name not in self._told_unused:
                self._told_unused.add(name)
                told = f"{name} is accepted but has no effect here."
                self._emit(ev.SessionWarningEvent(code="unused_setting", message=told))

    def session_object(self) -> dict[str, Any]:
        """What the client sees of its session."""
        return self.settings.to_session(self.session_id, self.expires_at)

    def asked_for(self, asked: Asked) -> str:
        """Note what the client asks for; the name by which the engine answers."""
        name = ev.new_id("ask")
        self._asked[name] = asked
        if len(self._asked) > MAX_ASKED:
            del self._asked[next(iter(self._asked))]
        return name

    # ------------------------------------------------------------------ from the engine

    def hear(self, message: p.FromEngine) -> None:
        """Take one message of the engine, in order. `SessionEnded` is the session's."""
        match message:
            case p.AudioOut():
                self.speaker.push(message.epoch, message.pcm)
            case p.TextOut():
                response = self._responses.get(message.epoch)
                if response is not None:
                    response.add_text(message.pts, message.text)
            case p.ResponseStarted():
                self._response_started(message)
            case p.ResponseDone():
                self._response_done(message)
            case p.Interrupt():
                self.cut(message.epoch, "turn_detected")
            case p.SpeechStarted() | p.SpeechStopped() | p.InputTranscript():
                self._hear_speech(message)
            case p.UnitDone():
                self.latency_ms |= message.stages_ms
                self.kv_tokens = message.kv_tokens
                figures: dict[str, Any] = {f"{k}_ms": v for k, v in message.stages_ms.items()}
                figures |= {"unit": message.unit, "kv_tokens": message.kv_tokens}
                self._emit(ev.Metrics(metrics=figures))
            case p.SessionWarning() | p.PartLeftOut() | p.RequestRefused():
                self._pass_on(message)

    def _hear_speech(self, message: p.SpeechStarted | p.SpeechStopped | p.InputTranscript) -> None:
        match message:
            case p.SpeechStarted():
                utterance = self._utterance(message.utterance, message.pts)
                self._emit(
                    ev.SpeechStartedEvent(
                        item_id=utterance.item_id, audio_start_ms=_input_ms(message.pts)
                    )
                )
            case p.SpeechStopped():
                utterance = self._utterance(message.utterance, message.pts)
                utterance.end_pts = message.pts
                self._speech_stopped_at = self._clock()
                self._emit(
                    ev.SpeechStoppedEvent(
                        item_id=utterance.item_id, audio_end_ms=_input_ms(message.pts)
                    )
                )
                self._commit(utterance)
            case p.InputTranscript():
                self._transcript(message)

    def _utterance(self, number: int, pts: int = 0) -> UserSpeech:
        utterance = self._utterances.get(number)
        if utterance is None:
            utterance = self._utterances[number] = UserSpeech(ev.new_id("item"), pts)
            if len(self._utterances) > MAX_UTTERANCES:
                del self._utterances[next(iter(self._utterances))]
        return utterance

    def _commit(self, utterance: UserSpeech) -> None:
        if utterance.is_committed:
            return
        utterance.is_committed = True
        self.turns += 1
        previous = self.items.last_id
        self._emit(ev.InputCommitted(item_id=utterance.item_id, previous_item_id=previous))
        self.add_item(_spoken(utterance, None), previous)

    def add_item(self, item: ev.Item, previous: str | None) -> None:
        """Keep an item and tell the client of it."""
        self.items.put(item)
        self._emit(ev.ItemAddedEvent(item=item, previous_item_id=previous))
        self._emit(ev.ItemDone(item=item, previous_item_id=previous))

    def _transcript(self, message: p.InputTranscript) -> None:
        utterance = self._utterance(message.utterance)
        item_id = utterance.item_id
        if not message.final:
            # Only what grows can be told as a delta; a rewritten partial waits for the final.
            if message.text.startswith(utterance.partial):
                delta = message.text[len(utterance.partial) :]
                if delta:
                    self._emit(ev.TranscriptionDelta(item_id=item_id, delta=delta))
                utterance.partial = message.text
            return
        self._commit(utterance)
        if message.error:
            error = {"type": "transcription_error", "code": message.code, "message": message.error}
            self._emit(ev.TranscriptionFailed(item_id=item_id, error=error))
            return
        if item_id in self.items:
            self.items.put(_spoken(utterance, message.text))
        seconds = max(0, utterance.end_pts - utterance.start_pts) / p.INPUT_HZ
        self._emit(
            ev.TranscriptionCompleted(
                item_id=item_id, transcript=message.text, usage=ev.duration_usage(seconds)
            )
        )

    def _pass_on(self, message: p.SessionWarning | p.PartLeftOut | p.RequestRefused) -> None:
        if not isinstance(message, p.RequestRefused):
            self._emit(_told(message))
            return
        asked = self._asked.pop(message.request, Asked())
        self._emit(
            ev.error(
                _sentence(message.reason),
                code=message.code,
                event_id=asked.event_id,
                type="server_error" if message.code == "overloaded" else "invalid_request_error",
            )
        )

    def _response_started(self, message: p.ResponseStarted) -> None:
        asked = self._asked.pop(message.request, Asked())
        response = ActiveResponse(
            message.epoch,
            message.modality,
            self._emit,
            previous_item_id=self.items.last_id,
            metadata=asked.metadata,
        )
        self._responses[message.epoch] = response
        self.items.put(response.item("in_progress"))
        # From now on the playout knows the epoch, so that a cut before its first sample holds.
        self.speaker.push(message.epoch, b"")
        response.begin()

    def _response_done(self, message: p.ResponseDone) -> None:
        response = self._responses.get(message.epoch)
        if response is None:
            return
        if message.status == "cancelled":
            self.cut(message.epoch, _cancel_reason(message.reason))
            return
        response.outcome = message
        self.speaker.finish(message.epoch)

    # ------------------------------------------------------------------ from the playout

    def started(self, epoch: int) -> None:
        """The first sample of an epoch was taken."""
        response = self._responses.get(epoch)
        if response is None:
            return
        if self._speech_stopped_at is not None:
            waited_ms = (self._clock() - self._speech_stopped_at) * 1000
            self.latency_ms["speech_stopped_to_audio"] = round(waited_ms, 1)
            self._speech_stopped_at = None
        response.audible()

    def progressed(self, epoch: int, samples: int) -> None:
        """`samples` of an epoch have been taken so far."""
        response = self._responses.get(epoch)
        if response is None:
            return
        response.release(samples)
        if samples - response.reported_samples >= HEARD_INTERVAL_SAMPLES:
            response.reported_samples = samples
            self._to_engine(p.Heard(self.session_id, epoch, samples))

    def drained(self, epoch: int) -> None:
        """A finished epoch was played to its last sample."""
        response = self._responses.get(epoch)
        if response is None:
            return
        if response.outcome is None:
            # A newer epoch came before the engine said how this one ended.
            response.outcome = p.ResponseDone(self.session_id, epoch, "completed")
        del self._responses[epoch]
        heard = self.speaker.heard(epoch)
        self._to_engine(p.Heard(self.session_id, epoch, heard, final=True))
        response.finish(heard)
        status: ItemStatus = "completed" if response.outcome.status == "completed" else "incomplete"
        self._keep(response, status)

    # ------------------------------------------------------------------ cutting

    def cut(self, epoch: int, reason: CancelReason) -> bool:
        """Silence every response up to `epoch`; whether there was one."""
        stale = [r for r in self._responses.values() if r.epoch <= epoch]
        if not stale:
            return False
        self.speaker.clear()
        for response in stale:
            del self._responses[response.epoch]
            samples = self.speaker.heard(response.epoch)
            self._to_engine(
                p.Heard(self.session_id, response.epoch, samples, final=True, interrupted=True)
            )
            response.cut(samples, reason)
            self._keep(response, "incomplete")
        return True

    def _keep(self, response: ActiveResponse, status: ItemStatus) -> None:
        if response.item_id in self.items:
            self.items.put(response.item(status))
        self._past[response.item_id] = response
        if len(self._past) > MAX_PAST:
            del self._past[next(iter(self._past))]

    def truncate(self, item_id: str, audio_end_ms: int) -> None:
        """Take back what of an answer that is over was heard later; raises `ProtocolError`."""
        response = self._past.get(item_id)
        heard_ms = None if response is None else response.heard_ms
        if response is None or heard_ms is None:
            raise ProtocolError(
                "item_id: only newer items of the assistant that were spoken can be truncated.",
                param="item_id",
            )
        is_whole = self.items.get(item_id).status == "completed"
        if audio_end_ms > heard_ms and is_whole:
            raise ProtocolError(
                f"audio_end_ms: {heard_ms} ms of sound is already shorter than {audio_end_ms} ms.",
                param="audio_end_ms",
            )
        heard = response.forget(audio_end_ms * p.OUTPUT_HZ // 1000)
        self.items.put(response.item("incomplete"))
        self._to_engine(
            p.Heard(self.session_id, response.epoch, heard, final=True, interrupted=True)
        )


def _sentence(text: str) -> str:
    """What an engine says of something, as a client is to read it."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")


def _told(message: p.SessionWarning | p.PartLeftOut) -> ev.SessionWarningEvent | ev.Error:
    if isinstance(message, p.SessionWarning):
        return ev.SessionWarningEvent(code=message.code, message=_sentence(message.message))
    where = f"item.content.{message.part}"
    told = f"{where} of the item {message.item!r} is left out: {message.reason.rstrip('.')}."
    return ev.error(told, code="part_left_out", param=where)


def _cancel_reason(reason: str) -> CancelReason:
    return "turn_detected" if reason == "turn_detected" else "client_cancelled"


def _input_ms(pts: int) -> int:
    return pts * 1000 // p.INPUT_HZ


def _spoken(utterance: UserSpeech, transcript: str | None) -> ev.MessageItem:
    part = ev.Part(type="input_audio", transcript=transcript)
    return ev.MessageItem(id=utterance.item_id, role="user", status="completed", content=(part,))
