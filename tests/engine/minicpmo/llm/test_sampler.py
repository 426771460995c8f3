"""Every numbered rule of both sampling orders on hand-made logits, ties, and reproducible draws."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.minicpmo.llm.sampler import (
    Draws,
    DuplexRow,
    DuplexSampling,
    TurnRow,
    TurnSampling,
    forbidden_mask,
    sample_duplex,
    sample_turn,
)
from engine.minicpmo.llm.sampling_ops import DuplexIds
from tests.processed_logits import duplex_logits, turn_logits

CHUNK_EOS, TURN_EOS, LISTEN, IM_END = 0, 1, 2, 3
IDS = DuplexIds(CHUNK_EOS, TURN_EOS, LISTEN, IM_END)
FORBIDDEN = forbidden_mask([CHUNK_EOS, 4], 10, "cpu")
PLAIN = DuplexSampling(repetition_penalty=1.0, length_penalty=1.0, top_k=0, top_p=1.0)
PLAIN_TURN = TurnSampling(repetition_penalty=1.0, length_penalty=1.0, top_k=0, top_p=1.0)
NEVER = float("-inf")


def logits(**values: float) -> Tensor:
    """[1, 10], 0 but where given (`l5=3.0`)."""
    x = torch.zeros(1, 10)
    for name, value in values.items():
        x[0, int(name[1:])] = value
    return x


def row(settings: DuplexSampling, generated: list[int] | None = None, seed: int = 1) -> DuplexRow:
    return DuplexRow(settings, Draws(seed), list(generated or []))


def frequencies(x: Tensor, settings: DuplexSampling, count: int = 4000) -> dict[int, float]:
    drawn = Counter(
        token
        for start in range(0, count, 500)
        for token in sample_duplex(
            x.expand(500, -1), [row(settings, seed=start + n) for n in range(500)], IDS, FORBIDDEN
        )
    )
    return {token: times / count for token, times in drawn.items()}


# ------------------------------------------------------------------ full duplex


def test_greedy_ends_the_chunk_only_if_chunk_eos_is_the_raw_best() -> None:
    greedy = replace(PLAIN, greedy=True)
    state = row(greedy, [7])
    assert sample_duplex(logits(l0=5, l6=4), [state], IDS, FORBIDDEN) == [CHUNK_EOS]
    assert state.generated == [7]
    assert sample_duplex(logits(l0=5, l6=6), [state], IDS, FORBIDDEN) == [6]
    assert state.generated == [7, 6]


def test_chunk_eos_is_drawn_at_temperature_one_before_anything_is_masked() -> None:
    x = logits(l0=2.0)
    raw = torch.softmax(x, -1)[0, CHUNK_EOS].item()
    cold = replace(PLAIN, temperature=0.01, top_k=1)
    assert frequencies(x, cold)[CHUNK_EOS] == pytest.approx(raw, abs=0.03)


def test_forbidden_ids_are_never_drawn() -> None:
    drawn = frequencies(logits(l4=6, l0=-20), PLAIN, 1000)
    assert 4 not in drawn and CHUNK_EOS not in drawn


def test_duplex_repetition_divides_negative_logits_too() -> None:
    settings = replace(PLAIN, repetition_penalty=2.0, repetition_window=3)
    x = logits(l5=4.0, l6=-4.0, l7=4.0, l8=3.0)
    ours = duplex_logits(x, [row(settings, [7, 5, 5, 6])], IDS, FORBIDDEN)[0]
    assert ours[[5, 6, 7, 8]].tolist() == [2.0, -2.0, 4.0, 3.0]


@pytest.mark.parametrize(("before", "after"), [(3.0, 2.0), (-3.0, -4.5)])
def test_duplex_length_penalty_makes_only_the_turn_end_less_likely(
    before: float, after: float
) -> None:
    x = logits(l1=before, l5=before)
    ours = duplex_logits(x, [row(replace(PLAIN, length_penalty=1.5))], IDS, FORBIDDEN)[0]
    assert ours[TURN_EOS].item() == pytest.approx(after)
    assert ours[5].item() == before


def test_listen_scale_acts_on_the_end_of_message_and_listen_bias_on_listen() -> None:
    settings = replace(PLAIN, listen_prob_scale=0.5, listen_bias=1.5)
    ours = duplex_logits(logits(l2=2.0, l3=2.0), [row(settings)], IDS, FORBIDDEN)[0]
    assert ours[[LISTEN, IM_END]].tolist() == [3.5, 1.0]


def test_listen_top_k_takes_the_end_of_message_by_rank() -> None:
    x = logits(l5=3, l6=2, l3=1)
    for limit, expected in ((3, IM_END), (2, 5)):
        state = row(replace(PLAIN, greedy=True, listen_top_k=limit))
        assert sample_duplex(x, [state], IDS, FORBIDDEN) == [expected]
        assert state.generated == [expected]


def test_duplex_top_k_keeps_ties_and_turn_top_k_does_not() -> None:
    x = torch.full((1, 10), -9.0)
    x[0, [5, 6, 7]] = 1.0
    drawn = frequencies(x, replace(PLAIN, top_k=2), 1000)
    assert set(drawn) - {CHUNK_EOS} == {5, 6, 7}
    rows = [TurnRow(replace(PLAIN_TURN, top_k=2), Draws(n), []) for n in range(300)]
    assert set(sample_turn(x.expand(300, -1), rows, [9])) == {5, 6}


def test_ties_beyond_the_sorted_candidates_are_kept_too() -> None:
    x = torch.zeros(400, 200)
    rows = [row(replace(PLAIN, top_k=1), seed=n) for n in range(400)]
    drawn = set(sample_duplex(x, rows, IDS, forbidden_mask([CHUNK_EOS], 200, "cpu")))
    assert len(drawn) > 100


def test_top_p_drops_what_follows_a_previous_sum_above_it() -> None:
    x = torch.full((1, 10), NEVER)
    x[0, [5, 6, 7]] = torch.tensor([0.5, 0.3, 0.2]).log()
    # Previous sums are 0, 0.5, 0.8.
    for top_p, expected in ((0.4, {5}), (0.6, {5, 6}), (0.9, {5, 6, 7})):
        assert set(frequencies(x, replace(PLAIN, top_p=top_p), 1000)) == expected


def test_temperature_shapes_the_draw() -> None:
    x = torch.full((1, 10), NEVER)
    x[0, [5, 6]] = torch.tensor([1.0, 0.0])
    expected = torch.softmax(torch.tensor([1.0, 0.0]) / 0.5, 0)[0].item()
    ours = frequencies(x, replace(PLAIN, temperature=0.5))
    assert ours[5] == pytest.approx(expected, abs=0.03)


def test_temperature_zero_is_greedy() -> None:
    settings = replace(PLAIN, temperature=0.0)
    assert sample_duplex(logits(l8=0.1), [row(settings)], IDS, FORBIDDEN) == [8]


def test_a_row_draws_the_same_whatever_else_is_in_the_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    alone, batched = row(DuplexSampling(), seed=5), row(DuplexSampling(), seed=5)
    for step in range(60):
        x = torch.randn(6, 10, generator=generator).bfloat16().float() * 2
        others = [
            row(DuplexSampling(top_k=1 + step % 9, greedy=n == 1, temperature=0.3 + n), seed=n)
            for n in range(5)
        ]
        first = sample_duplex(x[2:3], [alone], IDS, FORBIDDEN)[0]
        everyone = [*others[:2], batched, *others[2:]]
        assert sample_duplex(x, everyone, IDS, FORBIDDEN)[2] == first
    assert alone.draws.count == batched.draws.count
    assert alone.generated == batched.generated


def test_a_row_without_numbers_gets_a_token_and_leaves_the_others_theirs() -> None:
    settings = replace(PLAIN, top_k=3)
    x = torch.cat([logits(l6=5), logits() * float("nan"), logits(l7=5)])

    def drawn(*places: int) -> list[int]:
        rows = [row(settings, seed=40 + place) for place in places]
        return sample_duplex(x[list(places)], rows, IDS, FORBIDDEN)

    first, broken, last = drawn(0, 1, 2)
    assert 0 <= broken < 10
    assert [first, last] == drawn(0, 2)


def test_draws_depend_on_seed_and_count_only() -> None:
    first = Draws(3)
    numbers = [first.next() for _ in range(5)]
    assert [Draws(3, 2).next(), Draws(3, 4).next()] == [numbers[2], numbers[4]]
    assert Draws(4).next() != numbers[0]
    assert all(0 <= number < 1 for number in numbers)


# ------------------------------------------------------------------ half duplex and chat


def test_turn_repetition_looks_at_the_sign() -> None:
    state = TurnRow(replace(PLAIN_TURN, repetition_penalty=2.0), Draws(1), [5, 6, 5])
    ours = turn_logits(logits(l5=4.0, l6=-4.0, l7=4.0), [state], [9])[0]
    assert ours[[5, 6, 7]].tolist() == [2.0, -8.0, 4.0]


def test_turn_length_penalty_acts_on_every_terminator_once() -> None:
    state = TurnRow(replace(PLAIN_TURN, length_penalty=2.0), Draws(1), [])
    ours = turn_logits(logits(l8=4.0, l9=-4.0), [state], [8, 9, 9])[0]
    assert ours[[8, 9]].tolist() == [2.0, -8.0]


def test_forbidden_ids_count_for_the_rows_that_name_them() -> None:
    x = logits(l4=5.0, l7=4.0).expand(2, -1)
    greedy = replace(PLAIN_TURN, greedy=True)
    rows = [TurnRow(greedy, Draws(1), [], FORBIDDEN), TurnRow(greedy, Draws(1), [])]
    assert sample_turn(x, rows, [9]) == [7, 4]


@pytest.mark.parametrize(
    "wrong", [{"top_p": 0.0}, {"temperature": -1.0}, {"top_k": -1}, {"length_penalty": 0.0}]
)
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    for kind in (DuplexSampling, TurnSampling):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            kind(**wrong)  # type: ignore[arg-type]
