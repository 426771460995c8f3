"""How the numbers of a checkpoint folder are stored, and which formats cannot be read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.gpu.kernels.int4 import Int4Values
from engine.minicpmo.models.config_reader import ConfigError, read_json

SIDE_FILES = ("quantize_config.json", "quant_config.json")
"""Where quantising programs put what `quantization_config` of `config.json` says."""
TAKEN = (
    "take the bfloat16 folder of MiniCPM-o 4.5 (safetensors, about 19 GB), of which "
    'minicpmo.weights_dtype = "int4" makes 4 bits at the start, or the AWQ folder'
)
_PLACES = (0, 4, 1, 5, 2, 6, 3, 7)
"""Where each of eight outputs lies in a word of AWQ's "gemm" layout."""


@dataclass(frozen=True)
class AwqFormat:
    """Linear layers in 4 bits as AWQ (arXiv 2306.00978) stores them, in its "gemm" layout."""

    group: int
    """Inputs that share a scale and a zero."""

    TENSORS = ("qweight", "qzeros", "scales")

    def shapes(self, outputs: int, inputs: int) -> dict[str, tuple[int, int]]:
        """Of the tensors that stand for a linear layer's weight [outputs, inputs]."""
        groups, words = inputs // self.group, outputs // 8
        return {"qweight": (inputs, words), "qzeros": (groups, words), "scales": (groups, outputs)}

    def values(self, qweight: Tensor, qzeros: Tensor, scales: Tensor) -> Int4Values:
        """qweight [K, N / 8] and qzeros [K / group, N / 8], int32, scales [K / group, N]."""
        return Int4Values(
            _unpacked(qweight).t().contiguous(),
            scales.t().to(torch.bfloat16).contiguous(),
            _unpacked(qzeros).t().contiguous(),
        )


def _unpacked(words: Tensor) -> Tensor:
    """[A, N / 8] int32 -> [A, N] uint8."""
    shifts = 4 * torch.tensor(_PLACES, dtype=torch.int32, device=words.device)
    return ((words[..., None] >> shifts) & 15).to(torch.uint8).flatten(1)


def read_format(folder: Path) -> AwqFormat | None:
    """The format of quantised layers; None where there are none.

    Raises `ConfigError` where the folder's numbers are in a format that is not read.
    """
    told = read_json(folder / "config.json", optional=True).get("quantization_config")
    where = "config.json: quantization_config"
    for name in SIDE_FILES:
        if not told and (folder / name).is_file():
            told, where = read_json(folder / name), name
    if told:
        return _awq(told, where)
    if any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{folder} holds GGUF files, which cannot be read; {TAKEN}")
    return None


def _awq(told: object, where: str) -> AwqFormat:
    if not isinstance(told, Mapping):
        raise ConfigError(f"{where}: weights quantised by {told!r} cannot be read; {TAKEN}")
    values: Mapping[str, Any] = told
    # Its own side file names no method, but has a version.
    method = values.get("quant_method", "awq" if "w_bit" in values else "unnamed")
    if method != "awq":
        raise ConfigError(f"{where}: weights quantised by {method!r} cannot be read; {TAKEN}")
    bits = values.get("bits", values.get("w_bit"))
    group = values.get("group_size", values.get("q_group_size"))
    layout = str(values.get("version", "gemm")).lower()
    if bits != 4 or layout != "gemm" or not isinstance(group, int) or group <= 0:
        raise ConfigError(
            f"{where}: AWQ with {bits} bits, groups of {group} and layout {layout!r} cannot be "
            f"read, only 4 bits, groups of a fixed size and 'gemm'; {TAKEN}"
        )
    return AwqFormat(group)
