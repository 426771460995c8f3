"""Linear layers with what follows them, and weights laid together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.gpu.kernels.int4 import Int4Values, Int4Weight

Weight = Tensor | Int4Weight
"""Of a linear layer without a bias [N, K]."""


def product(x: Tensor, weight: Weight) -> Tensor:
    """x [M, K] -> [M, N]."""
    if isinstance(weight, Int4Weight):
        return weight.product(x)
    return F.linear(x, weight)


def int4(weight: Weight) -> Int4Weight:
    """The same in 4 bits; raises `ValueError` where its sizes do not allow that."""
    return weight if isinstance(weight, Int4Weight) else Int4Weight.of(Int4Values.of(weight))


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
