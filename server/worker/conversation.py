"""One conversation: what the engine says becomes events, items and sound.

Owned by the session, with the items, the user's turns and the responses that are not over.
`server.worker.commands` handles the other direction. Knows no protocol, peers, sockets or tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from engine.ipc import protocol as p
from media.playout import Loudness
from server.worker.audience import Audience
from server.worker.engine_settings import engine_config
from server.worker.in_force import TOLD_HERE, in_force, refuse, without_effect
from server.worker.items import Items
from server.worker.offered_modes import MODES, check_mode, told, within
from server.worker.open_requests import OpenRequests
from server.worker.recall import begins_anew, newest, recalled
from server.worker.responses import ActiveResponse, Asked
from server.worker.user_turns import UserTurns, input_ms
from signaling.errors import ProtocolError
from signaling.session import events as ev
from signaling.session.core import Abilities, Asker, Watcher
from signaling.session.items import Item, MessageItem
from signaling.settings import SessionSettings
from signaling.toolchecks import unsupported

HEARD_INTERVAL_SAMPLES = p.OUTPUT_HZ // 5
REREAD = (
    "With this change the model begins anew: it was told the words of the conversation again, but "
    "what it saw and how it sounded is forgotten."
)
MAX_TOLD = 100
"""Different notices about settings in a session."""
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

    @property
    def waiting_ms(self) -> int: ...


class Conversation:
    """Also the playout's listener: `started`, `progressed` and `drained` come from there."""

    def __init__(
        self,
        settings: SessionSettings,
        *,
        audience: Audience,
        to_engine: Callable[[p.Message], bool],
        session_id: str,
        modes: tuple[p.Mode, ...] = MODES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.session_id = session_id
        self._modes = modes
        self.begin_with(settings)
        self.abilities: Abilities | None = None
        """Known when the session is served."""
        self.expires_at: int | None = None
        """Unix seconds; known when the session is served."""
        self.is_sent_ahead = False
        """Whether the client gets sound before its time, and says itself what it heard."""
        self.audience = audience
        self.items = Items()
        self.requests = OpenRequests()
        self.turns = UserTurns(
            self.items,
            audience.emit,
            clock,
            tells_words=lambda: self.settings.audio.input.transcription is not None,
        )
        self.latency_ms: dict[str, float] = {}
        self.recalled = ""
        """What the engine was told of the conversation before it began anew."""
        self.kv_tokens = 0
        self.input_pts = 0
        """How far the user's sound has come."""
        self.answers_heard = 0
        """Answers that were heard to their end."""
        self._to_engine = to_engine
        self._clock = clock
        self._told: set[str] = set()
        self._speaker: SpeechPlayout | None = None
        self._responses: dict[int, ActiveResponse] = {}
        self._past: dict[str, ActiveResponse] = {}

    def use(self, speaker: SpeechPlayout, *, is_sent_ahead: bool = False) -> None:
        """Give the playout that speaks for this conversation; once, before any message.

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
        return next(
            (
                response
                for response in reversed(self._responses.values())
                if not response.is_ended and not response.is_out_of_band
            ),
            None,
        )

    @property
    def is_answering(self) -> bool:
        """Whether a response is made or heard."""
        return any(not r.is_out_of_band for r in self._responses.values())

    def time_out(self, silent_ms: int) -> None:
        """Tell that the user was silent for so long; that is a turn of its own."""
        self.turns.time_out(input_ms(self.input_pts), silent_ms)

    def response(self, response_id: str | None) -> ActiveResponse | None:
        """The response of this id whose end was not told; None: that of the conversation."""
        if response_id is None:
            return self.active
        return next(
            (r for r in self._responses.values() if r.id == response_id and not r.is_ended), None
        )

    def running(self, item_id: str) -> ActiveResponse | None:
        """The response whose message this is, while it is made or heard."""
        return next((r for r in self._responses.values() if r.item_id == item_id), None)

    def begin_with(self, settings: SessionSettings) -> None:
        """Set what the client asks for, before an engine serves the session."""
        self.settings = within(settings, self._modes)
        self._has_own_mode = self.settings == settings

    def update(self, changes: Mapping[str, Any], by: Asker | None = None) -> None:
        """Apply a partial session object and tell both sides; raises `ProtocolError`."""
        # Which model serves the session is settled; clients send what they take for it.
        changes = {name: value for name, value in changes.items() if name != "model"}
        settings = self.settings.merge(changes)
        if settings.type != self.settings.type:
            raise unsupported("session.type", "a session stays of the kind that it was opened as")
        check_mode(settings, self._modes)
        refuse(changes, settings, self.abilities)
        if begins_anew(self.settings, settings, self.abilities):
            self.recall()
        self.settings = settings
        self._to_engine(p.UpdateSession(self.session_id, self.engine_config()))
        self.audience.emit(
            ev.SettingsChanged(
                session_id=self.session_id,
                settings=in_force(settings, self.abilities),
                expires_at=self.expires_at,
            ),
            by,
        )
        self.tell_unused()

    def engine_config(self) -> p.SessionConfig:
        """What the engine is to know of the settings."""
        return engine_config(self.settings, self.recalled, can_hold=self.speaker.can_hold)

    def recall(self) -> None:
        """Have the engine, which begins anew, told what was said so far."""
        self.recalled = recalled(self.items)

    def greet(self, watcher: Watcher) -> None:
        """Tell a connection that the session is served."""
        watcher.tell(
            ev.SessionReady(
                session_id=self.session_id,
                settings=in_force(self.settings, self.abilities),
                expires_at=self.expires_at,
            )
        )
        self.tell_unused()

    def retell(self, watcher: Watcher) -> None:
        """Tell a client that comes back what it may have missed, and what is being said."""
        running = [r for r in self._responses.values() if not (r.is_out_of_band or r.is_ended)]
        ids = tuple(response.id for response in running)
        watcher.tell(ev.SessionGoesOn(items=self.standing(), responses=ids))
        for response in running:
            response.retell(watcher.tell)

    def standing(self) -> tuple[Item, ...]:
        """The newest items as they stand, bounded in number and words; of answers what was
        heard."""
        spoken = {r.item_id: r.spoken_item for r in self._responses.values() if not r.is_ended}
        return newest([spoken.get(item.id) or item for item in self.items])

    def restore(self, items: Iterable[Item]) -> None:
        """Go on from what was said elsewhere; before an engine is asked."""
        for item in items:
            self.items.put(item)
        self.recall()

    def engine_lost(self) -> None:
        """The engine is gone: nothing more comes of what it was saying or hearing."""
        self.strand()
        self.turns.is_speaking = False

    def strand(self) -> None:
        """Cut what is being said, which nobody will hear."""
        if self._responses:
            self.cut(max(self._responses), "client_cancelled")

    def tell_unused(self) -> None:
        """Tell of settings that change nothing, once it is known; of each once."""
        if not self._has_own_mode:
            self._tell_once("mode_not_offered", told(self._modes))
        for name in self.settings.unknown:
            self._tell_once("unknown_setting", f"{name} is not known here.")
        for name in without_effect(self.settings, self.abilities):
            self._tell_once("unused_setting", f"{name} is accepted but has no effect here.")

    def _tell_once(self, code: str, message: str) -> None:
        if message not in self._told and len(self._told) < MAX_TOLD:
            self._told.add(message)
            self.audience.emit(ev.Notice(code=code, message=message))

    # ------------------------------------------------------------------ from the engine

    def hear(self, message: p.FromEngine) -> None:
        """Take one message of the engine, in order. `SessionEnded` is the session's."""
        match message:
            case p.AudioOut() | p.TextOut() | p.FunctionCallOut():
                self._hear_answer(message)
            case p.ResponseStarted():
                self._response_started(message)
            case p.ResponseDone():
                self._response_done(message)
            case p.Interrupt():
                self.cut(message.epoch, "turn_detected")
            case p.OverlapTold():
                self._spoken_over(message)
            case p.SpeechStarted() | p.SpeechStopped() | p.SpeechCommitted() | p.InputTranscript():
                self.turns.hear(message)
            case p.UnitDone():
                self.latency_ms |= message.stages_ms
                self.kv_tokens = message.kv_tokens
                figures: dict[str, float | int] = {
                    f"{name}_ms": value for name, value in message.stages_ms.items()
                }
                figures |= {"unit": message.unit, "kv_tokens": message.kv_tokens}
                figures["ahead_ms"] = self.speaker.waiting_ms
                if self.abilities is not None and self.abilities.context_tokens:
                    figures["context_tokens"] = self.abilities.context_tokens
                self.audience.emit(ev.Figures(figures=figures, decision=message.decision))
            case _:
                self._pass_on(message)

    def _hear_answer(self, message: p.AudioOut | p.TextOut | p.FunctionCallOut) -> None:
        response = self._responses.get(message.epoch)
        match message:
            case p.AudioOut():
                samples = len(message.pcm) // 2
                if response is not None:
                    response.add_sound(message.pts, samples)
                # The next piece begins with a whole sample, however this one ends.
                self.speaker.push(message.epoch, message.pcm[: 2 * samples])
            case p.TextOut() if response is not None:
                response.add_text(message.pts, message.text)
            case p.FunctionCallOut() if response is not None:
                response.add_call(message)

    def _pass_on(self, message: p.FromEngine) -> None:
        match message:
            case p.SessionWarning() if _is_told_here(message):
                pass
            case p.SessionWarning(code="context_restarted") if self.recalled:
                self.audience.emit(ev.Notice(code="context_reread", message=REREAD))
            case p.SessionWarning():
                told = _sentence(message.message)
                self.audience.emit(ev.Notice(code=message.code, message=told))
            case p.PartLeftOut():
                self.audience.emit(
                    ev.PartDropped(
                        item_id=message.item, part=message.part, reason=message.reason.rstrip(".")
                    )
                )
            case p.RequestRefused():
                asked = self.requests.take(message.request) or Asked()
                is_ours = message.code == "overloaded"
                error = ProtocolError(
                    _sentence(message.reason),
                    code=message.code,
                    type="server_error" if is_ours else "invalid_request_error",
                )
                self.audience.refuse(error, asked.by)
            case p.ContextAppended():
                kind, by = self.requests.take_append(message.request)
                appended = ev.ContextPlaced(
                    kind=kind, start_ms=input_ms(message.pts), end_ms=input_ms(message.end_pts)
                )
                self.audience.emit(appended, by)
            case p.DelegationCreated():
                self.audience.emit(
                    ev.TaskDelegated(delegation_id=message.delegation, at_ms=input_ms(message.pts))
                )

    def _spoken_over(self, message: p.OverlapTold) -> None:
        """The caller sounds over an answer: it becomes as loud as it is to be."""
        if message.loudness and self.speaker.can_hold:
            self.speaker.lower(message.loudness)
        if message.decision:
            self.audience.emit(
                ev.OverlapDecided(
                    decision=message.decision,
                    start_ms=input_ms(message.pts),
                    took_ms=message.took_ms,
                )
            )

    def _response_started(self, message: p.ResponseStarted) -> None:
        asked = self.requests.take(message.request)
        if asked is None:
            limit = self.settings.max_output_tokens
            asked = Asked(
                max_output_tokens=limit if isinstance(limit, int) else None,
                has_tools=bool(self.settings.tools),
            )
        response = ActiveResponse(
            message.epoch, message.modality, self.audience.emit, self.items, asked
        )
        self._responses[message.epoch] = response
        if not response.is_out_of_band:
            # From now on the playout knows the epoch, so that a cut before its first sample holds.
            self.speaker.push(message.epoch, b"")
        response.begin()

    def _response_done(self, message: p.ResponseDone) -> None:
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
        if self.turns.stopped_at is not None:
            waited_ms = (self._clock() - self.turns.stopped_at) * 1000
            self.latency_ms["speech_stopped_to_audio"] = round(waited_ms, 1)
            self.turns.stopped_at = None
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
        if samples - response.reported_samples >= HEARD_INTERVAL_SAMPLES:
            response.reported_samples = samples
            self._to_engine(p.Heard(self.session_id, epoch, samples))

    def drained(self, epoch: int) -> None:
        """A finished epoch was played to its last sample."""
        response = self._responses.pop(epoch, None)
        if response is None:
            return
        if response.outcome is None:
            # A newer epoch came before the engine said how this one ended.
            response.outcome = p.ResponseDone(self.session_id, epoch, "completed")
        heard = self.speaker.heard(epoch)
        self._to_engine(p.Heard(self.session_id, epoch, heard, final=True))
        if not response.is_ended:
            response.end()
        response.played(heard)
        self.answers_heard += 1
        self._keep(response)

    # ------------------------------------------------------------------ cutting

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
                    p.Heard(self.session_id, response.epoch, samples, final=True, interrupted=True)
                )
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
        item = self.items.get(item_id)
        is_whole = isinstance(item, MessageItem) and item.status == "completed"
        if end_ms > heard_ms and (is_whole or self.is_sent_ahead):
            raise ProtocolError(
                f"audio_end_ms: {heard_ms} ms of sound is already shorter than {end_ms} ms.",
                param="audio_end_ms",
            )
        heard = response.forget(end_ms * p.OUTPUT_HZ // 1000)
        self._to_engine(
            p.Heard(self.session_id, response.epoch, heard, final=True, interrupted=True)
        )


def _is_told_here(warning: p.SessionWarning) -> bool:
    """Whether it is about a setting of which the client is told under its own name for it."""
    return warning.code == "unused_setting" and warning.message.partition(":")[0] in TOLD_HERE


def _sentence(text: str) -> str:
    """What an engine says of something, as a client is to read it."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")
