"""The speech of all slots: what is to be said becomes codes and sound, in batches.

Owned by the voice lane's thread. What a slot gets does not depend on which others are in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from engine.graphs import GraphPool
from engine.model import OmniModel
from engine.speech_codes import Speak, SpeechCodes
from engine.timing import Stages, timed
from engine.token2wav import Codes, SpeechStreams, VoiceBase, to_pcm

Pcm = NDArray[np.int16]
NO_SOUND: Pcm = np.zeros(0, np.int16)


class Speaker:
    """Owns the caches of code decoder, flow and vocoder."""

    def __init__(self, model: OmniModel, num_slots: int, *, max_prompt: int) -> None:
        """`max_prompt`: mel frames of the longest voice prompt."""
        self.device = model.device
        self.graphs = GraphPool(model.device)
        self.codes = SpeechCodes(model.speech, num_slots)
        self.streams = (
            SpeechStreams(model.token2wav, num_slots, max_prompt) if model.token2wav else None
        )

    def warm_up(self, show: Callable[[str], None]) -> None:
        """Capture every graph; tells how far it is."""

    def set_voice(self, slot: int, voice: VoiceBase) -> None:
        if self.streams is not None:
            self.streams.set_voice(slot, voice)

    def hush(self, slot: int) -> None:
        """Forget what the slot was about to say: turn end, interruption."""
        self.codes.reset(slot)
        if self.streams is not None:
            self.streams.reset(slot)

    def clear(self, slot: int) -> None:
        """Leave nothing of a session in the slot."""
        self.codes.clear(slot)
        if self.streams is not None:
            self.streams.clear(slot)

    @torch.inference_mode()
    def unit(self, batch: Sequence[Speak], stages: Stages) -> list[Pcm]:
        """The speech of one full-duplex unit of each slot."""
        if self.streams is None:
            return [NO_SOUND for _ in batch]
        with timed(self.device) as timer:
            codes = self.codes.duplex(batch)
        stages.append(("tts", timer))
        with timed(self.device) as timer:
            sounds = self.streams.unit(_codes(batch, codes))
            pcm = [to_pcm(sound) for sound in sounds]
        stages.append(("vocoder", timer))
        return pcm

    @torch.inference_mode()
    def group(self, batch: Sequence[Speak], stages: Stages) -> list[Pcm]:
        """A group of tokens of turn-based replies as speech, as far as it goes."""
        if self.streams is None:
            return [NO_SOUND for _ in batch]
        with timed(self.device) as timer:
            codes = self.codes.group(batch)
        stages.append(("tts", timer))
        with timed(self.device) as timer:
            sounds = self.streams.group(_codes(batch, codes))
            pcm = [to_pcm(sound) for sound in sounds]
        stages.append(("vocoder", timer))
        return pcm


def _codes(batch: Sequence[Speak], codes: list[list[int]]) -> list[Codes]:
    return [Codes(s.slot, c, s.ends) for s, c in zip(batch, codes, strict=True)]
