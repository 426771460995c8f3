"""How far what was computed in one way is from the same computed in another."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor


class Error:
    """A difference over tensors that are added one after the other."""

    def __init__(self) -> None:
        self._difference = self._reference = self._largest = 0.0
        self._is_number = True
        self._count = 0

    def add(self, ours: Tensor, reference: Tensor) -> Error:
        """Shapes are equal; devices and types need not be. Returns itself."""
        assert ours.shape == reference.shape, f"{tuple(ours.shape)}, {tuple(reference.shape)}"
        if not ours.numel():
            return self
        exact = reference.detach().cpu().double()
        apart = ours.detach().cpu().double().sub_(exact)
        self._difference += float(apart.square().sum())
        self._reference += float(exact.square().sum())
        self._largest = max(self._largest, float(apart.abs().max()))
        self._is_number = self._is_number and bool(apart.isfinite().all())
        self._count += apart.numel()
        return self

    def told(self) -> dict[str, float | bool]:
        """Relative and absolute; `reference_rms` is what the first is relative to."""
        if not self._is_number:
            return {"is_finite": False}
        count = max(self._count, 1)
        scale = (self._reference / count) ** 0.5
        rms = (self._difference / count) ** 0.5
        return {
            "relative_rms": significant(rms / (scale or 1.0)),
            "max_abs": significant(self._largest),
            "reference_rms": significant(scale),
        }


def error(ours: Iterable[Tensor], reference: Iterable[Tensor]) -> dict[str, float | bool]:
    """Of tensors in pairs."""
    whole = Error()
    for left, right in zip(ours, reference, strict=True):
        whole.add(left, right)
    return whole.told()


def significant(value: float) -> float:
    """Rounded for reading."""
    return float(f"{value:.4g}")
