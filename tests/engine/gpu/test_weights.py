"""Loading: one file or shards, and what is missing, unexpected or misshapen is named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from engine.gpu.weights import Checkpoint, CheckpointError, empty, load_state
from engine.minicpmo.models.config import OmniConfig
from engine.minicpmo.models.config_reader import ConfigError
from tests import ROOT
from tests.tiny_checkpoint import full_size_config, write_checkpoint


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(3, 2)
        self.right = nn.Linear(2, 4, bias=False)


def saved(folder: Path, **changes: torch.Tensor | None) -> Path:
    tensors: dict[str, torch.Tensor | None] = {
        "net.left.weight": torch.arange(6.0).view(2, 3),
        "net.left.bias": torch.ones(2),
        "net.right.weight": torch.full((4, 2), 0.5),
    }
    tensors |= {name.replace("__", "."): tensor for name, tensor in changes.items()}
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors")
    return folder


def load(folder: Path, **options: object) -> Pair:
    module = empty(Pair)
    with Checkpoint(folder) as checkpoint:
        checkpoint.load(module, "net.", device="cpu", dtype=torch.float32, **options)  # type: ignore[arg-type]
    return module


def test_loads_values_in_the_wanted_dtype(tmp_path: Path) -> None:
    module = empty(Pair)
    seen: list[str] = []
    with Checkpoint(
        saved(tmp_path), progress=lambda name, size: seen.append(f"{name} {size}")
    ) as checkpoint:
        checkpoint.load(module, "net.", device="cpu", dtype=torch.bfloat16)
        assert checkpoint.unused() == []
    assert module.left.weight.dtype is torch.bfloat16
    assert module.left.weight.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert "left.weight 24" in seen
    assert not module.training and not module.left.weight.requires_grad


def test_names_what_is_missing_and_unexpected(tmp_path: Path) -> None:
    saved(tmp_path, net__left__bias=None, net__extra=torch.zeros(1))
    with pytest.raises(CheckpointError, match=r"missing net\.left\.bias; unexpected net\.extra"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match=r"no values for net\.left\.bias"):
        load(tmp_path, optional=["left.bias"], ignore=["extra"])


def test_names_both_shapes(tmp_path: Path) -> None:
    saved(tmp_path, net__right__weight=torch.zeros(2, 4))
    with pytest.raises(CheckpointError, match=r"net\.right\.weight: shape \[2, 4\] .* \[4, 2\]"):
        load(tmp_path)


def test_tells_tensors_that_nobody_loaded(tmp_path: Path) -> None:
    saved(tmp_path, other__weight=torch.zeros(1))
    with Checkpoint(tmp_path) as checkpoint:
        checkpoint.load(empty(Pair), "net.", device="cpu", dtype=torch.float32)
        assert checkpoint.unused() == ["other.weight"]
        assert checkpoint.unused(["other.*"]) == []


def test_shards_hold_the_same_as_one_file(tmp_path: Path) -> None:
    whole = write_checkpoint(tmp_path / "whole", seed=5)
    parts = write_checkpoint(tmp_path / "parts", seed=5, shards=3)
    with Checkpoint(whole) as one, Checkpoint(parts) as three:
        assert one.names() == three.names()
        name = "apm.conv2.weight"
        assert torch.equal(one.tensor(name), three.tensor(name))


def test_a_lost_shard_is_named(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing shards model-00002-of-00003"):
        Checkpoint(folder)


def test_a_state_dict_is_checked_like_a_file() -> None:
    with pytest.raises(CheckpointError, match=r"flow\.pt: missing left\.bias, left\.weight"):
        load_state(
            empty(Pair),
            {"right.weight": torch.zeros(4, 2)},
            where="flow.pt",
            device="cpu",
            dtype=torch.float32,
        )


def test_full_size_has_the_released_number_of_layers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(full_size_config()))
    config = OmniConfig.load(tmp_path)
    assert (config.llm.num_layers, config.vision.num_layers, config.audio.num_layers) == (
        36,
        27,
        24,
    )
    assert config.resampler.num_heads == 32 and config.vision.side == 70
    assert config.raw["stream_input"] is True and config.tts.flow_steps == 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sliding_window": 4096}, "sliding_window = 4096 is not supported"),
        ({"hidden_size": None}, "hidden_size = None is not of type int"),
        ({"num_key_value_heads": 3}, "not a multiple of 3"),
        ({"model_type": "qwen3"}, "is not 'minicpmo'"),
        ({"query_num": "64"}, "is not of type int"),
        (
            {"tts_config": full_size_config()["tts_config"] | {"attention_type": "reindex"}},
            "tts_config: attention_type = 'reindex' is not supported",
        ),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(full_size_config() | change))
    with pytest.raises(ConfigError, match=message):
        OmniConfig.load(tmp_path)


def test_a_dropped_vision_layer_is_not_run(tmp_path: Path) -> None:
    changed = full_size_config() | {"drop_vision_last_layer": True}
    (tmp_path / "config.json").write_text(json.dumps(changed))
    vision = OmniConfig.load(tmp_path).vision
    assert vision.num_layers == 26


BUILD = """
import sys
import torch
from torch import nn
from engine.gpu.weights import empty

table = empty(lambda: nn.Embedding(4, 2))
drawn = empty(lambda: nn.ParameterList([torch.empty(4).normal_()]))
assert table.weight.is_meta and drawn[0].is_meta
print([name for name in ("sympy", "torch._dynamo") if name in sys.modules])
"""


@pytest.mark.loopback
def test_a_module_without_memory_is_built_without_the_compiler_of_torch() -> None:
    done = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"
