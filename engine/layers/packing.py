"""Linear layers over the same input as one product, while each keeps its name."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def pack(*layers: nn.Linear) -> tuple[Tensor, Tensor]:
    """One weight [sum of outputs, inputs] and bias for all layers, to be called once loaded.

    The layers' own parameters become views of them, so that nothing is held twice. A layer without
    a bias gets zeros there.
    """
    weight = torch.cat([layer.weight.detach() for layer in layers])
    biases = [
        layer.weight.new_zeros(layer.out_features) if layer.bias is None else layer.bias.detach()
        for layer in layers
    ]
    bias = torch.cat(biases)
    start = 0
    for layer in layers:
        own = slice(start, start + layer.out_features)
        layer.weight = nn.Parameter(weight[own], requires_grad=False)
        if layer.bias is not None:
            layer.bias = nn.Parameter(bias[own], requires_grad=False)
        start += layer.out_features
    return weight, bias
