"""The whole MiniCPM-o 4.5: every network of a checkpoint folder, without any session's state."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from engine.config import WeightsType
from engine.dsp.logmel import LogMel
from engine.gpu.kernels.fp8_weights import multiplies
from engine.gpu.weights import Checkpoint, CheckpointError, empty
from engine.minicpmo.llm.prompts import PromptBuilder
from engine.minicpmo.llm.tokenizer import OmniTokenizer
from engine.minicpmo.models.audio.whisper import AudioProjector, WhisperEncoder
from engine.minicpmo.models.code2wav import Code2WavModel, load_code2wav
from engine.minicpmo.models.config import OmniConfig
from engine.minicpmo.models.config_reader import ConfigError
from engine.minicpmo.models.llm.loading import load_llm
from engine.minicpmo.models.llm.qwen3 import Qwen3
from engine.minicpmo.models.stored_format import AwqFormat, read_format
from engine.minicpmo.models.talker.tts import SpeechDecoder, load_speech_decoder
from engine.minicpmo.models.vision.resampler import VisionResampler
from engine.minicpmo.models.vision.siglip import VisionTower
from engine.minicpmo.models.voice.preparation import Preparer, Voices

Show = Callable[[str], None]

SHOW_S = 5.0

ASSETS = Path("assets") / "token2wav"
VOICES = Path("assets") / "voices"
RECORDINGS = (".wav", ".mp3", ".flac", ".ogg", ".m4a")


@dataclass
class OmniModel:
    """The networks, on one device."""

    folder: Path
    """Where its `assets` are."""
    config: OmniConfig
    tokens: OmniTokenizer
    prompts: PromptBuilder
    llm: Qwen3
    whisper: WhisperEncoder
    projector: AudioProjector
    vision: VisionTower
    resampler: VisionResampler
    mel: LogMel
    speech: SpeechDecoder
    code2wav: Code2WavModel | None
    """None without the token2wav assets: the model then answers in text only."""
    voices: Voices
    device: torch.device
    dtype: torch.dtype

    def recordings(self) -> list[Path]:
        """Recordings that come with the checkpoint."""
        return recordings(self.folder)


def with_assets(folder: Path, other: Path | None) -> Path:
    """The one of both that has what the speech is made from: published 4-bit folders lack it."""
    lacks = not (folder / ASSETS).is_dir()
    return other if lacks and other is not None else folder


def recordings(folder: Path) -> list[Path]:
    """Sound files below a checkpoint's `assets`."""
    assets = folder / "assets"
    found = assets.rglob("*") if assets.is_dir() else ()
    return sorted(path for path in found if path.suffix.lower() in RECORDINGS)


class Senses(nn.Module):
    """Ears and eyes, as the checkpoint has them."""

    def __init__(self, config: OmniConfig) -> None:
        super().__init__()
        self.whisper = WhisperEncoder(config.audio, config.unit)
        self.projector = AudioProjector(config.audio, config.llm.hidden_size)
        self.vision = VisionTower(config.vision)
        self.resampler = VisionResampler(config.resampler)

    def parts(self) -> dict[str, nn.Module]:
        """By the prefix of their names."""
        return {
            "apm.": self.whisper,
            "audio_projection_layer.": self.projector,
            "vpm.": self.vision,
            "resampler.": self.resampler,
        }


def best_device(wanted: str = "auto") -> tuple[torch.device, torch.dtype]:
    """The device and number format: bfloat16 on CUDA, float32 elsewhere."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(wanted)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError("engine device cuda: this machine has no usable CUDA GPU")
    return device, torch.bfloat16 if device.type == "cuda" else torch.float32


class WeightsProgress:
    """Says every few seconds how much of the weights is in place: a slow disk is no dead one."""

    def __init__(
        self, folder: Path, show: Show, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._show = show
        self._clock = clock
        self._total_gb = sum(f.stat().st_size for f in folder.glob("*.safetensors")) / 1e9
        self._done_gb = 0.0
        self._shown_at = clock()

    def __call__(self, name: str, size: int) -> None:
        """A tensor of `size` bytes is in place; see `engine.gpu.weights.Progress`."""
        self._done_gb += size / 1e9
        if self._clock() - self._shown_at >= SHOW_S:
            self._shown_at = self._clock()
            self._show(f"loading weights: {self._done_gb:.1f} of {self._total_gb:.1f} GB")


def load(
    folder: Path,
    *,
    device: str = "auto",
    steps: int = 5,
    show: Show,
    voice_cache: Path | None = None,
    weights: WeightsType = "auto",
    assets: Path | None = None,
) -> OmniModel:
    """Load a checkpoint folder; each tensor goes to the device on its own.

    `voice_cache`: where prepared voices are kept; `weights`: of the language model's layers;
    `assets`: another checkpoint folder, whose `assets` serve where this one has none.

    Raises `CheckpointError` or `ConfigError` that names the tensor or field.
    """
    where, dtype = best_device(device)
    stored = read_format(folder)
    if weights == "fp8":
        _check_fp8(where, stored)
    config, tokens = OmniConfig.load(folder), OmniTokenizer(folder)
    for line in remarks(config, tokens, steps):
        show(line)
    with Checkpoint(folder, progress=WeightsProgress(folder, show)) as checkpoint:
        show(f"loading the language model onto {where}")
        llm = load_llm(
            checkpoint,
            config.llm,
            device=where,
            dtype=dtype,
            quantise=None if weights == "auto" else weights,
            stored=stored,
        )
        show("loading the encoders")
        senses = empty(lambda: Senses(config))
        for prefix, network in senses.parts().items():
            checkpoint.load(network, prefix, device=where, dtype=dtype)
        show("loading the voice")
        speech = load_speech_decoder(checkpoint, config.tts, device=where, dtype=dtype)
        if unused := checkpoint.unused():
            raise CheckpointError(f"{folder}: unexpected tensors {', '.join(unused[:8])}")
    speaking = with_assets(folder, assets)
    return OmniModel(
        folder=speaking,
        config=config,
        tokens=tokens,
        prompts=PromptBuilder(tokens, config),
        llm=llm,
        whisper=senses.whisper,
        projector=senses.projector,
        vision=senses.vision,
        resampler=senses.resampler,
        mel=LogMel(config.audio.num_mel_bins, where),
        speech=speech,
        code2wav=_load_code2wav(speaking, where, steps, show),
        voices=Voices(Preparer(speaking / ASSETS), speaking / VOICES, voice_cache),
        device=where,
        dtype=dtype,
    )


def _check_fp8(device: torch.device, stored: AwqFormat | None) -> None:
    if stored is not None:
        raise ConfigError(
            'minicpmo.weights_dtype = "fp8" makes 8 bits of 16; this folder has 4 bits already'
        )
    if device.type == "cuda" and not multiplies(device):
        major, minor = torch.cuda.get_device_capability(device)
        raise ConfigError(
            'minicpmo.weights_dtype = "fp8" needs a GPU of compute capability 8.9 or more, this '
            f"one has {major}.{minor}; int4 runs there"
        )


def remarks(config: OmniConfig, tokens: OmniTokenizer, steps: int) -> list[str]:
    """What a folder leaves open or says otherwise, a line each, for whoever starts the engine."""
    found = []
    if tokens.derived_merges:
        found.append(
            f"merges.txt lacks {tokens.derived_merges} merges, which were derived from vocab.json; "
            "the model's tokenizer.json has them all"
        )
    published = config.tts.flow_steps
    if published not in (None, steps):
        found.append(
            f"the speech flow takes {steps} steps; config.json says {published}, which makes it "
            f"{published / steps:.1f} times as slow (minicpmo.flow_steps)"
        )
    return found


def _load_code2wav(
    folder: Path, device: torch.device, steps: int, show: Show
) -> Code2WavModel | None:
    if not (folder / ASSETS).is_dir():
        show(f"the model's folder has no {ASSETS}: answers will be text only")
        return None
    # The flow is trained and released in float32; its cost is small beside the language model's.
    return load_code2wav(folder / ASSETS, device=device, steps=steps)
