"""What a session says through the voice lane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.session import Session
from engine.minicpmo.speech.talker import Speak
from engine.minicpmo.speech.worker import Say, VoiceLane

SPEECH_SEED = 0x5EED


class Mouth:
    """One session's way to the voice lane, with the random numbers of its speech."""

    def __init__(self, runner: Runner, lane: VoiceLane, session: Session) -> None:
        self.generation = 0
        """Counts how often it fell silent: sound of an older generation is not to be heard."""
        self._runner = runner
        self._lane = lane
        self._slot = session.slot
        self._draws = Draws(session.seed ^ SPEECH_SEED)

    def say(
        self,
        owner: Any,
        ids: Sequence[int],
        states: Sequence[Tensor],
        *,
        is_unit: bool,
        ends: bool,
        starts: bool = False,
        others_follow: bool = False,
    ) -> None:
        """Have spoken ids [T] and their states [C] each made sound of; it comes with `owner`.

        `ends`, `starts`: the last and the first of a turn. `others_follow`: see `Say`.
        """
        speak, ready = self._runner.speech(ids, states)
        self._lane.say(
            Say(
                Speak(self._slot, *speak, self._draws, ends=ends),
                is_unit=is_unit,
                owner=owner,
                ready=ready,
                starts=starts,
                others_follow=others_follow,
            )
        )

    def hush(self) -> None:
        """Say nothing of what was ordered before."""
        self.generation += 1
        self._lane.hush(self._slot)
