"""The language model by itself: steps and prompts of many rows beside their floors.

    python -m tests.bench.llm --size full --device cuda --rows 1,8,32 --contexts 2048,4096 --json

With `--kv fp8` keys and values are kept in 8 bits. The floor of a step is the bytes it has to read,
weights and keys and values as they are kept, over the bandwidth measured in the same run. Prints
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import Tensor

from engine.config import KvCacheType, WeightsType
from engine.gpu.graphs import GraphPool
from engine.gpu.weights import Checkpoint
from engine.minicpmo.llm.rows import CACHES, Feed, LlmRows
from engine.minicpmo.models.config import LlmConfig
from engine.minicpmo.models.llm.loading import load_llm
from engine.minicpmo.models.llm.qwen3 import Qwen3
from tests.bench.gpu import (
    arithmetic,
    bandwidth,
    memory_gib,
    narrow_bytes,
    synchronize,
    timed_ms,
)
from tests.random_weights import RandomCheckpoint
from tests.tiny_checkpoint import full_size_config, tiny_config, write_small_files

UNIT_TOKENS = 79
"""Of one omni second."""


CHECKED_LAYERS = 4


def config_of(size: str) -> LlmConfig:
    with tempfile.TemporaryDirectory() as name:
        make = full_size_config if size == "full" else tiny_config
        return write_small_files(Path(name), make).llm


def build(
    config: LlmConfig, device: str, dtype: torch.dtype, weights: WeightsType = "auto"
) -> Qwen3:
    # It has all that `load_llm` asks of a checkpoint.
    drawn = cast(Checkpoint, RandomCheckpoint())
    form = None if weights == "auto" else weights
    return load_llm(drawn, config, device=torch.device(device), dtype=dtype, quantise=form)


def relative(ours: Tensor, other: Tensor) -> float:
    return float((ours.float() - other.float()).norm() / other.float().norm())


def errors(config: LlmConfig, device: str, kv: KvCacheType) -> dict[str, float]:
    """A few layers in bfloat16 by graphs and without them, against float32; ragged rows.

    `kv` is not of the latter, which keeps float32.
    """
    few = replace(config, num_layers=min(CHECKED_LAYERS, config.num_layers))
    kinds = {"graphs": torch.bfloat16, "no graphs": torch.bfloat16, "float32": torch.float32}
    outcomes: dict[str, list[Tensor]] = {}
    for kind, dtype in kinds.items():
        model = build(few, device, dtype)
        pool = GraphPool(model.device, enabled=kind == "graphs")
        kept: KvCacheType = "auto" if kind == "float32" else kv
        rows = LlmRows(model, 9, 1024, pool, kv_cache=kept)
        rows.warm_up(lambda text: None)
        outcome = []
        generator = torch.Generator().manual_seed(5)
        for turn in range(4):
            feeds = []
            for slot in (3, 0, 8, 5):
                count = int(torch.randint(1, 60, (1,), generator=generator))
                ids = torch.randint(0, few.vocab_size, (count,), generator=generator).tolist()
                feeds.append(Feed(slot, [ids]))
            if turn == 2:
                feeds[1] = Feed(0, [torch.randint(0, 200, (700,), generator=generator).tolist()])
            outcome += [fed.logits for fed in rows.feed(feeds)]
            rows.step({8: 7, 3: 9, 0: 11})
            outcome += [fed.logits for fed in rows.newest([8, 3, 0])]
        outcomes[kind] = outcome
        del model, rows
    exact = outcomes["float32"]
    return {
        f"{kind}, worst of {len(exact)} rows": max(
            relative(ours, other) for ours, other in zip(outcome, exact, strict=True)
        )
        for kind, outcome in outcomes.items()
        if kind != "float32"
    }


class Bench:
    def __init__(
        self, model: Qwen3, rows: int, max_len: int, *, graphs: bool, kv: KvCacheType
    ) -> None:
        self.model, self.kv = model, kv
        pool = GraphPool(model.device, enabled=graphs)
        self.rows = LlmRows(model, rows, max_len, pool, kv_cache=kv)
        self.bytes_per_s = bandwidth(model.device)
        self.operations_per_s = arithmetic(model.device)
        table = model.model.embed_tokens.weight
        read = sum(p.numel() * p.element_size() for p in model.parameters()) + narrow_bytes(model)
        self.weight_bytes = read - table.numel() * table.element_size()

    def at(self, context: int) -> None:
        """Pretend that every slot holds so many positions."""
        self.rows.kv.lengths = [context] * self.rows.kv.num_slots

    def step(self, count: int, context: int) -> dict[str, float]:
        def run() -> None:
            self.at(context - 1)
            self.rows.step(dict.fromkeys(range(count), 5))

        ms = timed_ms(run, self.model.device, 20)
        read = self.weight_bytes + count * context * CACHES[self.kv].bytes_per_position(
            self.model.cache_spec(1)
        )
        floor = read / self.bytes_per_s * 1000
        return {"ms": round(ms, 3), "floor_ms": round(floor, 3), "ratio": round(ms / floor, 3)}

    def prefill(self, count: int, tokens: int, context: int) -> dict[str, float]:
        """`count` rows of `tokens` behind `context` positions."""
        feeds = [Feed(slot, [[5] * tokens]) for slot in range(count)]

        def run() -> None:
            self.at(context)
            self.rows.append(feeds, want_logits=True)

        ms = timed_ms(run, self.model.device, 5)
        config = self.model.config
        linear = 2 * count * tokens * self.weight_bytes / 2
        scores = 4 * count * tokens * context * config.num_heads * config.head_dim
        operations = linear + scores * config.num_layers
        floor = max(operations / self.operations_per_s, self.weight_bytes / self.bytes_per_s)
        return {
            "ms": round(ms, 3),
            "floor_ms": round(floor * 1000, 3),
            "ratio": round(ms / floor / 1000, 3),
        }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.bench.llm")
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--weights-dtype", choices=get_args(WeightsType), default="auto")
    parser.add_argument("--rows", default="1,8,32")
    parser.add_argument("--contexts", default="4096")
    parser.add_argument("--kv", choices=get_args(KvCacheType), default="auto")
    parser.add_argument("--eager", action="store_true", help="without graphs, too")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args()
    counts = [int(part) for part in options.rows.split(",")]
    contexts = [int(part) for part in options.contexts.split(",")]
    config = config_of(options.size)
    result: dict[str, Any] = {
        "kv": options.kv,
        "errors": errors(config, options.device, options.kv),
    }
    on_cuda = options.device.startswith("cuda")
    dtype = torch.bfloat16 if on_cuda else torch.float32
    model = build(config, options.device, dtype, options.weights_dtype)
    for graphs in (True, False) if options.eager else (True,):
        bench = Bench(model, max(counts), max(contexts) + 600, graphs=graphs, kv=options.kv)
        synchronize(model.device)
        started = time.perf_counter()
        if graphs:
            bench.rows.warm_up(lambda text: None)
        synchronize(model.device)
        result["with graphs" if graphs else "without"] = {
            "warm_up_s": round(time.perf_counter() - started, 2),
            "graphs": len(bench.rows.graphs),
            "copy_tb_s": round(bench.bytes_per_s / 1e12, 3),
            "product_tflop_s": round(bench.operations_per_s / 1e12, 1),
            "kv_gib": round(bench.rows.kv.nbytes / 1024**3, 2),
            "steps": {f"{n} x {c}": bench.step(n, c) for c in contexts for n in counts},
            "units": {
                f"{n} x {UNIT_TOKENS} behind {c}": bench.prefill(n, UNIT_TOKENS, c)
                for c in contexts
                for n in counts
            },
            "prompt 512": bench.prefill(1, 512, max(contexts) - 1),
            "misses": bench.rows.graphs.misses,
        }
        del bench
    result["peak_device_gib"] = memory_gib(model.device)
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
