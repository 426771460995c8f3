"""Weights and rows in 8 bits, and the products of both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from engine.gpu.blocks.linear import product, quantised, takes_narrow
from engine.gpu.kernels import fp8_weights
from engine.gpu.kernels.decoder_layer import add_norm, silu_mul
from engine.gpu.kernels.fp8_weights import Fp8Rows, Fp8Weight, narrowed
from engine.gpu.layers.norms import RMSNorm

GAUSSIAN_ERROR = 0.04
"""Of products of normal values, both in e4m3: 3.7 % with enough inputs."""


def drawn(rows: int, size: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).norm() / theirs.norm())


def test_the_error_of_normal_weights_and_products() -> None:
    weight, x = drawn(256, 1024), drawn(37, 1024, seed=1)
    narrow = Fp8Weight.of(weight)
    assert 0.01 < relative(narrow.widened(torch.float32), weight) < 0.03
    assert 0.02 < relative(narrow.product(x), x @ weight.t()) < GAUSSIAN_ERROR


def test_each_output_and_each_row_has_a_scale_of_its_own() -> None:
    """However far apart they are."""
    weight, x = drawn(32, 64), drawn(3, 64, seed=1)
    sizes = torch.logspace(-6, 6, 32)[:, None]
    far = Fp8Weight.of(weight * sizes).product(x * torch.tensor([[1e-5], [1.0], [1e5]]))
    near = Fp8Weight.of(weight).product(x)
    back = far / sizes.t() / torch.tensor([[1e-5], [1.0], [1e5]])
    assert relative(back, near) < 0.01
    assert Fp8Weight.of(torch.zeros(16, 16)).product(x[:, :16].contiguous()).eq(0).all()


def test_a_large_weight_is_the_same_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Fp8Weight.of(drawn(48, 32))
    monkeypatch.setattr(fp8_weights, "_QUANTISED_VALUES", 5 * 32)
    parts = Fp8Weight.of(drawn(48, 32))
    assert torch.equal(whole.scales, parts.scales)
    assert torch.equal(whole.numbers.view(torch.uint8), parts.numbers.view(torch.uint8))
    assert whole.nbytes == 48 * 32 + 4 * 48 and whole.to(torch.device("cpu")).nbytes == whole.nbytes


def test_rows_are_put_into_eight_bits_as_they_are_made() -> None:
    """By norm and activation the same numbers come as of what these give in float32."""
    norm = RMSNorm(64, 1e-6).requires_grad_(False)
    x, delta = drawn(5, 64), drawn(5, 64, seed=1)
    total, rows = add_norm(x, delta, norm, narrow=True)
    plain_total, plain = add_norm(x, delta, norm)
    assert torch.equal(total, plain_total)
    both = drawn(5, 128, seed=2)
    for ours, wide in ((rows, plain), (silu_mul(both, narrow=True), silu_mul(both))):
        assert isinstance(ours, Fp8Rows) and isinstance(wide, Tensor)
        wanted = narrowed(wide)
        assert torch.equal(ours.numbers.view(torch.uint8), wanted.numbers.view(torch.uint8))
        assert torch.equal(ours.scales, wanted.scales)
        weight = quantised(drawn(32, 64, seed=3), "fp8")
        assert takes_narrow(weight)
        assert torch.equal(product(ours, weight), product(wide, weight))


def test_what_cannot_be_multiplied_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\[24, 16\] is no multiple of 16"):
        Fp8Weight.of(drawn(24, 16))
    rows = narrowed(drawn(2, 16))
    with pytest.raises(AssertionError, match="rows in 8 bits"):
        product(rows, drawn(16, 16))


def test_what_is_not_finite_stays_so() -> None:
    x = drawn(3, 32)
    x[1, 5] = torch.nan
    found = Fp8Weight.of(drawn(16, 32)).product(x)
    assert found[1].isnan().all() and found[[0, 2]].isfinite().all()
