"""From logits to token ids, for a batch of rows with their own settings and random numbers.

Two orders of operations exist, one for full duplex and one for half duplex and chat; both follow
the MiniCPM-o 4.5 inference code, in float32. Random numbers come from a counter-based generator
per session, so that its draws do not depend on which other rows are in the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

TIE_SLACK = 32
"""Candidates sorted beyond top-k, for logits equal to the last one kept."""


@dataclass
class Draws:
    """Uniform numbers of one session: the n-th depends on `seed` and n only."""

    seed: int
    count: int = 0

    def next(self) -> float:
        """The next number in [0, 1)."""
        text = f"{self.seed}:{self.count}".encode()
        self.count += 1
        return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()[:7], "big") / 2.0**56


@dataclass(frozen=True)
class DuplexSampling:
    """Settings of full-duplex decoding, per session."""

    temperature: float = 0.7
    top_k: int = 20
    """0: off."""
    top_p: float = 0.8
    greedy: bool = False
    repetition_penalty: float = 1.05
    repetition_window: int = 512
    length_penalty: float = 1.1
    """Above 1 the end of the turn becomes less likely."""
    listen_prob_scale: float = 1.0
    """As in the original this acts on the end-of-message token, not on listen."""
    listen_top_k: int | None = None
    """Likewise: end of message is taken when its rank is below this."""
    listen_bias: float = 0.0
    """Added to the logit of listen: what `listen_prob_scale` was meant for."""

    def __post_init__(self) -> None:
        _check_common(self.temperature, self.top_k, self.top_p, self.repetition_penalty)
        _check("length_penalty", self.length_penalty > 0, self.length_penalty)
        _check("repetition_window", self.repetition_window > 0, self.repetition_window)
        _check("listen_prob_scale", self.listen_prob_scale > 0, self.listen_prob_scale)

    @property
    def takes_best(self) -> bool:
        return self.greedy or self.temperature == 0


@dataclass(frozen=True)
class TurnSampling:
    """Settings of half-duplex and chat decoding, per reply."""

    temperature: float = 0.7
    top_k: int = 100
    top_p: float = 0.8
    greedy: bool = False
    repetition_penalty: float = 1.02
    repetition_window: int = 128
    length_penalty: float = 1.1
    """Above 1 the end of the reply becomes less likely."""

    def __post_init__(self) -> None:
        _check_common(self.temperature, self.top_k, self.top_p, self.repetition_penalty)
        _check("length_penalty", self.length_penalty > 0, self.length_penalty)
        _check("repetition_window", self.repetition_window > 0, self.repetition_window)

    @property
    def takes_best(self) -> bool:
        return self.greedy or self.temperature == 0


@dataclass(frozen=True)
class DuplexIds:
    """The special ids that the duplex order needs."""

    chunk_eos: int
    turn_eos: int
    listen: int
    im_end: int


@dataclass
class DuplexRow:
    """One session's part of a duplex sampling step."""

    settings: DuplexSampling
    draws: Draws
    generated: list[int] = field(default_factory=list)
    """Ids decoded in this session; the chosen one is appended by `sample_duplex`."""


@dataclass
class TurnRow:
    """One reply's part of a half-duplex or chat sampling step."""

    settings: TurnSampling
    draws: Draws
    seen: Sequence[int]
    """Ids under the repetition penalty."""
    forbidden: Tensor | None = None
    """[V] bool, or None if everything may be said."""


def forbidden_mask(ids: Sequence[int], vocab_size: int, device: torch.device | str) -> Tensor:
    """[V] bool, True at `ids`."""
    mask = torch.zeros(vocab_size, dtype=torch.bool, device=device)
    mask[torch.tensor(sorted(ids), dtype=torch.long, device=device)] = True
    return mask


# ------------------------------------------------------------------ full duplex


def duplex_logits(
    logits: Tensor, rows: Sequence[DuplexRow], ids: DuplexIds, forbidden: Tensor
) -> Tensor:
    """Logits [B, V] after forbidden ids, penalties and biases, before the temperature."""
    _check_batch(logits, rows)
    x = logits.float().masked_fill(forbidden, float("-inf"))
    # Dividing raises negative logits: unlike in the turn-based modes the sign is not looked at.
    place, factor = _places(
        [(row.generated[-row.settings.repetition_window :], row.settings.repetition_penalty)
         for row in rows],
        x.device,
    )  # fmt: skip
    x[place] = x[place] / factor
    settings = [row.settings for row in rows]
    x[:, ids.turn_eos] = _by_sign(x[:, ids.turn_eos], [s.length_penalty for s in settings])
    x[:, ids.im_end] *= x.new_tensor([s.listen_prob_scale for s in settings])
    x[:, ids.listen] += x.new_tensor([s.listen_bias for s in settings])
    return x


def sample_duplex(
    logits: Tensor, rows: Sequence[DuplexRow], ids: DuplexIds, forbidden: Tensor
) -> list[int]:
    """One id per row of raw logits [B, V]; appends to each row's `generated`.

    chunk_eos is drawn first, from the untouched distribution at temperature 1, and is then not
    recorded; afterwards it is among the `forbidden` [V].
    """
    _check_batch(logits, rows)
    x = duplex_logits(logits, rows, ids, forbidden)
    ends = _ends_chunk(logits.float(), rows, ids.chunk_eos)
    ranks = _ranks(x, rows, ids.im_end)
    chosen = _draw(
        x,
        [row.settings for row in rows],
        [row.draws for row in rows],
        [not end and rank is None for end, rank in zip(ends, ranks, strict=True)],
        exact_k=False,
    )
    result = []
    for row, end, early, token in zip(rows, ends, ranks, chosen, strict=True):
        if end:
            result.append(ids.chunk_eos)
            continue
        result.append(token if early is None else early)
        row.generated.append(result[-1])
    return result


def _ends_chunk(x: Tensor, rows: Sequence[DuplexRow], chunk_eos: int) -> list[bool]:
    """Whether a draw from softmax(x) gives chunk_eos; the other outcomes need not be told apart."""
    best = x.argmax(dim=-1) == chunk_eos
    probability = torch.softmax(x, dim=-1)[:, chunk_eos]
    pairs = torch.stack([best.float(), probability.float()], dim=1).tolist()
    return [
        bool(pair[0]) if row.settings.takes_best else row.draws.next() < pair[1]
        for row, pair in zip(rows, pairs, strict=True)
    ]


def _ranks(x: Tensor, rows: Sequence[DuplexRow], im_end: int) -> list[int | None]:
    """`im_end` for rows whose `listen_top_k` takes it outright."""
    limits = [row.settings.listen_top_k for row in rows]
    if all(limit is None for limit in limits):
        return [None] * len(rows)
    above = (x > x[:, im_end : im_end + 1]).sum(dim=-1).tolist()
    return [
        im_end if limit is not None and rank < limit else None
        for limit, rank in zip(limits, above, strict=True)
    ]


# ------------------------------------------------------------------ half duplex and chat


def turn_logits(logits: Tensor, rows: Sequence[TurnRow], terminators: Sequence[int]) -> Tensor:
    """Logits [B, V] after forbidden ids and penalties, before the temperature."""
    _check_batch(logits, rows)
    x = logits.float().clone()
    for index, row in enumerate(rows):
        if row.forbidden is not None:
            x[index].masked_fill_(row.forbidden, float("-inf"))
    place, factor = _places([(row.seen, row.settings.repetition_penalty) for row in rows], x.device)
    values = x[place]
    x[place] = torch.where(values > 0, values / factor, values * factor)
    penalties = [row.settings.length_penalty for row in rows]
    for terminator in sorted(set(terminators)):
        x[:, terminator] = _by_sign(x[:, terminator], penalties)
    return x


def sample_turn(logits: Tensor, rows: Sequence[TurnRow], terminators: Sequence[int]) -> list[int]:
    """One id per row of raw logits [B, V]."""
    x = turn_logits(logits, rows, terminators)
    settings, draws = [row.settings for row in rows], [row.draws for row in rows]
    return _draw(x, settings, draws, [True] * len(rows), exact_k=True)


# ------------------------------------------------------------------ shared


def _draw(
    x: Tensor,
    settings: Sequence[DuplexSampling | TurnSampling],
    draws: Sequence[Draws],
    needed: Sequence[bool],
    *,
    exact_k: bool,
) -> list[int]:
    """Draw from x [B, V] after temperature, top-k and top-p; only `needed` rows use a number.

    Top-k keeps everything equal to the k-th value, or with `exact_k` exactly k of it. Equal values
    are ordered by id, so that a draw does not depend on how a device sorts.
    """
    best: list[int] = x.argmax(dim=-1).tolist()
    drawing = [need and not s.takes_best for need, s in zip(needed, settings, strict=True)]
    if not any(drawing):
        return best
    heat = x.new_tensor([1.0 if s.takes_best else s.temperature for s in settings])
    values, ids, kept = _candidates(x / heat[:, None], [s.top_k for s in settings], exact_k)
    values = values.masked_fill(~kept, float("-inf"))
    sums = torch.softmax(values, dim=-1).cumsum(dim=-1)
    before = torch.nn.functional.pad(sums[:, :-1], (1, 0))
    limits = x.new_tensor([s.top_p for s in settings])
    kept &= ~(before > limits[:, None])
    weights = torch.softmax(values.masked_fill(~kept, float("-inf")), dim=-1).double()
    sums = weights.cumsum(dim=-1)
    numbers = [draw.next() if wanted else 0.0 for draw, wanted in zip(draws, drawing, strict=True)]
    aims = sums.new_tensor(numbers)[:, None] * sums[:, -1:]
    place = (sums <= aims).sum(dim=-1, keepdim=True).minimum(kept.sum(dim=-1, keepdim=True) - 1)
    drawn = ids.gather(1, place)[:, 0].tolist()
    return [
        token if wanted else top for token, wanted, top in zip(drawn, drawing, best, strict=True)
    ]


def _candidates(x: Tensor, top_k: Sequence[int], exact_k: bool) -> tuple[Tensor, Tensor, Tensor]:
    """The best of x [B, V] as values and ids [B, K], best first, and a mask of those kept."""
    vocab = x.shape[1]
    sizes = [k if 0 < k < vocab else vocab for k in top_k]
    limit = min(vocab, max(sizes) + TIE_SLACK)
    last = torch.tensor(sizes, device=x.device)[:, None] - 1
    while True:
        values, ids = x.topk(limit, dim=-1)
        floor = values.gather(1, last)
        # Equal values beyond the last candidate would be lost.
        if limit == vocab or not bool((values[:, -1:] >= floor).any()):
            break
        limit = min(vocab, 2 * limit)
    ids, order = ids.sort(dim=-1)
    values, order = values.gather(1, order).sort(dim=-1, descending=True, stable=True)
    ids = ids.gather(1, order)
    if exact_k:
        kept = torch.arange(limit, device=x.device)[None] <= last
    else:
        kept = values >= floor
    return values, ids, kept & (values > float("-inf"))


def _places(
    penalties: Sequence[tuple[Sequence[int], float]], device: torch.device
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Index of each row's distinct ids into [B, V] and the row's penalty beside it."""
    rows: list[int] = []
    ids: list[int] = []
    factors: list[float] = []
    for row, (seen, penalty) in enumerate(penalties):
        distinct = sorted(set(seen)) if penalty != 1 else []
        rows += [row] * len(distinct)
        ids += distinct
        factors += [penalty] * len(distinct)
    index = torch.tensor([rows, ids], dtype=torch.long, device=device)
    return (index[0], index[1]), torch.tensor(factors, dtype=torch.float32, device=device)


def _by_sign(x: Tensor, penalties: Sequence[float]) -> Tensor:
    """Make x [B] less likely by each row's penalty: positive logits shrink, negative ones grow."""
    factor = x.new_tensor(list(penalties))
    return torch.where(x > 0, x / factor, x * factor)


def _check_batch(logits: Tensor, rows: Sequence[object]) -> None:
    assert logits.ndim == 2 and len(rows) == logits.shape[0] > 0, (
        f"logits {tuple(logits.shape)} for {len(rows)} rows"
    )


def _check_common(temperature: float, top_k: int, top_p: float, penalty: float) -> None:
    _check("temperature", temperature >= 0, temperature)
    _check("top_k", top_k >= 0, top_k)
    _check("top_p", 0 < top_p <= 1, top_p)
    _check("repetition_penalty", penalty > 0, penalty)


def _check(name: str, good: bool, value: float) -> None:
    if not good:
        raise ValueError(f"{name} = {value} is out of range")
