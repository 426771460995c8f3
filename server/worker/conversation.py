"""One conversation: what the engine says becomes events, items and sound.

Owned by the session, with the items, the user's turns and the responses.
`server.worker.commands` handles the other direction. Knows no protocol, peers, sockets or tasks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from engine.ipc import protocol as p
from server.worker.audience import Audience
from server.worker.engine_settings import engine_config
from server.worker.in_force import TOLD_HERE, in_force, refuse, without_effect
from server.worker.items import Items
from server.worker.offered_modes import MODES, check_mode, told, within
from server.worker.open_requests import OpenRequests
from server.worker.recall import begins_anew, newest, recalled
from server.worker.responses import Asked
from server.worker.session_responses import SessionResponses
from server.worker.user_turns import UserTurns, input_ms
from signaling.errors import ProtocolError
from signaling.session import events as ev
from signaling.session.core import Abilities, Asker, Watcher
from signaling.session.items import Item
from signaling.settings import SessionSettings
from signaling.toolchecks import unsupported

REREAD = (
    "With this change the model begins anew: it was told the words of the conversation again, but "
    "what it saw and how it sounded is forgotten."
)
MAX_TOLD = 100
"""Different notices about settings in a session."""


class Conversation:
    """Owns the settings in force, and what came of the conversation so far."""

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
        self.audience = audience
        self.items = Items()
        self.requests = OpenRequests()
        self.turns = UserTurns(
            self.items,
            audience.emit,
            clock,
            tells_words=lambda: self.settings.audio.input.transcription is not None,
        )
        self.responses = SessionResponses(
            session_id, self.items, audience.emit, to_engine, on_first_sound=self._answered
        )
        self.latency_ms: dict[str, float] = {}
        self.recalled = ""
        """What the engine was told of the conversation before it began anew."""
        self.kv_tokens = 0
        self.input_pts = 0
        """How far the user's sound has come."""
        self._to_engine = to_engine
        self._clock = clock
        self._told: set[str] = set()

    def time_out(self, silent_ms: int) -> None:
        """Tell that the user was silent for so long; that is a turn of its own."""
        self.turns.time_out(input_ms(self.input_pts), silent_ms)

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
        return engine_config(self.settings, self.recalled, can_hold=self.responses.speaker.can_hold)

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
        running = self.responses.running()
        ids = tuple(response.id for response in running)
        watcher.tell(ev.SessionGoesOn(items=self.standing(), responses=ids))
        for response in running:
            response.retell(watcher.tell)

    def standing(self) -> tuple[Item, ...]:
        """The newest items as they stand, bounded in number and words; of answers what was
        heard."""
        spoken = self.responses.spoken_items()
        return newest([spoken.get(item.id) or item for item in self.items])

    def restore(self, items: Iterable[Item]) -> None:
        """Go on from what was said elsewhere; before an engine is asked."""
        for item in items:
            self.items.put(item)
        self.recall()

    def engine_lost(self) -> None:
        """The engine is gone: nothing more comes of what it was saying or hearing."""
        self.responses.strand()
        self.turns.is_speaking = False

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
                self.responses.hear(message)
            case p.ResponseStarted():
                self.responses.begin(message, self._asked(message))
            case p.ResponseDone():
                self.responses.done(message)
            case p.Interrupt():
                self.responses.cut(message.epoch, "turn_detected")
            case p.OverlapTold():
                self._spoken_over(message)
            case p.SpeechStarted() | p.SpeechStopped() | p.SpeechCommitted() | p.InputTranscript():
                self.turns.hear(message)
            case p.UnitDone():
                self._unit_done(message)
            case _:
                self._pass_on(message)

    def _asked(self, message: p.ResponseStarted) -> Asked:
        """What a response answers: a client's request, or the user."""
        asked = self.requests.take(message.request)
        if asked is not None:
            return asked
        limit = self.settings.max_output_tokens
        return Asked(
            max_output_tokens=limit if isinstance(limit, int) else None,
            has_tools=bool(self.settings.tools),
        )

    def _unit_done(self, message: p.UnitDone) -> None:
        self.latency_ms |= message.stages_ms
        self.kv_tokens = message.kv_tokens
        figures: dict[str, float | int] = {
            f"{name}_ms": value for name, value in message.stages_ms.items()
        }
        figures |= {"unit": message.unit, "kv_tokens": message.kv_tokens}
        figures["ahead_ms"] = self.responses.speaker.waiting_ms
        if self.abilities is not None and self.abilities.context_tokens:
            figures["context_tokens"] = self.abilities.context_tokens
        self.audience.emit(ev.Figures(figures=figures, decision=message.decision))

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
        speaker = self.responses.speaker
        if message.loudness and speaker.can_hold:
            speaker.lower(message.loudness)
        if message.decision:
            self.audience.emit(
                ev.OverlapDecided(
                    decision=message.decision,
                    start_ms=input_ms(message.pts),
                    took_ms=message.took_ms,
                )
            )

    def _answered(self) -> None:
        """The first sound of an answer is on its way."""
        if self.turns.stopped_at is not None:
            waited_ms = (self._clock() - self.turns.stopped_at) * 1000
            self.latency_ms["speech_stopped_to_audio"] = round(waited_ms, 1)
            self.turns.stopped_at = None


def _is_told_here(warning: p.SessionWarning) -> bool:
    """Whether it is about a setting of which the client is told under its own name for it."""
    return warning.code == "unused_setting" and warning.message.partition(":")[0] in TOLD_HERE


def _sentence(text: str) -> str:
    """What an engine says of something, as a client is to read it."""
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?", "…")) else ".")
