"""What a scripted session says: the responses that are planned, the one under way, its figures."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Literal

from engine.audio_output import AudioOutput
from engine.base import Send
from engine.ipc import protocol as p
from engine.scripted.context_gauge import ContextGauge
from engine.scripted.script import Script
from engine.scripted.speaking import Planned, SpokenResponse, make_calls

MAX_PLANNED = 16


class ScriptedSpeaker:
    """Owns the output of one session and its context. In full duplex `unit` drives it, else
    what was heard."""

    def __init__(self, session: str, config: p.SessionConfig, send: Send, script: Script) -> None:
        self._session = session
        self._send = send
        self.config = config
        self.output = AudioOutput(session, send)
        self.gauge = ContextGauge(script.context)
        self.only_listens = False
        self._unit_samples = script.unit_ms * p.OUTPUT_HZ // 1000
        self._units = 0
        self._planned: deque[Planned] = deque()
        self._speaking: SpokenResponse | None = None
        self._has_called = False
        self._leaving: Literal["", "goodbye", "context_limit"] = ""

    @property
    def is_busy(self) -> bool:
        """Something is said, still played, or about to be said."""
        return self.output.is_speaking or bool(self._planned)

    @property
    def waits_for_outputs(self) -> bool:
        """The newest response has ended with calls: what follows does not cut it."""
        return self._has_called and not self.output.is_open

    def plan(self, planned: Planned) -> None:
        """Have this said when its time comes; of too many the oldest is given up."""
        if len(self._planned) == MAX_PLANNED:
            self._give_up(self._planned.popleft(), "overloaded", "too many answers wait")
        self._planned.append(planned)
        wait_s = planned.ready_s - asyncio.get_running_loop().time()
        if wait_s > 0:
            asyncio.get_running_loop().call_later(wait_s, self.go_on)
        self.go_on()

    def go_on(self) -> None:
        """Say what is planned, where no unit has to be waited for; leave when all was heard."""
        while self.config.mode != "full_duplex" and not self.output.is_speaking and self._begin():
            begun = time.monotonic()
            self.gauge.unit(self._say(None))
            self._tell_unit("speak", "turn", begun, 0)
            self._mind_context()
        if self._leaving and not self.is_busy:
            self._send(p.SessionEnded(self._session, self._leaving))

    def unit(self, dropped_ms: int) -> None:
        """A unit of full duplex is complete: speak or listen."""
        begun = time.monotonic()
        if self._speaking is None:
            self._begin()
        speaks = self._speaking is not None and self._speaking.decides_to_speak()
        self.gauge.unit(self._say(self._unit_samples) if speaks else 0)
        self._tell_unit("speak" if speaks else "listen", "unit", begun, dropped_ms)
        self._mind_context()
        self.go_on()

    def silence(self, *, by_client: bool) -> None:
        """Cut what is said and give up what is planned."""
        self._speaking = None
        if self.output.is_speaking:
            if by_client:
                self.output.cancel()
            else:
                self.output.interrupt()
        while self._planned:
            self._give_up(self._planned.popleft(), "interrupted", "something else came first")
        self._leaving = ""

    def leave(self, reason: Literal["", "goodbye", "context_limit"]) -> None:
        """End the session once all is said and heard; an empty reason changes nothing."""
        self._leaving = self._leaving or reason

    def warn(self, code: str, message: str, used: int = 0, limit: int = 0) -> None:
        self._send(p.SessionWarning(self._session, code, message, used, limit))

    def _begin(self) -> bool:
        """Open the next response if its time has come."""
        now = asyncio.get_running_loop().time()
        if not self._planned or self._planned[0].ready_s > now or self.only_listens:
            return False
        planned = self._planned.popleft()
        aloud = "audio" in (planned.modalities or self.config.modalities)
        self._speaking = SpokenResponse(planned, aloud=aloud)
        self._has_called = False
        self.output.begin(
            planned.trigger,
            utterance=planned.utterance,
            modality="audio" if aloud else "text",
            request=planned.request,
            says=planned.says,
        )
        return True

    def _say(self, samples: int | None) -> int:
        """Say the next stretch of the response that is open; returns the number of its words."""
        speaking = self._speaking
        assert speaking is not None
        text, pcm = speaking.take(samples)
        num_words = len(text.split())
        if speaking.planned.action.say:
            self.output.say(text, pcm, tokens=num_words, last=speaking.is_over)
        if speaking.is_over:
            self._finish(speaking)
        return num_words

    def _finish(self, speaking: SpokenResponse) -> None:
        self._speaking = None
        action = speaking.planned.action
        for name in make_calls(speaking, self.output):
            self.warn("tool_not_offered", f"the script calls {name}, which is no tool here")
        self._has_called = bool(action.calls)
        status: Literal["failed", "completed"] = "failed" if action.fails else "completed"
        self.output.finish(status, action.fails, input_tokens=self.gauge.tokens)
        self.leave(action.end)

    def _mind_context(self) -> None:
        """Warn of a context that fills up; at its limit forget, or end."""
        policy = self.config.context_policy
        if told := self.gauge.warning(policy):
            self.warn("context_near_limit", told, self.gauge.tokens, self.gauge.limit)
        if not self.gauge.is_full:
            return
        if policy == "slide":
            self.gauge.slide()
            return
        self.output.finish("incomplete", "the model cannot remember more")
        self._speaking = None
        while self._planned:
            self._give_up(self._planned.popleft(), "context_limit", "the context is full")
        self._leaving = "context_limit"

    def _give_up(self, planned: Planned, code: str, reason: str) -> None:
        if planned.trigger == "request":
            self._send(p.RequestRefused(self._session, planned.request, code, reason))

    def _tell_unit(
        self, decision: Literal["listen", "speak"], stage: str, begun: float, dropped_ms: int
    ) -> None:
        self._units += 1
        stages_ms = {stage: round((time.monotonic() - begun) * 1000, 2)}
        self._send(
            p.UnitDone(
                self._session, self._units, decision, stages_ms, self.gauge.tokens, dropped_ms
            )
        )
