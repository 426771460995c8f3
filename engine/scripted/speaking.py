"""A response of a scripted session, and how much of it was already said."""

from __future__ import annotations

from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from engine.audio_output import AudioOutput
from engine.builtin.interfaces import Speech
from engine.ipc.protocol import FunctionTool, Modality
from engine.scripted.script import ScriptedAction

Trigger = Literal["speech", "request", "proactive"]
NO_SOUND = np.zeros(0, np.int16)


class Planned(Struct, frozen=True):
    """A response that is to come."""

    action: ScriptedAction
    speech: Speech
    trigger: Trigger = "proactive"
    utterance: int = 0
    request: str = ""
    modalities: tuple[Modality, ...] = ()
    """Empty: the session's."""
    tools: tuple[FunctionTool, ...] = ()
    """Those that may be called."""
    decisions: str = ""
    ready_s: float = 0.0
    """When it may begin, on the event loop's clock."""
    says: str = ""
    """The commentary whose words these are."""


class SpokenResponse:
    """Owns the place in what is said."""

    def __init__(self, planned: Planned, *, aloud: bool) -> None:
        self.planned = planned
        self.aloud = aloud
        self._at = 0
        self._words = 0
        self._letters = list(planned.decisions.upper())

    @property
    def is_over(self) -> bool:
        return self._words == len(self.planned.speech.words) and (
            not self.aloud or self._at >= len(self.planned.speech.pcm)
        )

    def decides_to_speak(self) -> bool:
        """The next of the script's decisions."""
        return not self._letters or self._letters.pop(0) == "S"

    def take(self, samples: int | None) -> tuple[str, NDArray[np.int16]]:
        """The next words with their sound, so many samples [N]; None: all of it."""
        speech = self.planned.speech
        end = len(speech.pcm) if samples is None else self._at + samples
        begun = self._words
        while self._words < len(speech.words):
            if speech.words[self._words][0] >= end < len(speech.pcm):
                break
            self._words += 1
        pcm = speech.pcm[self._at : end]
        self._at = min(end, len(speech.pcm))
        text = "".join(word for _, word in speech.words[begun : self._words])
        return text, pcm if self.aloud else NO_SOUND


def make_calls(response: SpokenResponse, output: AudioOutput) -> list[str]:
    """Call the functions of a response; returns the names of those that were not offered."""
    offered = {tool.name for tool in response.planned.tools}
    left_out = []
    for index, call in enumerate(response.planned.action.calls):
        if call.name not in offered:
            left_out.append(call.name)
            continue
        call_id = call.id or f"call_{output.epoch}_{index}"
        text = call.text
        step = -(-len(text) // call.pieces) or 1
        pieces = [text[start : start + step] for start in range(0, len(text), step)] or [""]
        for place, piece in enumerate(pieces):
            output.call(call_id, call.name, piece, last=place == len(pieces) - 1)
    return left_out
