"""A network in float32 with the weights that it has in a narrower type, in the same place."""

from __future__ import annotations

from torch import nn

from engine.minicpmo.models.talker.tts import CodeHead


def widen(network: nn.Module) -> None:
    """Widen all tensors, one part after the other, so that two copies of all never exist.

    What a part derives from its tensors is derived anew.
    """
    for child in network.children():
        widen(child)
    for name, tensor in list(network.named_parameters(recurse=False)):
        setattr(network, name, nn.Parameter(tensor.detach().float(), requires_grad=False))
    for name, buffer in list(network.named_buffers(recurse=False)):
        if buffer.is_floating_point():
            setattr(network, name, buffer.float())
    finish = getattr(network, "finish_loading", None)
    # A code head has folded its weight norm and knows the folded weight only.
    if finish is not None and not isinstance(network, CodeHead):
        finish()
