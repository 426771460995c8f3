"""Audio codes to 24 kHz sound: assets, voices' base caches, and the schedule of windows.

`Token2Wav` holds the networks, `SpeechStreams` the state of all slots: its voice, the codes that
wait, the caches of flow and vocoder. Source: MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.models.config import ConfigError
from engine.models.flow import Flow, FlowChunk, Window
from engine.models.flow_config import FlowConfig, Trim
from engine.models.flow_state import FlowBase
from engine.models.vocoder import Push, Sound, Vocoder, VoiceStream, load_vocoder
from engine.voice import VoiceFeatures
from engine.weights import CheckpointError, empty, load_state

SILENCE_CODE = 4218
LEAD = 3
"""Silent codes that every turn begins with."""
WINDOW_CODES = 25
"""Fresh codes of a whole window, one second."""
MIN_FRESH = 5
"""Duplex: with fewer the codes wait for the next unit."""
UNIT_SAMPLES = 24_000
DEFAULT_STEPS = 5
DEFAULT_MAX_PROMPT = 1000
"""Mel frames of the longest voice prompt, 20 s."""

Observe = Callable[[Window, FlowChunk, Sound], None]
"""Called for each window with what became of it."""


@dataclass(frozen=True, eq=False)
class VoiceBase:
    """A voice on the device: where each of its turns starts. Shared by all sessions that use it."""

    flow: FlowBase
    speaker: Tensor
    """[mels]"""


@dataclass(frozen=True)
class Codes:
    """New codes of one slot; `ends`: the turn is over, everything left is to be heard."""

    slot: int
    codes: list[int]
    ends: bool = False


@dataclass
class Token2Wav:
    """The networks from codes to sound; holds nothing of any session."""

    flow: Flow
    vocoder: Vocoder

    def base(self, voice: VoiceFeatures, trim: Trim = "reference") -> VoiceBase:
        """Read a voice's prompt once. `trim`: what long turns keep of it, see `FlowState.open`."""
        weight = self.flow.encoder_proj.weight
        prompt = len(voice.mel)
        state = self.flow.new_state(1, prompt)
        state.open(0, prompt, trim)
        ahead = self.flow.config.encoder.lookahead
        # Behind the prompt the encoder looks at its beginning, as the later package does.
        window = Window(0, [*voice.codes, *voice.codes[:ahead]])
        with torch.inference_mode():
            speaker = self.flow.speaker(voice.speaker[None])
            self.flow([window], speaker, state, voice.mel[None].to(weight))
            return VoiceBase(state.save(0), speaker[0])


def load_token2wav(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    steps: int = DEFAULT_STEPS,
    noise: Tensor | None = None,
    vocoder_noise: Tensor | None = None,
    vocoder: str = "hift.pt",
) -> Token2Wav:
    """Load `flow.yaml`, `flow.pt` and a vocoder of either generation from an asset folder.

    `dtype` is the flow's; the vocoder is float32 always. The noise tables [mels, T] and
    [N, harmonics] are drawn with fixed seeds unless given. Raises `ConfigError` or
    `CheckpointError` that names what is missing or does not fit.
    """
    absent = [n for n in ("flow.yaml", "flow.pt", vocoder) if not (folder / n).is_file()]
    if absent:
        raise CheckpointError(f"{folder} lacks {', '.join(absent)}")
    config = FlowConfig.from_yaml(folder / "flow.yaml")
    flow = empty(lambda: Flow(config))
    load_state(
        flow, read_pt(folder / "flow.pt"), where=str(folder / "flow.pt"), device=device, dtype=dtype
    )
    yaml_path = folder / "config.yaml"
    state = read_pt(folder / vocoder)
    # `config.yaml` describes the causal generation only.
    sized = yaml_path if vocoder == "hift.pt" and yaml_path.is_file() else None
    net = load_vocoder(
        state,
        yaml_path=sized,
        device=device,
        noise=vocoder_noise,
        where=str(folder / vocoder),
    )
    if net.config.num_mels != config.num_mels:
        raise ConfigError(f"{folder}: flow {config.num_mels} bands, {net.config.num_mels} vocoder")
    return Token2Wav(flow.prepare(steps, noise), net)


def read_pt(path: Path) -> dict[str, Tensor]:
    """The state dict of a `.pt` file; nothing in it is executed."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is no file of weights: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f"{path} holds more than tensors by name")
    return state


@dataclass
class _Slot:
    voice: VoiceBase | None = None
    vocoder: VoiceStream | None = None
    waiting: list[int] = field(default_factory=list)


class SpeechStreams:
    """The state of all slots.

    `max_prompt` bounds the mel frames of the voices (50 a second). Memory of a slot grows with it:
    at full size and five steps 0.68 MB a frame in float32 (`nbytes`), half of that in float16.
    """

    def __init__(
        self, model: Token2Wav, num_slots: int, max_prompt: int = DEFAULT_MAX_PROMPT
    ) -> None:
        self.model = model
        self.flow_state = model.flow.new_state(num_slots, max_prompt)
        self._slots = [_Slot() for _ in range(num_slots)]

    @property
    def nbytes(self) -> int:
        """Memory of all slots' caches."""
        return self.flow_state.nbytes()

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
        state.vocoder = self.model.vocoder.open()
        state.waiting = [SILENCE_CODE] * LEAD

    def clear(self, slot: int) -> None:
        """Leave nothing of a session in the slot."""
        self.flow_state.clear(slot)
        self._slots[slot] = _Slot()

    def waiting(self, slot: int) -> list[int]:
        """Codes that wait for those after them."""
        return list(self._slots[slot].waiting)

    def unit(self, batch: Sequence[Codes], observe: Observe | None = None) -> list[Tensor]:
        """Sound [N] of one duplex unit for each slot.

        In a turn it has 24000 samples at least, with silence put in front of a short first
        second, so that units stay aligned; the unit that ends a turn has as many as it takes.
        """
        windows = [self._take(item, MIN_FRESH) for item in batch]
        sounds = self._run(batch, windows, observe)
        return [
            sound if item.ends else _fill(sound) for item, sound in zip(batch, sounds, strict=True)
        ]

    def group(self, batch: Sequence[Codes], observe: Observe | None = None) -> list[Tensor]:
        """Sound [N], N may be 0, of turn-based codes as they come: whole windows, then the rest."""
        windows = [self._take(item, WINDOW_CODES) for item in batch]
        return self._run(batch, windows, observe)

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

    def _run(
        self, batch: Sequence[Codes], windows: list[list[Window]], observe: Observe | None
    ) -> list[Tensor]:
        """Run the first window of each slot together, then the second ones, and so on."""
        parts: list[list[Tensor]] = [[] for _ in batch]
        for turn in range(max((len(w) for w in windows), default=0)):
            rows = [row for row, w in enumerate(windows) if turn < len(w)]
            now = [windows[row][turn] for row in rows]
            for row, window, (chunk, sound) in zip(rows, now, self._windows(now), strict=True):
                parts[row].append(sound.wave)
                if observe is not None:
                    observe(window, chunk, sound)
        for item in batch:
            if item.ends:
                self.reset(item.slot)
        empty_sound = torch.zeros(0, device=self.model.vocoder.noise.device)
        return [torch.cat(part) if part else empty_sound for part in parts]

    def _windows(self, windows: list[Window]) -> list[tuple[FlowChunk, Sound]]:
        slots = [self._slots[w.slot] for w in windows]
        speakers = torch.stack([s.voice.speaker for s in slots if s.voice is not None])
        chunks = self.model.flow(windows, speakers, self.flow_state)
        pushes = []
        for slot, window, chunk in zip(slots, windows, chunks, strict=True):
            assert slot.vocoder is not None, f"slot {window.slot} has no voice"
            pushes.append(Push(slot.vocoder, chunk.mel.float(), window.last))
        return list(zip(chunks, self.model.vocoder.push(pushes), strict=True))


def _fill(sound: Tensor) -> Tensor:
    """Put silence in front of less than a unit."""
    lacking = UNIT_SAMPLES - len(sound)
    return torch.nn.functional.pad(sound, (lacking, 0)) if lacking > 0 else sound


def to_pcm(sound: Tensor) -> np.ndarray:
    """int16 samples of sound in [-1, 1], rounded towards zero."""
    return (sound.clamp(-1, 1) * 32767).to(torch.int16).cpu().numpy()
