"""Linear layers with biases over the same input as one product, while each keeps its name."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.gpu.layers.linear import pack


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
