"""A checkpoint folder as AWQ stores it: the language model's layers in 4 bits, no assets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.gpu.kernels.int4 import Int4Values
from engine.gpu.weights import SINGLE_FILE

ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""Which of eight outputs lies at each place of a word, from the lowest bits on."""


def write_awq(source: Path, folder: Path, group: int = 64) -> Path:
    """The weights of `source` in the "gemm" layout."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("assets"))
    stored: dict[str, Tensor] = {}
    for name, tensor in load_file(source / SINGLE_FILE).items():
        if not name.startswith("llm.model.layers.") or not name.endswith("_proj.weight"):
            stored[name] = tensor
            continue
        values = Int4Values.of(tensor, group)
        stem = name.removesuffix("weight")
        stored[f"{stem}qweight"] = packed(values.numbers.t())
        stored[f"{stem}qzeros"] = packed(values.zeros.t())
        stored[f"{stem}scales"] = values.scales.t().to(torch.float16).contiguous()
    save_file(stored, folder / SINGLE_FILE, metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "awq",
        "bits": 4,
        "group_size": group,
        "version": "gemm",
        "zero_point": True,
        "modules_to_not_convert": ["vpm", "apm", "resampler", "tts", "audio_projection_layer"],
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def packed(numbers: Tensor) -> Tensor:
    """Numbers [A, N] of 4 bits as int32 [A, N / 8]."""
    words = torch.zeros(numbers.shape[0], numbers.shape[1] // 8, dtype=torch.int64)
    for place, output in enumerate(ORDER):
        words |= numbers[:, output::8].to(torch.int64) << (4 * place)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
