"""Tensors, comparisons and a model for tests on a CUDA device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.gpu.kernels.loader import Kernel
from engine.gpu.weights import empty
from engine.minicpmo.llm.rows import Feed, LlmRows
from engine.minicpmo.models.llm.qwen3 import Qwen3
from tests.engine.minicpmo.llm_rig import ids_of, llm_config
from tests.random_weights import random_weights

BF16 = torch.bfloat16
STEP = 2.0**-8
"""Largest relative step of bfloat16."""


def cuda_only() -> list[pytest.MarkDecorator]:
    """The marks of a module for GPUs; without one it is skipped whole, once its imports are tried.

    Its parametrised tests would take seconds to be collected and skipped one by one.
    """
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device (pytest -m cuda)", allow_module_level=True)
    return [pytest.mark.cuda]


def skip_without_kernels() -> None:
    """Skip a test where some kernel cannot be compiled: torch would be compared with itself."""
    missing = [kernel.name for kernel in Kernel.all if kernel.compiled(0) is None]
    if missing:
        pytest.skip(Kernel.report())


def without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Kernel, "are_on", False)


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = BF16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to("cuda", dtype)


def ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32, device="cuda")


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


def assert_rounds_alike(ours: Tensor, plain: Tensor) -> None:
    """Sums in another order may round a value to its neighbour now and then."""
    assert ours.shape == plain.shape and ours.dtype == plain.dtype
    apart = (ours.float() - plain.float()).abs()
    assert apart.max() <= 4 * STEP * plain.float().abs().max()
    assert (apart > 0).sum() <= 1 + 0.01 * apart.numel()


def small_llm(head_dim: int = 64) -> Qwen3:
    """Sizes that are not multiples of the kernels' blocks, a head size that attention takes."""
    config = replace(
        llm_config(heads=6, kv_heads=2, layers=3),
        hidden_size=200,
        head_dim=head_dim,
        intermediate_size=328,
    )
    model = empty(lambda: Qwen3(config))
    random_weights(model, 5, device="cuda", dtype=BF16)
    return model


def converse(rows: LlmRows) -> list[Tensor]:
    """States and logits over some turns of ragged rows, a long one among them."""
    found = []
    for turn in range(4):
        feeds = [
            Feed(slot, [ids_of(1 + (13 * slot + 29 * turn) % 50, 10 * turn + slot)])
            for slot in (3, 0, 4)
        ]
        if turn == 2:
            feeds[1] = Feed(0, [ids_of(700, 99)])
        rows.append(feeds, want_logits=True)
        found += [rows.hidden[[3, 0, 4]].clone(), rows.logits[[3, 0, 4]].clone()]
        found.append(rows.step({4: 7, 1: 9, 3: 11}))
        found.append(rows.logits[[4, 1, 3]].clone())
    rows.truncate(0, 100)
    rows.append([Feed(0, [ids_of(5, 1)])])
    found.append(rows.step({0: 3}))
    return found
