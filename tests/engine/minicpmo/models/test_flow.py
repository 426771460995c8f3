"""The flow: which frames caches keep, ragged batches, and what it refuses."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch

from engine.gpu.graphs import GraphPool
from engine.minicpmo.models.flow.cache_order import DROPPED, CacheOrder, Orders, keep_ends
from engine.minicpmo.models.flow.cells import copied_to, selected
from engine.minicpmo.models.flow.config import FlowConfig
from engine.minicpmo.models.flow.flow import Flow, FlowChunk
from engine.minicpmo.models.flow.state import FlowState, Window
from tests.speech_assets import random_flow, random_voice
from tests.speech_configs import TINY_FLOW

STEPS = 2


def history(order: CacheOrder, blocks: list[int]) -> list[tuple[int, int]]:
    """The (block, frame) in each place of the order after adding blocks."""
    cells: dict[int, tuple[int, int]] = {}
    for number, count in enumerate(blocks):
        placed, order = order.add(count)
        for frame, cell in enumerate(placed.tolist()):
            if cell != DROPPED:
                cells[cell] = (number, frame)
    places = dict(zip(order.positions.tolist(), sorted(cells), strict=True))
    return [cells[places[place]] for place in range(len(order))]


def test_the_reference_keeps_the_newest_frames_and_the_prompt_s_end() -> None:
    order = CacheOrder(keep_ends(12, 4), newest_first=True)
    got = history(order, [12, 5, 5])
    # Of the prompt the frames just before the pinned four go first.
    wanted = [(2, f) for f in range(5)] + [(1, f) for f in range(5)]
    assert got == wanted + [(0, f) for f in (0, 1, 8, 9, 10, 11)]


def test_the_other_policy_keeps_the_whole_prompt_and_the_newest_frames() -> None:
    order = CacheOrder(keep_ends(12, 4))
    assert history(order, [12, 5, 5]) == [(0, f) for f in range(12)] + [(2, f) for f in range(1, 5)]


def test_a_block_larger_than_the_limit_keeps_what_the_rule_says() -> None:
    assert history(CacheOrder(keep_ends(4, 2)), [4, 9])[-2:] == [(1, 7), (1, 8)]


@pytest.fixture(scope="module")
def flow() -> Flow:
    torch.set_num_threads(1)
    return random_flow(TINY_FLOW).prepare(STEPS)


def prepared(flow: Flow, slots: int, seconds: list[float], room: int = 160) -> FlowState:
    state = flow.new_state(slots, room)
    for slot in range(slots):
        voice = random_voice(seconds[slot], slot)
        state.open(slot, len(voice.mel), flow.speaker(voice.speaker[None])[0])
        window = Window(slot, [*voice.codes, *voice.codes[:3]])
        flow([window], state, prompt=voice.mel[None])
    return state


def window(slot: int, turn: int) -> Window:
    generator = torch.Generator().manual_seed(100 * turn + slot)
    count = 28 if (turn + slot) % 3 else 8 + (5 * slot + turn) % 11
    last = (turn + 2 * slot) % 5 == 4
    codes: list[int] = torch.randint(6561, (count,), generator=generator).tolist()
    return Window(slot, codes, last)


def test_rows_of_a_ragged_batch_equal_the_same_rows_alone(flow: Flow) -> None:
    seconds = [1.2 + 0.2 * (slot % 4) for slot in range(5)]
    together = prepared(flow, 5, seconds)
    alone = prepared(flow, 5, seconds, room=300)
    for turn in range(5):
        rows = [slot for slot in (1, 0, 3, 2, 4) if (slot + turn) % 4]
        chunks = flow([window(s, turn) for s in rows], together)
        for slot, chunk in zip(rows, chunks, strict=True):
            single: FlowChunk = flow([window(slot, turn)], alone)[0]
            assert chunk.noise == single.noise
            assert together.cached(slot) == alone.cached(slot)
            assert torch.allclose(chunk.mu, single.mu, atol=1e-5)
            assert torch.allclose(chunk.mel, single.mel, atol=1e-5)


def test_caches_stop_growing_two_seconds_after_the_prompt(flow: Flow) -> None:
    state = prepared(flow, 1, [3.0])
    sizes = []
    for _ in range(4):
        flow([Window(0, list(range(28)))], state)
        sizes.append(state.cached(0))
    assert sizes == [(100, 200, 200), (125, 250, 250), (125, 250, 250), (125, 250, 250)]


def test_a_long_turn_forgets_the_prompt_or_the_oldest_speech_as_asked(flow: Flow) -> None:
    voice = random_voice(3.0)
    mels = {}
    for trim in ("reference", "prompt"):
        state = flow.new_state(1, len(voice.mel))
        state.open(0, len(voice.mel), flow.speaker(voice.speaker[None])[0], trim)
        flow([Window(0, [*voice.codes, *voice.codes[:3]])], state, prompt=voice.mel[None])
        mels[trim] = [flow([window(0, 1)], state)[0].mel for _ in range(4)]
    # The third chunk is the first that trims; it is seen by the one after it.
    for same, (one, two) in enumerate(zip(mels["reference"], mels["prompt"], strict=True)):
        assert torch.allclose(one, two, atol=1e-5) == (same < 3), same


def test_a_loaded_base_begins_the_same_turn_again(flow: Flow) -> None:
    state = prepared(flow, 1, [1.5])
    base = state.save(0)
    first = flow([Window(0, list(range(28)))], state)[0].mel
    state.load(0, base)
    again = flow([Window(0, list(range(28)))], state)[0].mel
    assert torch.equal(first, again)


@pytest.mark.usefixtures("warmed_up")
def test_padding_changes_no_row_and_touches_no_other_slot(flow: Flow) -> None:
    """Three rows run as four, sixteen fresh codes as twenty-five, as graphs want it."""
    graphs, seconds = GraphPool("cpu"), [1.2, 1.6, 1.4, 1.2]
    plain, padded = prepared(flow, 4, seconds), prepared(flow, 4, seconds)
    flow.warm_up(padded, 4, graphs, (10, 25))
    idle = padded.save(1)
    for turn in range(4):
        for count in (28, 19, 7):
            rows = [(2, False), (0, False), (3, count == 7)]
            windows = [Window(slot, list(range(turn, turn + count)), last) for slot, last in rows]
            one = flow(windows, plain)
            two = flow(windows, padded, graphs=graphs, widths=(10, 25))
            for a, b in zip(one, two, strict=True):
                assert torch.allclose(a.mu, b.mu, atol=1e-5)
                assert torch.allclose(a.mel, b.mel, atol=1e-5)
    for before, now in zip(idle.tensors, padded.save(1).tensors, strict=True):
        assert torch.equal(before, now)


def test_the_same_blocks_lead_to_the_same_order_object() -> None:
    start = Orders((CacheOrder(keep_ends(12, 4)),))
    one, two = start.add((12,))[1].add((5,))[1], start.add((12,))[1].add((5,))[1]
    assert one is two


def test_what_was_worked_out_is_remembered_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns that all differ leave no more behind than the memory is allowed to hold."""
    monkeypatch.setattr(Orders, "REMEMBERED", 16)
    start = Orders((CacheOrder(keep_ends(12, 4)),))
    made = []
    for turn in range(40):
        orders = start
        for block in range(5):
            orders = orders.add((1 + turn % 7 + block,))[1]
            orders = orders.add((1 + turn,))[1]
            made.append(weakref.ref(orders))
    del orders
    gc.collect()
    assert len({ref() for ref in made} - {None}) <= 17


def test_codes_and_windows_that_cannot_be_are_refused(flow: Flow) -> None:
    state = prepared(flow, 1, [1.5])
    with pytest.raises(ValueError, match="6561"):
        flow([Window(0, [6561] * 28)], state)
    with pytest.raises(ValueError, match="fresh"):
        flow([Window(0, [1, 2, 3])], state)
    with pytest.raises(ValueError, match="fit"):
        state.open(0, 400, torch.zeros(80))


def test_the_full_size_has_the_released_number_of_weights() -> None:
    with torch.device("meta"):
        full = Flow(FlowConfig())
    assert len(full.state_dict()) == 605
    assert round(sum(p.numel() for p in full.parameters()) / 1e6, 2) == 155.80


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("size", [3, 16])
def test_rows_are_copied_by_index_whatever_their_size(dtype: torch.dtype, size: int) -> None:
    x, index = torch.randn(2, 7, 4, size).to(dtype), torch.tensor([6, 0, 3])
    assert torch.equal(selected(x, 1, index), x.index_select(1, index))
    # Parts of a tensor: their rows are whole pieces or not.
    assert torch.equal(selected(x[1, :, 1], 0, index), x[1, :, 1].index_select(0, index))
    source = torch.randn(2, 3, 4, size).to(dtype)
    wanted = x.index_copy(1, index, source)
    copied_to(x, 1, index, source)
    assert torch.equal(x, wanted)
