"""The language model's weights as they are stored, or with its layers in 4 bits."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.gpu.blocks.decoder import DecoderLayer
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
    quantise: bool = False,
    stored: AwqFormat | None = None,
) -> Qwen3:
    """`quantise`: put the layers' weights into 4 bits, one layer at a time; `stored`: how the
    folder has them in 4 bits already.

    Embeddings, norms and the head stay in `dtype`. Raises `CheckpointError`.
    """
    llm = empty(lambda: Qwen3(config))
    if not quantise and stored is None:
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
            layer.quantise()
            layer.move_products(aside)
            continue
        read = _Reading(checkpoint, prefix, stored, device)
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
        self, checkpoint: Checkpoint, prefix: str, stored: AwqFormat, device: torch.device
    ) -> None:
        self._checkpoint = checkpoint
        self._prefix = prefix
        self._stored = stored
        self._device = device

    def weight(self, part: str, *names: str) -> Int4Weight:
        """The weights of linear layers over the same inputs, one below the other."""
        found = [self._values(f"{self._prefix}{part}.{name}.") for name in names]
        try:
            return Int4Weight.of(Int4Values.joined(found))
        except (ValueError, RuntimeError) as error:
            where = f"{self._checkpoint.path}: {self._prefix}{part}.{names[0]}"
            raise CheckpointError(f"{where}: {error}") from None

    def _values(self, name: str) -> Int4Values:
        words, zeros, scales = (self._tensor(name + leaf) for leaf in self._stored.TENSORS)
        inputs, outputs = words.shape[0], 8 * words.shape[1]
        groups = inputs // self._stored.group
        if zeros.shape != (groups, words.shape[1]) or scales.shape != (groups, outputs):
            raise CheckpointError(
                f"{self._checkpoint.path}: {name}qzeros {list(zeros.shape)} and scales "
                f"{list(scales.shape)} do not belong to groups of {self._stored.group} of "
                f"{list(words.shape)}"
            )
        return self._stored.values(words, zeros, scales)

    def _tensor(self, name: str) -> Tensor:
        return self._checkpoint.tensor(name).to(self._device)
