"""The language model's weights as they are stored, or with its layers in 4 or 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.gpu.blocks.decoder import DecoderLayer
from engine.gpu.blocks.linear import Format
from engine.gpu.kernels.int4 import Int4Values, Int4Weight
from engine.gpu.weights import Checkpoint, CheckpointError, empty
from engine.minicpmo.models.config import LlmConfig
from engine.minicpmo.models.llm.qwen3 import Qwen3
from engine.minicpmo.models.stored_format import AwqFormat

PREFIX = "llm."
LAYERS = "model.layers."


def load_llm(
    checkpoint: Checkpoint,
    config: LlmConfig,
    *,
    device: torch.device,
    dtype: torch.dtype,
    quantise: Format | None = None,
    stored: AwqFormat | None = None,
) -> Qwen3:
    """`quantise`: put the layers' weights into so few bits, one layer at a time; `stored`: how the
    folder has them in 4 bits already.

    Embeddings, norms and the head stay in `dtype`. Raises `CheckpointError`.
    """
    llm = empty(lambda: Qwen3(config))
    if quantise is None and stored is None:
        checkpoint.load(llm, PREFIX, device=device, dtype=dtype)
        return llm
    layers = llm.model.layers
    _refuse_more(checkpoint, len(layers))
    llm.model.layers = nn.ModuleList()
    aside = torch.device("cpu")
    for index, layer in enumerate(layers):
        assert isinstance(layer, DecoderLayer)
        prefix = f"{PREFIX}{LAYERS}{index}."
        if stored is None:
            checkpoint.load(layer, prefix, device=device, dtype=dtype)
            assert quantise is not None
            layer.quantise(quantise)
            layer.move_products(aside)
            continue
        read = _Reading(checkpoint, prefix, layer, stored, device)
        packed = read.weight("self_attn", "q_proj", "k_proj", "v_proj")
        out = read.weight("self_attn", "o_proj")
        gates = read.weight("mlp", "gate_proj", "up_proj")
        down = read.weight("mlp", "down_proj")
        layer.replace_products(packed, out, gates, down)
        quantised = [f"*.{name}" for name in stored.TENSORS]
        checkpoint.load(layer, prefix, device=device, dtype=dtype, ignore=quantised)
        layer.move_products(aside)
    if device.type == "cuda":
        # What the work left would lie scattered between the weights, of no use to anything large.
        torch.cuda.empty_cache()
    for layer in layers:
        assert isinstance(layer, DecoderLayer)
        layer.move_products(device)
    checkpoint.load(llm, PREFIX, device=device, dtype=dtype, ignore=[f"{LAYERS}*"])
    llm.model.layers = layers
    llm.eval()
    return llm


def _refuse_more(checkpoint: Checkpoint, count: int) -> None:
    """Names of layers that the model does not have are unexpected, as any other."""
    start = len(PREFIX + LAYERS)
    more = [
        name
        for name in checkpoint.names(PREFIX + LAYERS)
        if not (number := name[start:].partition(".")[0]).isdecimal() or int(number) >= count
    ]
    if more:
        raise CheckpointError(f"{checkpoint.path}: unexpected {', '.join(more[:8])}")


class _Reading:
    """Reads the quantised weights of one layer."""

    def __init__(
        self,
        checkpoint: Checkpoint,
        prefix: str,
        layer: DecoderLayer,
        stored: AwqFormat,
        device: torch.device,
    ) -> None:
        """`layer`: as it is without quantising, for the shapes."""
        self._checkpoint = checkpoint
        self._prefix = prefix
        self._layer = layer
        self._stored = stored
        self._device = device

    def weight(self, part: str, *names: str) -> Int4Weight:
        """The weights of linear layers over the same inputs, one below the other."""
        found = [self._values(f"{part}.{name}") for name in names]
        try:
            return Int4Weight.of(Int4Values.joined(found))
        except ValueError as error:
            where = f"{self._checkpoint.path}: {self._prefix}{part}.{names[0]}"
            raise CheckpointError(f"{where}: {error}") from None

    def _values(self, name: str) -> Int4Values:
        linear = self._layer.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        wanted = self._stored.shapes(*linear.weight.shape)
        return self._stored.values(*(self._tensor(name, leaf, wanted[leaf]) for leaf in wanted))

    def _tensor(self, name: str, leaf: str, shape: tuple[int, int]) -> Tensor:
        full = f"{self._prefix}{name}.{leaf}"
        found = self._checkpoint.tensor(full)
        if found.shape != shape:
            raise CheckpointError(
                f"{self._checkpoint.path}: {full} is {list(found.shape)}, {list(shape)} in the "
                f"model, whose inputs are in groups of {self._stored.group}"
            )
        return found.to(self._device)
