"""The language model: its engine path beside float32, plain operations, and a row by itself."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.config import KvCacheType
from engine.gpu.blocks.decoder import DecoderLayer
from engine.gpu.blocks.linear import Format
from engine.gpu.graphs import GraphPool
from engine.gpu.kernels.loader import Kernel
from engine.gpu.layers import varlen_attention as varlen
from engine.minicpmo.llm.rows import Feed, LlmRows
from engine.minicpmo.llm.tokenizer import OmniTokenizer
from engine.minicpmo.models.llm.qwen3 import Qwen3
from tests.bench.errors import error, significant
from tests.bench.widening import widen
from tests.exactness import exact

ROWS = 8
PROMPT = 200
STEPS = 64
SIZES = (240, 1600)
"""Tokens that prompts are padded to: of one row, of all."""
LONG_ROWS = 4
LONG_PROMPT = 600
LONG_SIZES = (400, 2048)
"""Of the two forwards that a graph takes for them."""

PASSAGE = (
    "The ferry leaves the harbour at seven and crosses the bay in forty minutes. On the other side "
    "a narrow road climbs between stone walls to the village, where the market opens early and the "
    "bakery earlier still. Somebody asks what the weather will be like; nobody can tell, but "
    "the clouds over the hills have been low since yesterday, and the wind has turned. "
)


def prompts_of(tokens: OmniTokenizer, rows: int, length: int) -> list[list[int]]:
    """A prompt for each row, of different lengths and beginnings."""
    ids = tokens.encode(PASSAGE)
    ids *= 2 + length // len(ids)
    return [(ids[7 * row :] + ids)[: length - 5 * row] for row in range(rows)]


@dataclass
class Trace:
    """What a run computed after its prompt and after each step; rows side by side, on the host."""

    hidden: list[Tensor] = field(default_factory=list)
    """[B, C] each."""
    logits: list[Tensor] = field(default_factory=list)
    """[B, V] each, float32."""
    misses: int = 0

    @property
    def tokens(self) -> list[list[int]]:
        """The best token of each row [B] at each place."""
        return [logits.argmax(-1).tolist() for logits in self.logits]

    def row(self, row: int) -> Trace:
        """One row by itself."""
        only = slice(row, row + 1)
        return Trace([h[only] for h in self.hidden], [x[only] for x in self.logits])


@torch.inference_mode()
def follow(
    model: Qwen3,
    prompts: Sequence[Sequence[int]],
    pool: GraphPool,
    tokens: Sequence[Sequence[int]] | None = None,
    *,
    sizes: Sequence[int] = SIZES,
    kv: KvCacheType = "auto",
) -> Trace:
    """Read the prompts, then feed `STEPS` tokens: the given ones, or the best at each place."""
    slots = range(len(prompts))
    length = max(map(len, prompts)) + STEPS
    rows = LlmRows(model, len(prompts), length, pool, sizes=sizes, kv_cache=kv)
    rows.warm_up(lambda text: None)
    trace = Trace()

    def note() -> None:
        # The rows' own tensors are written to in every step.
        for kept, of in ((trace.hidden, rows.hidden), (trace.logits, rows.logits)):
            kept.append(of[: len(prompts)].to("cpu", torch.float32, copy=True))

    rows.append([Feed(slot, [prompts[slot]]) for slot in slots], want_logits=True)
    note()
    for step in range(STEPS):
        best = trace.logits[-1].argmax(-1).tolist() if tokens is None else tokens[step]
        rows.step(dict(zip(slots, best, strict=True)))
        note()
    trace.misses = pool.misses
    return trace


def differences(ours: Trace, reference: Trace) -> dict[str, Any]:
    """`ours` and `reference` were fed the same tokens: the best ones of one of both."""
    told: dict[str, Any] = {
        "prompt": {
            "hidden": error(ours.hidden[:1], reference.hidden[:1]),
            "logits": error(ours.logits[:1], reference.logits[:1]),
        },
        "steps": {
            "hidden": error(ours.hidden[1:], reference.hidden[1:]),
            "logits": error(ours.logits[1:], reference.logits[1:]),
        },
    }
    return told | greedy(ours, reference)


def greedy(ours: Trace, reference: Trace) -> dict[str, Any]:
    """Where free greedy decoding of both differs first: up to there they were fed the same.

    A lead is that of a choice over what the other one chose, in the logits of whom it is of.
    """
    rows = len(ours.logits[0])
    left, right = ours.tokens, reference.tokens
    firsts: dict[int, dict[str, Any]] = {}
    for row in range(rows):
        for place, (a, b) in enumerate(zip(left, right, strict=True)):
            if a[row] == b[row]:
                continue
            mine, theirs = ours.logits[place][row], reference.logits[place][row]
            firsts[row] = {
                "row": row,
                "position": place,
                "reference_lead": significant(float(theirs[b[row]] - theirs[a[row]])),
                "own_lead": significant(float(mine[a[row]] - mine[b[row]])),
            }
            break
    best = torch.cat([logits.topk(2, dim=-1).values for logits in reference.logits])
    return {
        "positions": len(left),
        "rows": rows,
        "rows_all_equal": rows - len(firsts),
        "first_difference": min(firsts.values(), key=lambda found: found["position"], default=None),
        "differences": list(firsts.values()),
        "median_lead": significant(statistics.median((best[:, 0] - best[:, 1]).tolist())),
    }


@contextmanager
def plain(*, kernels: bool, attention: bool) -> Iterator[None]:
    """Torch operations in the place of our kernels, attention row by row in that of one call.

    The attention sums in float32 and rounds its result.
    """
    with ExitStack() as stack:
        if kernels:
            stack.enter_context(mock.patch.object(Kernel, "are_on", False))
        if attention:
            stack.enter_context(
                mock.patch("engine.gpu.layers.varlen_attention._flash", varlen._by_rows)
            )
            stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        yield


class Caches:
    """Keys and values in 16 and in 8 bits, behind longer prompts."""

    def __init__(self, model: Qwen3, tokens: OmniTokenizer) -> None:
        """`model`: as the engine has it."""
        self._prompts = prompts_of(tokens, LONG_ROWS, LONG_PROMPT)
        self._wide = self._follow(model, "auto")
        self._narrow = self._follow(model, "fp8", self._wide.tokens)

    def _follow(
        self, model: Qwen3, kv: KvCacheType, tokens: Sequence[Sequence[int]] | None = None
    ) -> Trace:
        pool = GraphPool(model.device, enabled=model.dtype != torch.float32)
        return follow(model, self._prompts, pool, tokens, sizes=LONG_SIZES, kv=kv)

    def against_float32(self, model: Qwen3) -> dict[str, Any]:
        """`model`: the same in float32."""
        fed = self._wide.tokens
        reference, narrow = (self._follow(model, kind, fed) for kind in ("auto", "fp8"))
        return {
            "graph_misses": self._wide.misses + self._narrow.misses,
            "engine with fp8 against auto": differences(self._narrow, self._wide),
            "engine with auto against float32": differences(self._wide, reference),
            "engine with fp8 against float32": differences(self._narrow, reference),
            "float32 with fp8 against float32": differences(narrow, reference),
        }


@contextmanager
def in_few_bits(model: Qwen3, form: Format) -> Iterator[None]:
    """The layers' weights as `load_llm` quantises them; afterwards as they were."""
    layers = list(model.model.layers)
    try:
        model.model.layers = nn.ModuleList(_in_few_bits(layer, form) for layer in layers)
        yield
    finally:
        model.model.layers = nn.ModuleList(layers)


def _in_few_bits(layer: nn.Module, form: Format) -> DecoderLayer:
    made = _sharing(layer)
    assert isinstance(made, DecoderLayer)
    made.self_attn, made.mlp = _sharing(made.self_attn), _sharing(made.mlp)
    made.quantise(form)
    return made


ModuleT = TypeVar("ModuleT", bound=nn.Module)


def _sharing(module: ModuleT) -> ModuleT:
    """Another module with the same parts, which can be exchanged one by one."""
    made = copy(module)
    made._modules = dict(module._modules)
    made._parameters = dict(module._parameters)
    return made


def measure(model: Qwen3, tokens: OmniTokenizer) -> tuple[dict[str, Any], Trace, Trace]:
    """Leaves the model in float32. Also returns what the engine's path computed, with the model's
    weights and with these in 4 bits, fed the same."""
    prompts, device = prompts_of(tokens, ROWS, PROMPT), model.device
    engine = follow(model, prompts, GraphPool(device))
    fed = engine.tokens
    others: dict[str, Trace] = {}
    told: dict[str, Any] = {"graph_misses": engine.misses}
    for name, kernels, attention in (
        ("eager", False, False),
        ("plain kernels", True, False),
        ("plain attention", False, True),
        ("plain both", True, True),
    ):
        with plain(kernels=kernels, attention=attention):
            others[name] = follow(model, prompts, GraphPool(device, enabled=False), fed)
        told[f"engine against {name}"] = differences(engine, others[name])
    alone = follow(model, prompts[:1], GraphPool(device), [ids[:1] for ids in fed])
    told[f"a row alone against a batch of {ROWS}"] = differences(alone, engine.row(0))
    narrow: dict[Format, Trace] = {}
    for form in get_args(Format):
        with in_few_bits(model, form):
            narrow[form] = follow(model, prompts, GraphPool(device), fed)
    told["weights"] = {
        f"engine with {form} against auto": differences(trace, engine)
        for form, trace in narrow.items()
    }
    caches = Caches(model, tokens)
    widen(model)
    with exact():
        reference = follow(model, prompts, GraphPool(device, enabled=False), fed)
        told["caches"] = caches.against_float32(model)
    for form, trace in narrow.items():
        told["weights"][f"engine with {form} against float32"] = differences(trace, reference)
    told["engine against float32"] = differences(engine, reference)
    told["plain both against float32"] = differences(others["plain both"], reference)
    return told, engine, narrow["int4"]
