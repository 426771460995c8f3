"""A cache in 8 bits on CUDA: our kernels beside torch operations and beside float64, and graphs.

Needs a CUDA device; of other packages only what the native engine itself needs.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.gpu.graphs import GraphPool
from engine.gpu.kernels import decode_attention as decoding
from engine.gpu.kernels import fp8_kv as fp8
from engine.gpu.kernels.decode_attention import decode8
from engine.gpu.kernels.decoder_layer import PackedHeads
from engine.gpu.kernels.e4m3 import quantise
from engine.gpu.kernels.fp8_kv import Fp8Cells, read8, store8
from engine.gpu.kv.fp8 import Fp8KV
from engine.gpu.layers import varlen_attention as varlen
from engine.gpu.layers.norms import RMSNorm
from engine.gpu.layers.varlen_attention import VarlenLayout, varlen_attention
from engine.minicpmo.llm.rows import Feed, LlmRows
from engine.minicpmo.models.llm.qwen3 import Qwen3
from tests.engine.gpu.cuda_rig import (
    BF16,
    assert_rounds_alike,
    converse,
    cuda_only,
    drawn,
    ints,
    relative,
    skip_without_kernels,
    small_llm,
    without_kernels,
)
from tests.engine.minicpmo.llm_rig import ids_of

pytestmark = cuda_only()

SIZES = (16, 64, 640)
NOT_A_NUMBER = 0x7F


@pytest.fixture(autouse=True)
def kernels() -> None:
    skip_without_kernels()


def rates_of(head_dim: int) -> Tensor:
    return 1e6 ** (-torch.arange(0, head_dim, 2, device="cuda").float() / head_dim)


def cells_of(slots: int, length: int, kv_heads: int, head_dim: int, byte: int = 0) -> Fp8Cells:
    shape = (slots, length, kv_heads)
    keys, values = (
        torch.full((*shape, head_dim), byte, dtype=torch.uint8, device="cuda") for _ in range(2)
    )
    scales = torch.full((2, *shape), 3.0, device="cuda")
    return Fp8Cells(keys.view(torch.float8_e4m3fn), values.view(torch.float8_e4m3fn), *scales)


def bytes_of(stored: Tensor) -> Tensor:
    return stored.view(torch.uint8)


def without_signs_of_nan(stored: Tensor) -> Tensor:
    return torch.where(stored & NOT_A_NUMBER == NOT_A_NUMBER, NOT_A_NUMBER, stored)


# ------------------------------------------------------------------ in


@pytest.mark.parametrize("head_dim", [8, 24, 64, 128, 130])
@pytest.mark.parametrize(("heads", "kv_heads"), [(5, 1), (4, 2), (3, 3), (32, 8)])
@pytest.mark.parametrize("normed", [True, False])
def test_store(
    monkeypatch: pytest.MonkeyPatch, head_dim: int, heads: int, kv_heads: int, normed: bool
) -> None:
    count, slots, length = 13, 3, 11
    packed = drawn(count, (heads + 2 * kv_heads) * head_dim, seed=3)
    packed *= (10 ** drawn(count, 1, seed=8, dtype=torch.float32)).to(BF16)
    packed[2], packed[5, -1], packed[6, -2] = 0, torch.nan, torch.inf
    norms = None
    if normed:
        norms = tuple(RMSNorm(head_dim, 1e-6).requires_grad_(False).to("cuda", BF16) for _ in "qk")
        for seed, norm in enumerate(norms):
            norm.weight.copy_(1 + 0.1 * drawn(head_dim, seed=4 + seed))
    generator = torch.Generator().manual_seed(6)
    positions = torch.randint(0, 40_000, (count,), generator=generator).int().cuda()
    write = torch.randperm(slots * length, generator=generator)[:count].int().cuda()

    def run() -> tuple[Tensor, Fp8Cells]:
        cells = cells_of(slots, length, kv_heads, head_dim, byte=9)
        pair: Any = norms
        given = PackedHeads(packed, pair, rates_of(head_dim), positions, write, heads)
        return store8(given, cells), cells

    query, ours = run()
    without_kernels(monkeypatch)
    plain_query, plain = run()
    assert_rounds_alike(query, plain_query)
    for name in ("keys", "values"):
        stored, other = (
            without_signs_of_nan(bytes_of(getattr(cells, name))) for cells in (ours, plain)
        )
        scales, other_scales = (getattr(cells, f"{name[:-1]}_scales") for cells in (ours, plain))
        if name == "values" or not normed:
            assert torch.equal(stored, other)
            assert torch.equal(scales.nan_to_num(-1), other_scales.nan_to_num(-1))
        else:
            # A norm that rounds to its neighbour changes a number, or the scale of a head.
            assert (stored != other).float().mean() < 0.01
            torch.testing.assert_close(scales, other_scales, rtol=0.01, atol=0, equal_nan=True)
        untouched = torch.ones(slots * length, dtype=torch.bool, device="cuda")
        untouched[write.long()] = False
        assert (stored.flatten(0, 1)[untouched] == 9).all()
        assert (scales.flatten(0, 1)[untouched] == 3).all()


def test_every_number_is_rounded_as_torch_rounds_it() -> None:
    # All of bfloat16 between 1 and 0 in one head's reach: the largest is 448 of them.
    every = torch.arange(0x3F80, dtype=torch.int32).to(torch.int16).view(BF16).cuda()
    every = torch.cat([every, -every])
    head_dim = 128
    rows = torch.cat([every, every.new_zeros(-len(every) % (head_dim - 1))]).view(-1, head_dim - 1)
    rows = torch.cat([torch.ones_like(rows[:, :1]), rows], dim=1)
    count = len(rows)
    cells = cells_of(1, count, 1, head_dim)
    packed = torch.cat([torch.zeros_like(rows), rows, -rows], dim=1)
    places = torch.arange(count, dtype=torch.int32, device="cuda")
    store8(PackedHeads(packed, None, rates_of(head_dim), places, places, 1), cells)
    for stored, given in ((cells.keys, rows), (cells.values, -rows)):
        assert torch.equal(bytes_of(stored)[0, :, 0], bytes_of(quantise(given)[0]))


# ------------------------------------------------------------------ out


def case(
    heads: int,
    kv_heads: int,
    head_dim: int,
    used: list[int],
    length: int,
    *,
    largest: float = 1.0,
) -> tuple[Tensor, Fp8Cells, VarlenLayout]:
    """One query a row over rows of random slots; what no row may see is not a number."""
    slots = len(used) + 2
    cells = cells_of(slots, length, kv_heads, head_dim)
    for seed, (stored, scales, by) in enumerate(
        ((cells.keys, cells.key_scales, 1.0), (cells.values, cells.value_scales, largest))
    ):
        x = drawn(slots, length, kv_heads, head_dim, seed=30 + seed, dtype=torch.float32)
        x *= by * drawn(slots, length, kv_heads, 1, seed=40 + seed, dtype=torch.float32).exp()
        small, scale = quantise(x)
        bytes_of(stored).copy_(bytes_of(small))
        scales.copy_(scale)
    places = torch.randperm(slots, generator=torch.Generator().manual_seed(5))[: len(used)].tolist()
    for slot in range(slots):
        seen = used[places.index(slot)] if slot in places else 0
        for stored in (cells.keys, cells.values):
            bytes_of(stored)[slot, seen:] = NOT_A_NUMBER
        cells.key_scales[slot, seen:] = cells.value_scales[slot, seen:] = torch.nan
    layout = VarlenLayout(
        ints(list(range(len(used) + 1))),
        ints([*(place * length for place in places), 0]),
        ints(used),
        1,
        length - 1,
    )
    return drawn(len(used), heads, head_dim, seed=50), cells, layout


def in_float64(query: Tensor, cells: Fp8Cells, layout: VarlenLayout) -> Tensor:
    """Row by row over what the cells stand for."""
    head_dim = query.shape[2]
    rates, length = rates_of(head_dim), cells.keys.shape[1]
    keys, values = torch.zeros(2, *cells.keys.shape, device="cuda", dtype=torch.float64).unbind()
    for start, used in zip(layout.key_starts.tolist(), layout.used.tolist(), strict=False):
        slot, seen = start // length, slice(0, used)
        fresh = (
            cells.keys[slot, seen].float().double() * cells.key_scales[slot, seen, :, None].double()
        )
        angles = torch.arange(used, device="cuda").float()[:, None, None] * rates
        turn = torch.polar(torch.ones_like(angles).double(), angles.double())
        pairs = torch.complex(*fresh.chunk(2, dim=-1)) * turn
        keys[slot, seen] = torch.cat((pairs.real, pairs.imag), dim=-1)
        scales = cells.value_scales[slot, seen, :, None].double()
        values[slot, seen] = cells.values[slot, seen].float().double() * scales
    flat = keys.flatten(0, 1), values.flatten(0, 1)
    return varlen._by_rows(query.double(), *flat, layout, True, None)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """New memory holds what no result may show."""
    plain_empty, plain_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *a, **k: plain_empty(*a, **k).fill_(torch.nan))
    monkeypatch.setattr(torch, "empty_like", lambda x: plain_like(x).fill_(torch.nan))


RAGGED = [1, 0, 1030, 64, 65, 700, 16, 17, 31, 33, 128, 0]


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(32, 8), (8, 1), (3, 3), (6, 2), (20, 10)])
@pytest.mark.parametrize("processors", [1, 40, 132, 1000])
def test_decode(
    monkeypatch: pytest.MonkeyPatch, head_dim: int, heads: int, kv_heads: int, processors: int
) -> None:
    monkeypatch.setattr(decoding, "_processors", lambda device: processors)
    query, cells, layout = case(heads, kv_heads, head_dim, RAGGED, 1031)
    ours = decode8(query, cells, rates_of(head_dim), layout)
    assert ours is not None
    exact = in_float64(query, cells, layout)
    for row, used in enumerate(RAGGED):
        assert relative(ours[row], exact[row]) < 0.005 if used else not ours[row].any()


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("largest", [1e-9, 1e-3, 1e4, 1e9])
def test_decode_of_values_of_any_size(largest: float) -> None:
    query, cells, layout = case(8, 2, 128, [1, 500, 77], 501, largest=largest)
    ours = decode8(query, cells, rates_of(128), layout)
    assert ours is not None and relative(ours, in_float64(query, cells, layout)) < 0.005


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("processors", [1, 132])
def test_decode_far_from_the_start(monkeypatch: pytest.MonkeyPatch, processors: int) -> None:
    monkeypatch.setattr(decoding, "_processors", lambda device: processors)
    query, cells, layout = case(4, 1, 128, [40_000, 39_999, 8191], 40_001)
    ours = decode8(query, cells, rates_of(128), layout)
    assert ours is not None and relative(ours, in_float64(query, cells, layout)) < 0.005


@pytest.mark.usefixtures("poisoned")
def test_decode_with_rows_that_have_no_query() -> None:
    query, cells, layout = case(8, 2, 128, [40, 0, 7, 0, 0], 101)
    layout = replace(layout, query_starts=ints([0, 1, 2, 3, 3, 3]))
    ours = decode8(query, cells, rates_of(128), layout)
    assert ours is not None and not ours[1].any() and ours[3:].isnan().all()
    exact = in_float64(query, cells, layout)
    assert all(relative(ours[row], exact[row]) < 0.005 for row in (0, 2))


def test_decode_shows_what_is_not_finite() -> None:
    query, cells, layout = case(8, 2, 128, [40, 40], 101)
    slot = int(layout.key_starts[1]) // 101
    cells.value_scales[slot, 7, 1] = torch.nan
    ours = decode8(query, cells, rates_of(128), layout)
    assert ours is not None and ours[0].isfinite().all()
    assert ours[1, :4].isfinite().all() and ours[1, 4:].isnan().all()


@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(8, 2, 72), (9, 1, 128)])
def test_decode_leaves_other_shapes(heads: int, kv_heads: int, head_dim: int) -> None:
    query, cells, layout = case(heads, kv_heads, head_dim, [3], 11)
    assert decode8(query, cells, rates_of(head_dim), layout) is None


@pytest.mark.parametrize("head_dim", [8, 64, 72, 128])
@pytest.mark.parametrize("kv_heads", [1, 3, 8])
def test_read(monkeypatch: pytest.MonkeyPatch, head_dim: int, kv_heads: int) -> None:
    _, cells, layout = case(kv_heads, kv_heads, head_dim, RAGGED, 1031)
    outs = torch.full((2, 2, *cells.keys.shape), 7.0, device="cuda", dtype=BF16)
    read8(cells, rates_of(head_dim), layout, *outs[0])
    # As on the host, where the numbers of a layout may be looked at.
    monkeypatch.setattr(fp8, "_spans", lambda layout, _: [
        slice(start, start + used)
        for start, used in zip(layout.key_starts.tolist(), layout.used.tolist(), strict=False)
    ])  # fmt: skip
    without_kernels(monkeypatch)
    read8(cells, rates_of(head_dim), layout, *outs[1])
    assert_rounds_alike(outs[0, 0], outs[1, 0])
    assert torch.equal(outs[0, 1], outs[1, 1])


def test_read_without_kernels_reads_every_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    _, cells, layout = case(2, 2, 64, [5, 0, 30], 31)
    outs = torch.full((2, 2, *cells.keys.shape), 1e6, device="cuda", dtype=BF16)
    before = outs[0].clone()
    read8(cells, rates_of(64), layout, *outs[0])
    without_kernels(monkeypatch)
    read8(cells, rates_of(64), layout, *outs[1])
    seen = outs[0] != before
    assert int(seen.sum()) == 35 * 2 * 2 * 64
    assert_rounds_alike(outs[0][seen], outs[1][seen])
    assert (outs[1] != before).all()


@pytest.mark.parametrize("head_dim", [64, 128])
def test_decode_equals_reading_and_attention_in_bfloat16(head_dim: int) -> None:
    query, cells, layout = case(8, 2, head_dim, RAGGED, 1031)
    ours = decode8(query, cells, rates_of(head_dim), layout)
    keys, values = torch.zeros(2, *cells.keys.shape, device="cuda", dtype=BF16).unbind()
    read8(cells, rates_of(head_dim), layout, keys, values)
    other = varlen_attention(query, keys, values, layout, causal=True)
    assert ours is not None and relative(ours, other) < 0.01


# ------------------------------------------------------------------ the language model


def rows_of(model: Qwen3, pool: GraphPool, max_len: int = 1024) -> LlmRows:
    rows = LlmRows(model, 5, max_len, pool, sizes=SIZES, kv_cache="fp8")
    rows.warm_up(lambda text: None)
    return rows


@pytest.fixture
def few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.minicpmo.llm.rows.MAX_FORWARD_TOKENS", SIZES[-1])


@pytest.mark.usefixtures("few_tokens")
@pytest.mark.parametrize("head_dim", [64, 128, 72])
def test_rows_by_graphs_equal_rows_without(monkeypatch: pytest.MonkeyPatch, head_dim: int) -> None:
    model, pool = small_llm(head_dim), GraphPool("cuda")
    ours = converse(rows_of(model, pool))
    assert len(pool) > 0 and pool.misses == 0
    eager = converse(rows_of(model, GraphPool("cuda", enabled=False)))
    without_kernels(monkeypatch)
    plain = converse(rows_of(model, GraphPool("cuda", enabled=False)))
    # A number that rounds to its neighbour in bfloat16 may do so in 8 bits, where steps are large.
    for theirs in (eager, plain):
        assert max(relative(a, b) for a, b in zip(ours, theirs, strict=True)) < 0.06


@pytest.mark.usefixtures("few_tokens")
def test_rows_in_8_bits_are_near_rows_in_16() -> None:
    model = small_llm()
    ours = converse(rows_of(model, GraphPool("cuda")))
    exact = converse(LlmRows(model, 5, 1024, GraphPool("cuda", enabled=False)))
    worst = max(relative(a, b) for a, b in zip(ours, exact, strict=True))
    assert 0.002 < worst < 0.15


@pytest.mark.usefixtures("few_tokens")
def test_graphs_leave_padding_out_of_the_cache() -> None:
    rows = rows_of(small_llm(), GraphPool("cuda"), 64)
    rows.append([Feed(2, [ids_of(5, 1)])])
    rows.step({2: 3})
    assert rows.kv.lengths == [0, 0, 6, 0, 0] and isinstance(rows.kv, Fp8KV)
    for cells in rows.kv.layers:
        for tensor in (bytes_of(cells.keys), bytes_of(cells.values), cells.key_scales):
            assert not tensor[[0, 1, 3, 4], :64].any()
            assert tensor[2, :6].any(dim=-1).all() and not tensor[2, 6:64].any()
