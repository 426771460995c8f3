"""Linear layers with what follows them, and weights laid together."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
