"""Full duplex: every second each session's unit goes in, and the model listens or speaks."""

from __future__ import annotations

import time
from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from engine.duplex import DuplexSession, UnitResult
from engine.duplex_rows import UnitInput
from engine.layers.logmel import ChunkQueue
from engine.prompts import DUPLEX_SYSTEM
from engine.runner import Pcm, Runner
from engine.sampling import Draws
from engine.session import Session
from engine.speech_codes import Speak
from engine.window import ContextFull

UNIT_SAMPLES = 16_000
SPEECH_SEED = 0x5EED
NO_SOUND = np.zeros(0, np.int16)


class _Mind:
    """What full duplex keeps of a session beside its rows."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.queue = ChunkQueue()
        self.draws = Draws(session.seed ^ SPEECH_SEED)
        self.is_running = False
        self.has_new_settings = False
        self.started = 0.0


class FullDuplex:
    """Drives the full-duplex sessions of a runner. `advance` does one step for all of them."""

    def __init__(self, runner: Runner, max_context: int) -> None:
        self._runner = runner
        self._max_context = max_context
        self._minds: dict[int, _Mind] = {}

    def open(self, session: Session) -> None:
        """Begin a conversation in the session's slot; raises `ValueError` for bad settings."""
        settings = session.duplex_settings()
        slot, prompts = session.slot, self._runner.model.prompts
        talk = DuplexSession(self._runner.model.tokens, settings, session.seed, self._max_context)
        self._runner.duplex.open(slot, talk)
        text = session.config.instructions or DUPLEX_SYSTEM
        self._runner.duplex.prepare(
            {slot: (prompts.duplex_prefix(text), session.voice.embeddings, prompts.duplex_suffix())}
        )
        self._minds[slot] = _Mind(session)

    def configure(self, session: Session) -> None:
        """Take new settings from the next unit on; raises `ValueError` for bad ones."""
        session.duplex_settings()
        self._minds[session.slot].has_new_settings = True

    def close(self, slot: int) -> None:
        self._minds.pop(slot, None)

    def has(self, slot: int) -> bool:
        return slot in self._minds

    def interrupt(self, session: Session) -> None:
        """Stop speaking: the unit under way or the next one becomes a listen."""
        mind = self._minds[session.slot]
        if mind.is_running:
            self._apply(self._runner.duplex.interrupt([session.slot]))
        else:
            session.interrupted = True
        self._runner.hush(session.slot)

    def advance(self) -> bool:
        """Start what is due, decide one token for all under way; whether anything was done."""
        started = self._begin()
        running = [slot for slot, mind in self._minds.items() if mind.is_running]
        if running:
            with self._runner.timed("decode"):
                results = self._runner.duplex.step(running)
            self._apply(results)
        return started or bool(running)

    # ------------------------------------------------------------------ a unit's start

    def _begin(self) -> bool:
        due: dict[int, Tensor] = {}
        for slot, mind in self._minds.items():
            if mind.is_running or mind.session.is_over:
                continue
            fresh = mind.session.hearing.take_unit(UNIT_SAMPLES)
            if fresh is not None:
                if mind.has_new_settings:
                    mind.has_new_settings = False
                    talk = self._runner.duplex.sessions[slot]
                    talk.configure(mind.session.duplex_settings())
                mind.queue.push(fresh)
                chunk = mind.queue.take()
                if chunk is not None:
                    due[slot] = chunk
                    mind.started = time.perf_counter()
        if not due:
            return False
        heard = self._runner.hear(due)
        seen = self._look(due)
        inputs = self._with_room(
            [
                UnitInput(slot, heard[slot], seen.get(slot, ()), self._must_listen(slot))
                for slot in due
            ]
        )
        if inputs:
            for unit in inputs:
                self._minds[unit.slot].is_running = True
            with self._runner.timed("prefill"):
                forced = self._runner.duplex.prefill(inputs)
            self._apply(forced)
        return True

    def _look(self, slots: Iterable[int]) -> dict[int, list[tuple[Tensor, ...]]]:
        asked = []
        for slot in slots:
            session = self._minds[slot].session
            picture = session.take_picture()
            if picture is not None:
                asked.append((slot, picture, session.config.max_image_slices))
        seen = self._runner.look([(picture, most) for _, picture, most in asked])
        return {slot: [s.images] for (slot, _, _), s in zip(asked, seen, strict=True)}

    def _must_listen(self, slot: int) -> bool:
        session = self._minds[slot].session
        interrupted, session.interrupted = session.interrupted, False
        return interrupted or session.forced_listen

    def _with_room(self, inputs: list[UnitInput]) -> list[UnitInput]:
        """Those whose context takes the unit; the sessions of the others end."""
        fitting = []
        for unit in inputs:
            try:
                self._runner.duplex.room(unit)
            except ContextFull:
                self._minds[unit.slot].session.end("the model cannot remember more")
                continue
            fitting.append(unit)
        return fitting

    # ------------------------------------------------------------------ a unit's end

    def _apply(self, results: dict[int, UnitResult]) -> None:
        """Say what was decided, close the units."""
        if not results:
            return
        speaking: list[tuple[int, UnitResult]] = []
        for slot, result in results.items():
            mind = self._minds[slot]
            mind.is_running = False
            if result.is_cut:
                self._runner.hush(slot)
            if result.wants_speech and mind.session.speaks:
                speaking.append((slot, result))
        sounds = self._runner.say_unit([self._speak(slot, result) for slot, result in speaking])
        pcm = {slot: sound for (slot, _), sound in zip(speaking, sounds, strict=True)}
        times = self._runner.take_times()
        for slot, result in results.items():
            self._tell(self._minds[slot], result, pcm.get(slot), times)
        self._runner.duplex.finalize(list(results))

    def _speak(self, slot: int, result: UnitResult) -> Speak:
        model = self._runner.model
        ids = torch.tensor([token.id for token in result.spoken], dtype=torch.long)
        states = [token.hidden for token in result.spoken if token.hidden is not None]
        width = model.config.llm.hidden_size
        hidden = torch.stack(states) if states else torch.zeros(0, width, dtype=model.dtype)
        if result.is_turn_start:
            self._runner.hush(slot)
        return Speak(
            slot,
            ids.to(model.device),
            hidden.to(model.device),
            self._minds[slot].draws,
            ends=result.end_of_turn,
        )

    def _tell(
        self, mind: _Mind, result: UnitResult, pcm: Pcm | None, times: dict[str, float]
    ) -> None:
        session = mind.session
        output = session.output
        if result.is_cut and output.is_open:
            output.interrupt()
        speaks = result.wants_speech or bool(result.text)
        if speaks:
            if result.is_turn_start and output.is_open:
                output.finish("completed")
            if not output.is_open:
                output.begin("proactive", modality="audio" if session.speaks else "text")
            silence = NO_SOUND if pcm is None else pcm
            output.say(result.text, silence, tokens=result.num_tokens, last=result.end_of_turn)
            if result.end_of_turn:
                output.finish("completed", input_tokens=result.kv_length)
        total_ms = (time.perf_counter() - mind.started) * 1000
        session.unit_done(
            speaks=speaks,
            stages_ms=times | {"unit": round(total_ms, 2)},
            kv_tokens=result.kv_length,
        )
        session.warn_context(result.warning)
