"""The speech of all slots: what is to be said becomes codes and sound, in batches.

Owned by the speech thread. What a slot gets does not depend on which others are in a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from engine.gpu.graphs import GraphPool
from engine.gpu.timing import Stages, Timer
from engine.minicpmo.checkpoint import OmniModel
from engine.minicpmo.models.code2wav import VoiceBase
from engine.minicpmo.speech.code2wav import Code2Wav, Codes, Pcm, to_pcm
from engine.minicpmo.speech.talker import Talker, TalkerInput

NO_SOUND: Pcm = np.zeros(0, np.int16)

Emit = Callable[[int, Pcm, bool], None]
"""Called with the place in the batch, a part of its sound, and whether it is the last one."""


class SpeechPipeline:
    """Owns the caches of code decoder, flow and vocoder."""

    def __init__(
        self,
        model: OmniModel,
        num_slots: int,
        *,
        max_prompt: int,
        speech_context: int | None = None,
        first_codes: int = 0,
    ) -> None:
        """`max_prompt`: mel frames of the longest voice prompt; `speech_context`: condition rows
        and codes of a turn that the code decoder holds, see `Talker`; `first_codes`: of the
        short first part of a turn, see `Code2Wav`."""
        self.device = model.device
        # Speech runs short kernels that a listener waits for; it would starve behind long ones.
        self.graphs = GraphPool(model.device, urgent=True)
        self.num_slots = num_slots
        unit = model.config.unit
        self.talker = Talker(model.speech, num_slots, speech_context, self.graphs, unit=unit)
        self.code2wav = (
            Code2Wav(
                model.code2wav,
                num_slots,
                max_prompt,
                graphs=self.graphs,
                first_codes=first_codes,
                unit=unit,
            )
            if model.code2wav
            else None
        )

    def warm_up(self, show: Callable[[str], None]) -> None:
        """Capture every graph; tells how far it is."""
        if self.code2wav is None:
            return
        self.talker.warm_up(self.num_slots, show)
        self.code2wav.warm_up(self.num_slots, show)

    def set_voice(self, slot: int, voice: VoiceBase) -> None:
        if self.code2wav is not None:
            self.code2wav.set_voice(slot, voice)

    def cancel(self, slot: int) -> None:
        """Forget what the slot was about to say: turn end, interruption."""
        self.talker.reset(slot)
        if self.code2wav is not None:
            self.code2wav.reset(slot)

    def clear(self, slot: int) -> None:
        """Leave nothing of a session in the slot."""
        self.talker.clear(slot)
        if self.code2wav is not None:
            self.code2wav.clear(slot)

    @torch.inference_mode()
    def unit(self, batch: Sequence[TalkerInput], stages: Stages, emit: Emit) -> None:
        """The speech of one full-duplex unit of each slot, as soon as it is there.

        A turn's first unit comes in two parts, a short one ahead of the rest.
        """
        if self.code2wav is None:
            for place in range(len(batch)):
                emit(place, NO_SOUND, True)
            return
        first = self.code2wav.first_codes
        starts = [i for i, s in enumerate(batch) if self.talker.is_turn_start(s.slot)]
        with Timer(self.device) as timer:
            unit = self.talker.begin_unit(batch)
            codes: list[list[int]] = [[] for _ in batch]
            if first and starts:
                codes = unit.more(first)
        stages.append(("tts", timer))
        # With an end code this early there is no first part to send ahead.
        early = {i: codes[i] for i in starts if 0 < first == len(codes[i])}
        if early:
            with Timer(self.device) as timer:
                given = [Codes(batch[i].slot, own) for i, own in early.items()]
                sounds = to_pcm(self.code2wav.first_part(given))
            stages.append(("vocoder", timer))
            for place, pcm in zip(early, sounds, strict=True):
                emit(place, pcm, False)
        with Timer(self.device) as timer:
            rest = unit.more()
        stages.append(("tts", timer))
        with Timer(self.device) as timer:
            left = [
                Codes(speak.slot, more if i in early else [*codes[i], *more], speak.ends)
                for i, (speak, more) in enumerate(zip(batch, rest, strict=True))
            ]
            sounds = to_pcm(self.code2wav.unit(left))
        stages.append(("vocoder", timer))
        for place, pcm in enumerate(sounds):
            emit(place, pcm, True)

    @torch.inference_mode()
    def group(self, batch: Sequence[TalkerInput], stages: Stages, emit: Emit) -> None:
        """A group of tokens of turn-based replies as speech, as far as it goes."""
        sounds = [NO_SOUND for _ in batch]
        if self.code2wav is not None:
            with Timer(self.device) as timer:
                codes = self.talker.group(batch)
            stages.append(("tts", timer))
            with Timer(self.device) as timer:
                given = [Codes(s.slot, c, s.ends) for s, c in zip(batch, codes, strict=True)]
                sounds = to_pcm(self.code2wav.group(given))
            stages.append(("vocoder", timer))
        for place, pcm in enumerate(sounds):
            emit(place, pcm, True)
