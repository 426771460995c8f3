"""Products with weights in 4 bits, by our kernels, beside bfloat16 and beside the bytes they read.

    python -m tests.bench.int4 --layers 36 --rows 1,8,32,64,512 --json

Runs the four products of each of the released model's layers in one graph. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.gpu.blocks.linear import Weight, product
from engine.gpu.kernels.int4 import Int4Values, Int4Weight
from tests.bench.gpu import bandwidth, timed_ms

SHAPES = ((6144, 4096), (4096, 4096), (24_576, 4096), (4096, 12_288))
DEVICE = torch.device("cuda")


def weights(layers: int) -> list[Tensor]:
    return [
        torch.randn(shape, device=DEVICE, dtype=torch.bfloat16)
        for _ in range(layers)
        for shape in SHAPES
    ]


def graph_ms(given: Sequence[Weight], rows: int) -> float:
    """All products in one graph."""
    inputs = {
        size: torch.randn(rows, size, device=DEVICE, dtype=torch.bfloat16)
        for size in (4096, 12_288)
    }

    def run() -> None:
        for weight in given:
            size = weight.shape[1] if isinstance(weight, Tensor) else weight.inputs
            product(inputs[size], weight)

    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    return timed_ms(graph.replay, DEVICE, 20)


def error(weight: Tensor) -> float:
    """Relative, of one rounded weight's products."""
    x = torch.randn(64, weight.shape[1], device=DEVICE, dtype=torch.bfloat16)
    exact = F.linear(x.float(), weight.float())
    found = product(x, Int4Weight.of(Int4Values.of(weight)))
    return float((found.float() - exact).norm() / exact.norm())


@torch.inference_mode()
def measure(layers: int, counts: Sequence[int]) -> dict[str, Any]:
    wide = weights(layers)
    narrow = [Int4Weight.of(Int4Values.of(weight)) for weight in wide]
    rate = bandwidth(DEVICE)
    read = sum(weight.nbytes for weight in narrow)
    found: dict[str, Any] = {
        "gpu": torch.cuda.get_device_name(DEVICE),
        "copy_tb_s": round(rate / 1e12, 3),
        "gb": round(read / 1e9, 3),
        "floor_ms": round(read / rate * 1000, 3),
        "error": round(error(wide[0]), 4),
        "rows": {},
    }
    for count in counts:
        found["rows"][count] = {
            "int4_ms": round(graph_ms(narrow, count), 3),
            "bf16_ms": round(graph_ms(wide, count), 3),
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m tests.bench.int4")
    parser.add_argument("--layers", type=int, default=36)
    parser.add_argument("--rows", default="1,8,32,64,512")
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    options = parser.parse_args()
    told = measure(options.layers, [int(part) for part in options.rows.split(",")])
    print(json.dumps(told) if options.json else json.dumps(told, indent=2))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
