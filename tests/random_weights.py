"""Weights drawn from a Gaussian, so scaled that activations stay near 1; they say nothing."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from engine.gpu.weights import CheckpointError, load_tensors

SPOKEN_HZ = 140.0
"""Around which the random vocoder's F0 lies, so that its sound is voiced."""


def draw(name: str, shape: Sequence[int], seed: int, device: torch.device | str = "cpu") -> Tensor:
    """Draw one tensor, float32; the same name, shape and seed always give the same values there."""
    generator = torch.Generator(device=device)
    generator.manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
    leaf = name.rpartition(".")[2]
    values = torch.randn(tuple(shape), generator=generator, device=device)
    if leaf in ("alpha", "original0") or (leaf == "weight" and len(shape) == 1):
        return 1.0 + 0.05 * values
    if "f0_predictor.classifier" in name:
        return 20.0 * values + (SPOKEN_HZ if leaf == "bias" else 0.0)
    if len(shape) == 1 or leaf == "in_proj_bias":
        return 0.02 * values
    if leaf in ("pos_bias_u", "pos_bias_v"):
        return 0.1 * values
    if "conv_post" in name:
        return 0.02 * values
    fan_in = shape[-1] if len(shape) == 2 else shape[1] * shape[2] * (shape[3:] or [1])[0]
    if leaf == "proj":
        fan_in = shape[0]
    if "embed" in name or "emb_" in name:
        return 0.5 * values
    scaled: Tensor = values * fan_in**-0.5
    return scaled


def random_weights(
    module: nn.Module,
    seed: int,
    *,
    prefix: str = "",
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> None:
    """Fill a module, built by `weights.empty` or not, right where its weights will be."""
    shapes = {name: tensor.shape for name, tensor in module.state_dict(keep_vars=True).items()}
    load_tensors(
        module,
        shapes,
        lambda name: draw(prefix + name, shapes[name], seed, device),
        where="random weights",
        prefix=prefix,
        device=device,
        dtype=dtype,
    )


class RandomCheckpoint:
    """In the place of `engine.gpu.weights.Checkpoint`: has whatever a module asks for."""

    def __init__(self, path: Any = "", *, seed: int = 0, progress: object = None) -> None:
        self.path = path
        self.seed = seed

    def __enter__(self) -> RandomCheckpoint:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def names(self, prefix: str = "") -> list[str]:
        del prefix
        return []

    def unused(self, ignore: Iterable[str] = ()) -> list[str]:
        del ignore
        return []

    def tensor(self, name: str) -> Tensor:
        raise CheckpointError(f"random weights have no tensor {name} outside a module")

    def load(
        self,
        module: nn.Module,
        prefix: str,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        optional: Sequence[str] = (),
        ignore: Sequence[str] = (),
        rename: Callable[[str], str] | None = None,
    ) -> None:
        del optional, ignore, rename
        random_weights(module, self.seed, prefix=prefix, device=device, dtype=dtype)
