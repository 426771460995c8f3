"""From audio codes to 24 kHz sound: the networks, their assets, and voices' base caches.

Source: MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

import pickle
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from engine.gpu.weights import CheckpointError, empty, load_state
from engine.minicpmo.models.config_reader import ConfigError
from engine.minicpmo.models.flow.config import FlowConfig, Trim
from engine.minicpmo.models.flow.flow import Flow
from engine.minicpmo.models.flow.state import FlowBase, Window
from engine.minicpmo.models.vocoder.vocoder import Vocoder, load_vocoder
from engine.minicpmo.models.voice.preparation import VoiceFeatures

DEFAULT_STEPS = 5


@dataclass(frozen=True, eq=False)
class VoiceBase:
    """A voice on the device: where each of its turns starts. Shared by all sessions that use it."""

    flow: FlowBase


@dataclass
class Code2WavModel:
    """The networks from codes to sound; holds nothing of any session."""

    flow: Flow
    vocoder: Vocoder

    def base(self, voice: VoiceFeatures, trim: Trim = "reference") -> VoiceBase:
        """Read a voice's prompt once. `trim`: what long turns keep of it, see `FlowState.open`."""
        weight = self.flow.encoder_proj.weight
        prompt = len(voice.mel)
        state = self.flow.new_state(1, prompt)
        ahead = self.flow.config.encoder.lookahead
        # After the prompt the encoder sees the prompt's beginning again, as in the later package.
        window = Window(0, [*voice.codes, *voice.codes[:ahead]])
        with torch.inference_mode():
            state.open(0, prompt, self.flow.speaker(voice.speaker[None])[0], trim)
            self.flow([window], state, prompt=voice.mel[None].to(weight))
            return VoiceBase(state.save(0))

    def bytes_per_slot(self, max_prompt: int) -> int:
        """Memory of one slot of `SpeechStreams(..., max_prompt)`."""
        vocoder = self.vocoder.new_state(0).nbytes()
        return self.flow.bytes_per_slot(max_prompt) + vocoder


def load_code2wav(
    folder: Path,
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    steps: int = DEFAULT_STEPS,
    noise: Tensor | None = None,
    vocoder_noise: Tensor | None = None,
    vocoder: str = "hift.pt",
) -> Code2WavModel:
    """Load `flow.yaml`, `flow.pt` and a vocoder of either generation from an asset folder.

    `dtype` is the flow's and that of the vocoder's convolutions, if not given float16 on CUDA and
    float32 elsewhere; the rest of the vocoder is float32, and its F0 float64, always. The noise
    tables [mels, T] and [N, harmonics] are drawn with fixed seeds unless given. Raises
    `ConfigError` or `CheckpointError` that names what is missing or does not fit.
    """
    absent = [n for n in ("flow.yaml", "flow.pt", vocoder) if not (folder / n).is_file()]
    if absent:
        raise CheckpointError(f"{folder} lacks {', '.join(absent)}")
    config = FlowConfig.from_yaml(folder / "flow.yaml")
    if dtype is None:
        dtype = torch.float16 if torch.device(device).type == "cuda" else torch.float32
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
        body=torch.float16 if dtype is torch.float16 else torch.float32,
    )
    if net.config.num_mels != config.num_mels:
        raise ConfigError(f"{folder}: flow {config.num_mels} bands, {net.config.num_mels} vocoder")
    return Code2WavModel(flow.prepare(steps, noise), net)


def read_pt(path: Path) -> dict[str, Tensor]:
    """The state dict of a `.pt` file; nothing in it is executed."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CheckpointError(f"{path} is not a file of weights: {error}") from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise CheckpointError(f"{path} holds more than tensors by name")
    return state
