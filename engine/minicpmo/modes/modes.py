"""Full duplex and turns side by side: which one a session is in, and the step that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from engine.gpu.timing import Timer
from engine.minicpmo.modes.background import Background
from engine.minicpmo.modes.full_duplex import FullDuplex
from engine.minicpmo.modes.half_duplex import HalfDuplex
from engine.minicpmo.modes.mode import Mode
from engine.minicpmo.modes.unit_alignment import PHASES
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.session import Session
from engine.minicpmo.speech.worker import SpeechWorker


class Modes:
    """Owned by the model's thread."""

    def __init__(self, runner: Runner, speech: SpeechWorker, *, phases: int = PHASES) -> None:
        """`phases`: groups whose units end together, see `UnitGroups`."""
        self.duplex = FullDuplex(runner, speech, phases=phases)
        self.turns = HalfDuplex(runner, speech)
        self._runner = runner
        self._background = Background(runner.model.device, self.duplex, self.turns)

    def of(self, session: Session) -> FullDuplex | HalfDuplex:
        return self.duplex if session.config.mode == "full_duplex" else self.turns

    def close(self, slot: int) -> None:
        """End the conversation in a slot, whatever its mode."""
        self.duplex.close(slot)
        self.turns.close(slot)

    def step(self) -> bool:
        """Start what is due, then feed all sessions a token; return whether there was work."""
        started = self.duplex.start() or self._background.go_on()
        # Beside units under way a reply's token costs little; alone it would hold up their speech.
        waits = self.duplex.is_speaking() and not self.duplex.is_busy()
        decided = step(self._runner, (self.duplex,) if waits else (self.duplex, self.turns))
        return started or decided

    def is_answering(self, session: Session) -> bool:
        """Return whether an answer is heard, or about to be, that speech would cut."""
        return session.config.mode != "turn_based" and (
            session.output.is_speaking or self.turns.is_asked(session.slot)
        )

    def silence(self, session: Session, *, by_client: bool) -> None:
        """Cut what is being said, in the playback and in the model."""
        if by_client:
            session.output.cancel()
        else:
            session.output.interrupt()
        self.of(session).interrupt(session)

    def speaks_over(self, session: Session) -> None:
        """End the answer that the user speaks over, also one that was about to begin."""
        if session.output.is_speaking:
            self.silence(session, by_client=False)
        if self.turns.is_asked(session.slot):
            self.turns.withdraw(session)


def step(runner: Runner, modes: Sequence[Mode[Any, Any]]) -> bool:
    """Choose a token for every session of these modes and feed all of them in one forward.

    Returns whether there was any.
    """
    chosen = [mode.batch.choose(mode.under_way()) for mode in modes]
    feeding = {slot: token for one in chosen for slot, token in one.feeding.items()}
    with Timer(runner.model.device) as timer:
        states = dict(zip(feeding, runner.llm.step(feeding), strict=True))
    for mode, one in zip(modes, chosen, strict=True):
        if one.slots:
            mode.note(one.slots, "decode", timer)
            mode.finish(mode.batch.fed(one, states))
    return any(one.slots for one in chosen)
