"""Weight normalisation folded away when weights are loaded (arXiv 1602.07868)."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

NEW = (".parametrizations.weight.original0", ".parametrizations.weight.original1")
OLD = (".weight_g", ".weight_v")


def fold(gain: Tensor, direction: Tensor) -> Tensor:
    """Return gain * direction / |direction|, the norm over all but the first dimension, float64."""
    wide = direction.double()
    norm = wide.flatten(1).norm(dim=1).view(-1, *[1] * (wide.dim() - 1))
    out: Tensor = gain.double().reshape(norm.shape) * wide / norm
    return out


def fold_all(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Replace each pair of gain and direction, under its old or new names, by one `.weight`."""
    folded: dict[str, Tensor] = {}
    for name, tensor in state.items():
        for gain, direction in (NEW, OLD):
            if name.endswith(gain):
                break
            if name.endswith(direction):
                stem = name.removesuffix(direction)
                if stem + gain not in state:
                    raise KeyError(f"{name} has no {stem + gain} beside it")
                folded[stem + ".weight"] = fold(state[stem + gain], tensor)
                break
        else:
            folded[name] = tensor
    return folded
