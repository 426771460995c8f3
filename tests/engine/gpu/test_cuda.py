"""What runs on CUDA only: our kernels, FlashAttention and graphs, beside plain operations.

Needs a CUDA device; of other packages only what the native engine itself needs.
"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.gpu.graphs import GraphPool
from engine.gpu.kernels import decode_attention as decode
from engine.gpu.kernels import decoder_layer as fused
from engine.gpu.layers import varlen_attention as varlen
from engine.gpu.layers.norms import RMSNorm
from engine.gpu.layers.varlen_attention import VarlenLayout, varlen_attention
from engine.minicpmo.llm.rows import Feed, LlmRows
from engine.minicpmo.llm.sampler import (
    BatchSampler,
    Choose,
    Draws,
    DuplexRow,
    DuplexSampling,
    TurnRow,
    TurnSampling,
    duplex_tensors,
    forbidden_mask,
    turn_tensors,
)
from engine.minicpmo.llm.sampling_ops import MAX_RECENT, DuplexIds, choose_duplex, choose_turn
from tests.engine.gpu.cuda_rig import (
    BF16,
    STEP,
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
from tests.engine.minicpmo.llm_rig import VOCAB, ids_of

pytestmark = cuda_only()


@pytest.fixture
def kernels() -> None:
    skip_without_kernels()


# ------------------------------------------------------------------ kernels


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize(
    ("count", "size"),
    # Odd ones and 16392 are left to torch; above 8192 a thread works twice.
    [(1, 24), (3, 129), (2, 264), (7, 1000), (37, 4096), (5, 8200), (3, 16_384), (3, 16_392)],
)
@pytest.mark.parametrize("adds", [True, False])
def test_add_norm(monkeypatch: pytest.MonkeyPatch, count: int, size: int, adds: bool) -> None:
    norm = RMSNorm(size, 1e-6).requires_grad_(False)
    norm.weight.copy_(1 + 0.2 * torch.randn(size, generator=torch.Generator().manual_seed(9)))
    norm = norm.to("cuda", BF16)
    x, delta = drawn(count, size, seed=1), drawn(count, size, seed=2) if adds else None
    total, ours = fused.add_norm(x, delta, norm)
    without_kernels(monkeypatch)
    plain_total, plain = fused.add_norm(x, delta, norm)
    assert torch.equal(total, plain_total)
    assert_rounds_alike(ours, plain)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("head_dim", [8, 24, 64, 96, 128, 130])
@pytest.mark.parametrize(("heads", "kv_heads"), [(5, 1), (4, 2), (3, 3), (32, 8)])
@pytest.mark.parametrize("normed", [True, False])
def test_rope_store(
    monkeypatch: pytest.MonkeyPatch, head_dim: int, heads: int, kv_heads: int, normed: bool
) -> None:
    count, slots, length = 13, 3, 11
    packed = drawn(count, (heads + 2 * kv_heads) * head_dim, seed=3)
    norms = None
    if normed:
        q_norm, k_norm = (
            RMSNorm(head_dim, 1e-6).requires_grad_(False).to("cuda", BF16) for _ in range(2)
        )
        q_norm.weight.copy_(1 + 0.1 * drawn(head_dim, seed=4))
        k_norm.weight.copy_(1 + 0.1 * drawn(head_dim, seed=5))
        norms = q_norm, k_norm
    rates = 1e6 ** (-torch.arange(0, head_dim, 2, device="cuda").float() / head_dim)
    generator = torch.Generator().manual_seed(6)
    positions = torch.randint(0, 40_000, (count,), generator=generator).int().cuda()
    write = torch.randperm(slots * length, generator=generator)[:count].int().cuda()
    shape = (slots, length, kv_heads, head_dim)

    def run() -> tuple[Tensor, Tensor, Tensor]:
        keys, values = torch.full((2, *shape), 7.0, device="cuda", dtype=BF16).unbind()
        given = fused.PackedHeads(packed, norms, rates, positions, write, heads)
        return fused.rope_store(given, keys, values), keys, values

    query, keys, values = run()
    without_kernels(monkeypatch)
    plain_query, plain_keys, plain_values = run()
    assert torch.equal(values, plain_values)
    assert_rounds_alike(query, plain_query)
    assert_rounds_alike(keys, plain_keys)
    untouched = torch.ones(slots * length, dtype=torch.bool, device="cuda")
    untouched[write.long()] = False
    assert (keys.flatten(0, 1)[untouched] == 7).all()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("head_dim", [8, 24, 64, 130])
@pytest.mark.parametrize(("layers", "count", "heads"), [(1, 1, 1), (3, 7, 2), (6, 101, 8)])
@pytest.mark.parametrize("shift", [-1500, -1, 3])
def test_rotate_keys(
    monkeypatch: pytest.MonkeyPatch, head_dim: int, layers: int, count: int, heads: int, shift: int
) -> None:
    # Rows of one slot of a cache: behind them lie others.
    cache = drawn(layers, 2, count + 3, heads, head_dim, seed=15)
    keys, before = cache[:, 1, 2 : 2 + count], cache.clone()
    rates = 1e6 ** (-torch.arange(0, head_dim, 2, device="cuda").float() / head_dim)
    ours = fused.rotate_keys(keys, shift, rates)
    without_kernels(monkeypatch)
    assert_rounds_alike(ours, fused.rotate_keys(keys, shift, rates))
    assert torch.equal(cache, before)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("count", [1, 3, 37])
@pytest.mark.parametrize("inner", [8, 20, 24, 1000, 12_288])
def test_silu_mul(monkeypatch: pytest.MonkeyPatch, count: int, inner: int) -> None:
    both = 3 * drawn(count, 2 * inner, seed=7)
    ours = fused.silu_mul(both)
    without_kernels(monkeypatch)
    assert_rounds_alike(ours, fused.silu_mul(both))


# ------------------------------------------------------------------ attention


def attend_both_ways(
    query: Tensor, keys: Tensor, values: Tensor, layout: VarlenLayout, causal: bool
) -> tuple[Tensor, Tensor]:
    """By one call in the given type, and row by row in float32."""
    ours = varlen_attention(query, keys, values, layout, causal=causal)
    wide = (query.float(), keys.flatten(0, 1).float(), values.flatten(0, 1).float())
    with sdpa_kernel(SDPBackend.MATH):
        return ours, varlen._by_rows(*wide, layout, causal, None)


@pytest.mark.parametrize("dtype", [BF16, torch.float16])
@pytest.mark.parametrize(("heads", "kv_heads"), [(8, 2), (3, 3), (6, 1)])
@pytest.mark.parametrize("head_dim", [64, 72, 128])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("bound", [77, 512])
def test_ragged_rows(
    dtype: torch.dtype, heads: int, kv_heads: int, head_dim: int, causal: bool, bound: int
) -> None:
    slots, length = 6, 301
    keys, values = drawn(2, slots, length, kv_heads, head_dim, seed=8, dtype=dtype).unbind()
    # The third row sees nothing, the last two are padding without a query.
    places, counts, used = [2, 0, 4, 3, 5, 5], [1, 77, 3, 40, 0, 0], [301, 77, 0, 205, 0, 0]
    query = drawn(sum(counts) + 9, heads, head_dim, seed=9, dtype=dtype)
    ends = [sum(counts[: row + 1]) for row in range(len(counts))]
    layout = VarlenLayout(
        ints([0, *ends]), ints([*(place * length for place in places), 0]), ints(used), bound, 301
    )
    ours, exact = attend_both_ways(query, keys, values, layout, causal)
    real = slice(0, sum(counts))
    step = torch.finfo(dtype).eps
    torch.testing.assert_close(ours[real].float(), exact[real], rtol=4 * step, atol=4 * step)
    assert not ours[78:81].any()


@pytest.mark.parametrize(("heads", "kv_heads"), [(32, 8), (12, 12)])
def test_decode_step(heads: int, kv_heads: int) -> None:
    slots, length, head_dim = 9, 1031, 128
    keys, values = drawn(2, slots, length, kv_heads, head_dim, seed=10).unbind()
    used = [1, 1031, 64, 65, 0, 700, 128, 0, 0]
    query = drawn(slots, heads, head_dim, seed=11)
    starts = [slot * length for slot in reversed(range(slots))]
    layout = VarlenLayout(ints(list(range(slots + 1))), ints([*starts, 0]), ints(used), 1, length)
    ours, exact = attend_both_ways(query, keys, values, layout, True)
    torch.testing.assert_close(ours.float(), exact, rtol=4 * STEP, atol=4 * STEP)
    assert not ours[[4, 7, 8]].any()


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(32, 8), (8, 1), (3, 3), (6, 2), (20, 10)])
@pytest.mark.parametrize("processors", [1, 40, 132, 1000])
def test_decode_by_our_kernel(
    monkeypatch: pytest.MonkeyPatch, head_dim: int, heads: int, kv_heads: int, processors: int
) -> None:
    skip_without_kernels()
    empty, empty_like = torch.empty, torch.empty_like
    # New memory holds what no result may show.
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(torch.nan))
    monkeypatch.setattr(torch, "empty_like", lambda x: empty_like(x).fill_(torch.nan))
    monkeypatch.setattr(decode, "_processors", lambda device: processors)
    used = [1, 0, 1030, 64, 65, 700, 16, 17, 31, 33, 128, 0]
    slots, length = len(used), 1031
    keys, values = drawn(2, slots, length, kv_heads, head_dim, seed=20).unbind()
    for row, count in enumerate(used):
        keys[slots - 1 - row, count:] = values[slots - 1 - row, count:] = torch.nan
    query = drawn(slots + 1, heads, head_dim, seed=21)
    starts = [slot * length for slot in reversed(range(slots))]
    layout = VarlenLayout(ints(list(range(slots + 1))), ints([*starts, 0]), ints(used), 1, length)
    ours = decode.decode16(query, keys, values, layout)
    assert ours is not None and ours[slots].isnan().all()
    exact = varlen._by_rows(
        query.double(),
        keys.flatten(0, 1).double(),
        values.flatten(0, 1).double(),
        layout,
        True,
        None,
    )
    for row, count in enumerate(used):
        assert relative(ours[row], exact[row]) < 0.008 if count else not ours[row].any()


# ------------------------------------------------------------------ graphs


def test_a_pool_captures_replays_and_counts_misses() -> None:
    pool = GraphPool("cuda")
    state = torch.zeros(3, device="cuda")
    calls = 0

    def function(given: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        state.add_(given)
        return 2 * state

    ones = torch.ones(3)
    assert pool.run("sum", function, ones).tolist() == [2, 2, 2]
    assert (pool.misses, len(pool), calls) == (1, 0, 1)
    with pool.capturing():
        pool.run("sum", function, ones)
    assert (pool.misses, len(pool), calls) == (1, 1, 3)
    state.zero_()
    first = pool.run("sum", function, 5 * ones)
    assert first.tolist() == [10, 10, 10]
    second = pool.run("sum", function, ones.cuda())
    assert second.tolist() == [12, 12, 12]
    assert first.data_ptr() == second.data_ptr() and calls == 3
    with pytest.raises(AssertionError, match="captured"):
        pool.run("sum", function, torch.ones(4))
    assert pool.run("other", function, ones).tolist() == [14, 14, 14]
    assert (pool.misses, len(pool), calls) == (2, 1, 4)


def test_a_disabled_pool_never_captures() -> None:
    pool = GraphPool("cuda", enabled=False)
    with pool.capturing():
        assert pool.run("key", lambda x: x + 1, torch.ones(1)).tolist() == [2]
    assert (pool.misses, len(pool)) == (0, 0)


@pytest.fixture
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Graphs of all sizes take a while."""
    monkeypatch.setattr("engine.minicpmo.llm.rows.PREFILL_SIZES", (16, 64, 640))
    monkeypatch.setattr("engine.minicpmo.llm.rows.MAX_FORWARD_TOKENS", 640)


@pytest.mark.usefixtures("few_sizes")
def test_rows_by_graphs_equal_rows_without() -> None:
    model = small_llm()
    pool = GraphPool("cuda")
    by_graphs = LlmRows(model, 5, 1024, pool)
    by_graphs.warm_up(lambda text: None)
    assert len(pool) > 0
    ours = converse(by_graphs)
    assert pool.misses == 0
    # The same shapes without a graph, then without padding.
    uncaptured = GraphPool("cuda")
    for other in (uncaptured, GraphPool("cuda", enabled=False)):
        theirs = converse(LlmRows(model, 5, 1024, other))
        worst = max(relative(a, b) for a, b in zip(ours, theirs, strict=True))
        assert worst < 0.03
    assert uncaptured.misses > 0


@pytest.mark.usefixtures("few_sizes")
def test_graphs_leave_padding_out_of_the_cache() -> None:
    rows = LlmRows(small_llm(), 5, 64, GraphPool("cuda"))
    rows.warm_up(lambda text: None)
    rows.append([Feed(2, [ids_of(5, 1)])])
    rows.step({2: 3})
    assert rows.kv.lengths == [0, 0, 6, 0, 0]
    for keys in rows.kv.keys:
        assert not keys[[0, 1, 3, 4], :64].any()
        assert keys[2, :6].any(dim=-1).all() and not keys[2, 6:64].any()


# ------------------------------------------------------------------ choosing

SLOTS = [4, 0, 2, 1, 5]


def chooser_pair(name: str) -> tuple[BatchSampler, BatchSampler]:
    """One by graphs and one without, over the same logits."""
    model = small_llm()
    forbidden = forbidden_mask([40, 41], VOCAB, "cuda")
    ids = DuplexIds(chunk_eos=17, turn_eos=16, listen=14, im_end=2)
    choose: Choose
    if name == "turn":
        choose = partial(choose_turn, terminators=(11, 2), forbidden=forbidden)
    else:
        choose = partial(choose_duplex, ids=ids, forbidden=forbidden)

    captured = LlmRows(model, 6, 64, GraphPool("cuda"))
    eager = LlmRows(model, 6, 64)
    logits = 3 * drawn(7, VOCAB, seed=12, dtype=torch.float32)
    captured.logits.copy_(logits)
    eager.logits.copy_(logits)
    choosers = BatchSampler(name, captured, choose), BatchSampler(name, eager, choose)
    choosers[0].warm_up()
    return choosers


def duplex_row(turn: int, slot: int) -> DuplexRow:
    settings = DuplexSampling(top_k=5 + 3 * slot, top_p=0.95, greedy=slot == 2, temperature=1.3)
    return DuplexRow(settings, Draws(100 * turn + slot), ids_of(turn, slot))


def turn_row(turn: int, slot: int) -> TurnRow:
    settings = TurnSampling(top_k=5 + 3 * slot, top_p=0.95, greedy=slot == 2, temperature=1.3)
    forbidden = forbidden_mask([40], VOCAB, "cuda") if slot % 2 else None
    return TurnRow(settings, Draws(100 * turn + slot), ids_of(turn, slot), forbidden)


@pytest.mark.parametrize("name", ["duplex", "turn"])
def test_choosing_a_token_by_graph_equals_choosing_it_without(name: str) -> None:
    captured, eager = chooser_pair(name)
    chosen = set()
    for turn in range(60):
        if name == "duplex":
            tensors = duplex_tensors([duplex_row(turn, s) for s in SLOTS], VOCAB, MAX_RECENT)
        else:
            tensors = turn_tensors([turn_row(turn, s) for s in SLOTS], VOCAB, MAX_RECENT)
        ours = captured(SLOTS, tensors)
        assert ours == eager(SLOTS, tensors)
        chosen.update(ours)
    assert len(chosen) > len(SLOTS)
