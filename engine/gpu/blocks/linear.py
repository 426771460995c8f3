"""Linear layers with what follows them, and weights laid together."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.gpu.kernels.decoder_layer import Rows
from engine.gpu.kernels.fp8_weights import Fp8Weight
from engine.gpu.kernels.int4 import Int4Values, Int4Weight

Format = Literal["fp8", "int4"]
FewBits = Fp8Weight | Int4Weight
Weight = Tensor | FewBits
"""Of a linear layer without a bias [N, K]."""


def product(x: Rows, weight: Weight) -> Tensor:
    """x [M, K] -> [M, N]; only weights in 8 bits take rows in 8 bits."""
    if isinstance(weight, Fp8Weight):
        return weight.product(x)
    assert isinstance(x, Tensor), "rows in 8 bits"
    return weight.product(x) if isinstance(weight, Int4Weight) else F.linear(x, weight)


def takes_narrow(weight: Weight | None) -> bool:
    """Whether its rows may come in 8 bits."""
    return isinstance(weight, Fp8Weight)


def quantised(weight: Weight, form: Format) -> FewBits:
    """The same in 4 or 8 bits, as it is if it has few already; raises `ValueError` where its sizes
    do not allow that."""
    if not isinstance(weight, Tensor):
        return weight
    return Fp8Weight.of(weight) if form == "fp8" else Int4Weight.of(Int4Values.of(weight))


def linear_gelu(x: Tensor, linear: nn.Linear) -> Tensor:
    """GELU, approximated by tanh, of a linear layer of x [N, C] or [B, T, C]; on CUDA in 16 bits
    as one product, which does not round in between."""
    if x.device.type != "cuda" or x.dtype not in (torch.float16, torch.bfloat16):
        return F.gelu(linear(x), approximate="tanh")
    product = torch.ops.aten._addmm_activation
    out: Tensor = product(linear.bias, x.flatten(0, -2), linear.weight.t(), use_gelu=True)
    return out.view(*x.shape[:-1], -1)


def pack(*layers: nn.Linear) -> Tensor:
    """The weights of linear layers as one [sum of rows, C]; they become views of it."""
    whole = torch.cat([layer.weight.detach() for layer in layers])
    start = 0
    for layer in layers:
        rows = layer.weight.shape[0]
        layer.weight = nn.Parameter(whole[start : start + rows], requires_grad=False)
        start += rows
    return whole


def pack_biased(*layers: nn.Linear) -> tuple[Tensor, Tensor]:
    """One weight [sum of rows, C] and bias for all layers; the layers' own become views of them.

    A layer without a bias gets zeros there.
    """
    weight = pack(*layers)
    biases = [
        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
        for layer in layers
    ]
    bias = torch.cat(biases)
    start = 0
    for layer in layers:
        if layer.bias is not None:
            own = bias[start : start + layer.out_features]
            layer.bias = nn.Parameter(own, requires_grad=False)
        start += layer.out_features
    return weight, bias
