"""Sizes of the vocoder, read from its weights and, where there is one, `config.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from engine.minicpmo.models.config_reader import ConfigError
from engine.minicpmo.models.flow.config import read_yaml

CAUSAL_KERNEL = 5
ORIGINAL_KERNEL = 7


@dataclass(frozen=True, slots=True)
class VocoderConfig:
    """HiFT: harmonic source plus filter, with an inverse STFT at the end."""

    causal: bool
    """The later generation; the earlier one looks ahead and is cross-faded."""
    num_mels: int = 80
    base_channels: int = 512
    f0_channels: int = 512
    num_harmonics: int = 8
    sampling_rate: int = 24_000
    sine_amplitude: float = 0.1
    noise_std: float = 0.003
    voiced_hz: float = 10.0
    upsample_rates: tuple[int, ...] = (8, 5, 3)
    upsample_kernels: tuple[int, ...] = (16, 11, 7)
    fft_size: int = 16
    hop: int = 4
    kernels: tuple[int, ...] = (3, 7, 11)
    dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    source_kernels: tuple[int, ...] = (7, 7, 11)
    source_dilations: tuple[tuple[int, ...], ...] = ((1, 3, 5),) * 3
    slope: float = 0.1
    limit: float = 0.99
    look_right: int = 4
    """Frames that the first convolution of the causal generation sees ahead."""

    def __post_init__(self) -> None:
        stages = len(self.upsample_rates)
        if len(self.upsample_kernels) != stages or len(self.source_kernels) != stages:
            raise ConfigError(
                f"vocoder: {stages} upsampling rates, {len(self.upsample_kernels)} kernels, "
                f"{len(self.source_kernels)} source kernels"
            )

    @property
    def frame_samples(self) -> int:
        """Samples of one mel frame."""
        samples = self.hop
        for rate in self.upsample_rates:
            samples *= rate
        return samples

    @classmethod
    def of_weights(cls, state: Mapping[str, Tensor], path: Path | None = None) -> VocoderConfig:
        """Tell generation and widths by the shapes of folded weights; the rest from a YAML file.

        Raises `ConfigError` if the weights are of neither generation or contradict the file.
        """
        where = str(path) if path else "vocoder"
        try:
            first, f0 = state["conv_pre.weight"], state["f0_predictor.condnet.0.weight"]
        except KeyError as error:
            raise ConfigError(f"{where}: the weights have no {error}") from None
        kernel = first.shape[2]
        if kernel not in (CAUSAL_KERNEL, ORIGINAL_KERNEL):
            raise ConfigError(
                f"{where}: conv_pre has kernel {kernel}; {ORIGINAL_KERNEL} is the original "
                f"vocoder, {CAUSAL_KERNEL} the causal one"
            )
        values: dict[str, Any] = _from_yaml(path) if path else {}
        shapes = {
            "num_mels": first.shape[1],
            "base_channels": first.shape[0],
            "f0_channels": f0.shape[0],
        }
        causal = kernel == CAUSAL_KERNEL
        if causal:
            shapes["look_right"] = kernel - 1
        for name, size in shapes.items():
            if values.get(name, size) != size:
                raise ConfigError(
                    f"{where}: {name} is {values[name]} in the file, {size} in the weights"
                )
        return cls(causal=causal, **(values | shapes))


NAMES = {
    "in_channels": "num_mels",
    "base_channels": "base_channels",
    "nb_harmonics": "num_harmonics",
    "sampling_rate": "sampling_rate",
    "nsf_alpha": "sine_amplitude",
    "nsf_sigma": "noise_std",
    "nsf_voiced_threshold": "voiced_hz",
    "upsample_rates": "upsample_rates",
    "upsample_kernel_sizes": "upsample_kernels",
    "resblock_kernel_sizes": "kernels",
    "resblock_dilation_sizes": "dilations",
    "source_resblock_kernel_sizes": "source_kernels",
    "source_resblock_dilation_sizes": "source_dilations",
    "lrelu_slope": "slope",
    "audio_limit": "limit",
    "conv_pre_look_right": "look_right",
}


def _from_yaml(path: Path) -> dict[str, Any]:
    hift = read_yaml(path)["hift"]
    values = {ours: _frozen(hift[their]) for their, ours in NAMES.items() if their in hift}
    if "istft_params" in hift:
        values["fft_size"] = hift["istft_params"]["n_fft"]
        values["hop"] = hift["istft_params"]["hop_len"]
    if "f0_predictor" in hift:
        values["f0_channels"] = hift["f0_predictor"]["cond_channels"]
    assert set(values) <= {field.name for field in fields(VocoderConfig)}
    return values


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
