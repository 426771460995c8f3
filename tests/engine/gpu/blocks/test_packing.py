"""Packed layers: one product, the same names, nothing held twice."""

from __future__ import annotations

import torch
from torch import nn

from engine.gpu.blocks.linear import pack_biased


def test_packed_layers_share_memory_and_keep_their_names() -> None:
    layers = nn.ModuleDict({"q": nn.Linear(4, 3), "k": nn.Linear(4, 2, bias=False)})
    before = {name: tensor.clone() for name, tensor in layers.state_dict().items()}
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        apart = torch.cat([layer(x) for layer in layers.values()], 1)
        weight, bias = pack_biased(
            *(layer for layer in layers.values() if isinstance(layer, nn.Linear))
        )
        together = nn.functional.linear(x, weight, bias)
        again = torch.cat([layer(x) for layer in layers.values()], 1)
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=0)
    assert torch.equal(again, apart)
    after = layers.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    storage = weight.untyped_storage().data_ptr()
    assert all(after[f"{name}.weight"].untyped_storage().data_ptr() == storage for name in "qk")
