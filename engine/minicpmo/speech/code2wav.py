"""Audio codes to 24 kHz sound for many slots: voices, codes that wait, and the cut into windows.

Source: MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.gpu.graphs import GraphPool
from engine.gpu.staging import fetched
from engine.ipc.protocol import OUTPUT_HZ
from engine.minicpmo.models.code2wav import Code2WavModel, VoiceBase
from engine.minicpmo.models.flow.flow import FlowChunk
from engine.minicpmo.models.flow.state import Window
from engine.minicpmo.models.unit import RELEASED_UNIT, UnitSpec
from engine.minicpmo.models.vocoder.vocoder import END_FRAMES, Push, VocoderSound

SILENCE_CODE = 4218
LEAD = 3
"""Silent codes that every turn begins with."""
WINDOW_CODES = 25
"""Fresh codes of a whole window, one second."""
MIN_FRESH = 5
"""Duplex: with fewer the codes wait for the next unit."""
END_CODES = 10
"""Fresh codes that the short windows of turn ends are padded to."""
DEFAULT_MAX_PROMPT = 1000
"""Mel frames of the longest voice prompt, 20 s."""

Pcm = NDArray[np.int16]
"""24 kHz sound."""

Observe = Callable[[Window, FlowChunk, VocoderSound], None]
"""Called for each window with what became of it."""


@dataclass(frozen=True)
class Codes:
    """New codes of one slot; `ends`: the turn is over, everything left is to be heard."""

    slot: int
    codes: list[int]
    ends: bool = False


@dataclass
class _Slot:
    voice: VoiceBase | None = None
    waiting: list[int] = field(default_factory=list)
    has_begun: bool = False
    """A first part of the unit under way was given ahead."""
    units: int = 0
    """Units of the turn that are over."""
    given: int = 0
    """Samples of the turn that were given."""


class Code2Wav:
    """The state of all slots.

    `max_prompt` bounds the mel frames of the voices (50 a second); memory grows with it, see
    `Code2WavModel.bytes_per_slot`. `first_codes`: codes of the first part of a turn's first unit
    (`first_part`), so that it is heard earlier; the windows then differ, and the sound slightly.
    0: the units of the original, as where a unit is too short for two parts.
    """

    def __init__(
        self,
        model: Code2WavModel,
        num_slots: int,
        max_prompt: int = DEFAULT_MAX_PROMPT,
        *,
        graphs: GraphPool | None = None,
        first_codes: int = 0,
        unit: UnitSpec = RELEASED_UNIT,
    ) -> None:
        if first_codes and not MIN_FRESH <= first_codes < WINDOW_CODES - MIN_FRESH:
            raise ValueError(
                f"a first part of {first_codes} codes; 0 or {MIN_FRESH} to "
                f"{WINDOW_CODES - MIN_FRESH - 1} are possible"
            )
        self.model, self.graphs, self._unit = model, graphs, unit
        self.observe: Observe | None = None
        """Hook of replays and benchmarks; a server sets none."""
        unit_codes = min(unit.codes(0), WINDOW_CODES)
        self.first_codes = first_codes if first_codes < unit_codes - MIN_FRESH else 0
        self.flow_state = model.flow.new_state(num_slots, max_prompt)
        self.vocoder_state = model.vocoder.new_state(num_slots)
        self._slots = [_Slot() for _ in range(num_slots)]
        self._widths = sorted({max(END_CODES, self.first_codes), unit_codes, WINDOW_CODES})
        # What waits at the end of a reply may be a whole window without all of its lookahead.
        self._longest = WINDOW_CODES + model.flow.config.encoder.lookahead - 1

    @property
    def nbytes(self) -> int:
        """Memory of all slots' caches."""
        return self.flow_state.nbytes() + self.vocoder_state.nbytes()

    def warm_up(self, most_rows: int, show: Callable[[str], None]) -> None:
        """Run all usual shapes once, within `graphs.capturing()`: sessions then find graphs."""
        graphs = self.graphs
        if graphs is None:
            graphs = GraphPool(self.model.vocoder.noise.device, enabled=False)
        whole = 2 * WINDOW_CODES
        turns = [[(whole, False), (whole, False), (END_FRAMES, True)]]
        if self.first_codes:
            first = 2 * self.first_codes
            turns.append([(first, False), (whole - first, False)])
        if self._unit.codes(0) < WINDOW_CODES:
            turns.append([(2 * self._unit.codes(index), False) for index in range(4)])
        with graphs.capturing():
            show(f"speech: graphs for up to {most_rows} rows")
            self.model.flow.warm_up(self.flow_state, most_rows, graphs, self._widths)
            self.model.flow.warm_up(self.flow_state, 1, graphs, [self._longest])
            self.model.vocoder.warm_up(
                self.vocoder_state, most_rows, graphs, turns, most_frames=2 * self._longest
            )

    def set_voice(self, slot: int, voice: VoiceBase) -> None:
        """Give a slot its voice; a turn in progress is dropped."""
        self._slots[slot].voice = voice
        self.reset(slot)

    def reset(self, slot: int) -> None:
        """Drop the slot's turn and stand at the beginning of the next: turn end, interruption."""
        state = self._slots[slot]
        if state.voice is None:
            return
        self.flow_state.load(slot, state.voice.flow)
        self.vocoder_state.open(slot)
        state.waiting = [SILENCE_CODE] * LEAD
        state.has_begun = False
        state.units = state.given = 0

    def clear(self, slot: int) -> None:
        """Leave nothing of a session in the slot."""
        self.flow_state.clear(slot)
        self.vocoder_state.clear(slot)
        self._slots[slot] = _Slot()

    def waiting(self, slot: int) -> list[int]:
        """Codes that wait for those after them."""
        return list(self._slots[slot].waiting)

    @torch.inference_mode()
    def first_part(self, batch: Sequence[Codes]) -> list[Tensor]:
        """Sound [N] of the first `first_codes` codes of the turn; `unit` then takes the others.

        Together they are as long as the unit in one piece. For slots at the beginning of a turn
        whose unit has more codes than these.
        """
        for item in batch:
            assert len(item.codes) == self.first_codes > 0, f"{len(item.codes)} codes"
            assert self._slots[item.slot].waiting == [SILENCE_CODE] * LEAD, "the turn has begun"
        windows = [self._take(Codes(item.slot, item.codes), MIN_FRESH) for item in batch]
        sounds = self._run(batch, windows)
        for item, sound in zip(batch, sounds, strict=True):
            slot = self._slots[item.slot]
            slot.has_begun, slot.given = True, len(sound)
        return sounds

    @torch.inference_mode()
    def unit(self, batch: Sequence[Codes]) -> list[Tensor]:
        """Sound [N] of one duplex unit for each slot.

        A turn has as much sound as its units last at least, with silence put in front of a short
        first one, so that units stay aligned; the unit that ends a turn has as much as it takes.
        Where `first_part` was heard already, these are the samples that lack: silence then comes
        behind what is left, because in front of it it would cut a word in two.
        """
        windows = [self._take(item, MIN_FRESH) for item in batch]
        sounds = self._run(batch, windows)
        return [
            sound if item.ends else self._fill(self._slots[item.slot], sound)
            for item, sound in zip(batch, sounds, strict=True)
        ]

    def _fill(self, slot: _Slot, sound: Tensor) -> Tensor:
        """Make the turn last as long as its units."""
        slot.units += 1
        slot.given += len(sound)
        lacking = slot.units * self._unit.samples(OUTPUT_HZ) - slot.given
        is_second_part, slot.has_begun = slot.has_begun, False
        if lacking <= 0:
            return sound
        slot.given += lacking
        return torch.nn.functional.pad(sound, (0, lacking) if is_second_part else (lacking, 0))

    @torch.inference_mode()
    def group(self, batch: Sequence[Codes]) -> list[Tensor]:
        """Sound [N], N may be 0, of turn-based codes as they come: whole windows, then the rest."""
        windows = [self._take(item, WINDOW_CODES) for item in batch]
        return self._run(batch, windows)

    def _take(self, item: Codes, least: int) -> list[Window]:
        """Cut what waits into windows with at least `least` fresh codes each."""
        waiting = self._slots[item.slot].waiting
        waiting += item.codes
        ahead = self.model.flow.config.encoder.lookahead
        windows = []
        while len(waiting) >= least + ahead:
            taken = waiting[: WINDOW_CODES + ahead]
            windows.append(Window(item.slot, taken))
            del waiting[: len(taken) - ahead]
        if item.ends and waiting:
            windows.append(Window(item.slot, list(waiting), last=True))
            waiting.clear()
        return windows

    def _run(self, batch: Sequence[Codes], windows: list[list[Window]]) -> list[Tensor]:
        """Run the first window of each slot together, then the second ones, and so on."""
        parts: list[list[Tensor]] = [[] for _ in batch]
        for turn in range(max((len(w) for w in windows), default=0)):
            rows = [row for row, w in enumerate(windows) if turn < len(w)]
            now = [windows[row][turn] for row in rows]
            for row, window, (chunk, sound) in zip(rows, now, self._windows(now), strict=True):
                parts[row].append(sound.wave)
                if self.observe is not None:
                    self.observe(window, chunk, sound)
        for item in batch:
            if item.ends:
                self.reset(item.slot)
        return [self._joined(part) for part in parts]

    def _joined(self, parts: list[Tensor]) -> Tensor:
        if len(parts) == 1:
            return parts[0]
        return torch.cat(parts) if parts else self.model.vocoder.noise.new_zeros(0)

    def _windows(self, windows: list[Window]) -> list[tuple[FlowChunk, VocoderSound]]:
        chunks = self._chunks(windows)
        pushes = [Push(w.slot, c.mel, w.last) for w, c in zip(windows, chunks, strict=True)]
        sounds = self.model.vocoder.push(self.vocoder_state, pushes, self.graphs)
        return list(zip(chunks, sounds, strict=True))

    def _chunks(self, windows: list[Window]) -> list[FlowChunk]:
        """Mel frames of the windows. Ends that are longer than a window run one by one: they are
        rare, and so one graph is enough for them."""
        flow, state, graphs = self.model.flow, self.flow_state, self.graphs
        if graphs is None:
            plain: list[FlowChunk] = flow(windows, state)
            return plain
        found: dict[int, FlowChunk] = {}
        for window in windows:
            if window.last and len(window.codes) > WINDOW_CODES:
                [chunk] = flow([window], state, graphs=graphs, widths=[self._longest])
                # Another run may overwrite it.
                found[window.slot] = replace(chunk, mu=chunk.mu.clone(), mel=chunk.mel.clone())
        rest = [window for window in windows if window.slot not in found]
        if rest:
            chunks = flow(rest, state, graphs=graphs, widths=self._widths)
            found |= {w.slot: chunk for w, chunk in zip(rest, chunks, strict=True)}
        return [found[window.slot] for window in windows]


def to_pcm(sounds: Sequence[Tensor]) -> list[Pcm]:
    """int16 samples of sounds [N] in [-1, 1], rounded towards zero; fetched at once."""
    if not sounds:
        return []
    joined = (torch.cat(list(sounds)).clamp(-1, 1) * 32767).to(torch.int16)
    # A copy, so that the memory of the fetch is free again.
    whole = fetched(joined).numpy().copy()
    ends = np.cumsum([len(sound) for sound in sounds])
    return np.split(whole, ends[:-1])
