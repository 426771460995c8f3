"""Folders in formats that cannot be read are refused by name: none is loaded as something else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.gpu.weights import CheckpointError
from engine.minicpmo.checkpoint import load
from engine.minicpmo.models.config_reader import ConfigError

DOWN = "llm.model.layers.1.mlp.down_proj"


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "damaged"))


def change_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def change_weights(folder: Path, **tensors: torch.Tensor | None) -> None:
    path = folder / "model.safetensors"
    found = load_file(path) | {name.replace("__", "."): value for name, value in tensors.items()}
    save_file({name: value for name, value in found.items() if value is not None}, path)


def refused(folder: Path) -> str:
    with pytest.raises((CheckpointError, ConfigError)) as caught:
        load(folder, device="cpu", show=lambda line: None)
    return str(caught.value)


@pytest.mark.parametrize(
    ("told", "method"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ("nonsense", "nonsense"),
        ({"bits": 4}, "unnamed"),
    ],
)
def test_a_quantised_folder_is_refused_by_its_method(
    folder: Path, told: object, method: str
) -> None:
    change_config(folder, quantization_config=told)
    assert f"weights quantised by {method!r} cannot be read; take the" in refused(folder)


def test_a_side_file_says_so_as_well(folder: Path) -> None:
    (folder / "quantize_config.json").write_text(json.dumps({"quant_method": "gptq"}))
    assert refused(folder).startswith("quantize_config.json: weights quantised by 'gptq'")


def test_a_folder_of_gguf_files_is_named(tmp_path: Path) -> None:
    (tmp_path / "MiniCPM-o-4_5-Q4_K_M.gguf").write_bytes(b"GGUF")
    assert "holds GGUF files, which cannot be read" in refused(tmp_path)


@pytest.mark.parametrize("kind", [torch.int8, torch.uint8, torch.float8_e4m3fn])
def test_small_numbers_without_a_scale_are_never_loaded(folder: Path, kind: torch.dtype) -> None:
    """They have the right shape, and their values would be taken as they stand."""
    weight = load_file(folder / "model.safetensors")[f"{DOWN}.weight"]
    change_weights(folder, **{f"{DOWN}.weight": (8 * weight.float()).to(kind)})
    name = str(kind).removeprefix("torch.")
    assert f"{DOWN}.weight: {name} in the file; only bfloat16, float16" in refused(folder)


def test_scales_beside_weights_are_unexpected(folder: Path) -> None:
    change_weights(folder, **{f"{DOWN}.weight.absmax": torch.ones(3)})
    assert f"unexpected {DOWN}.weight.absmax" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"bits": 8}, "8 bits"),
        ({"version": "gemv"}, "layout 'gemv'"),
        ({"group_size": -1}, "groups of -1"),
    ],
)
def test_other_layouts_of_awq_are_refused(
    folder: Path, changes: dict[str, object], named: str
) -> None:
    told = {"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"}
    change_config(folder, quantization_config=told | changes)
    assert named in refused(folder)
