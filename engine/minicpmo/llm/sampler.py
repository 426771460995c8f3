"""Settings, random numbers and history of rows that are sampled from; `sampling_ops` samples.

Random numbers come from a counter-based generator per session, so that its draws do not depend on
which other rows are in the batch: a decision takes two of them in full duplex, one elsewhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from engine.gpu.graphs import padded_size, sizes_up_to
from engine.gpu.staging import fetched
from engine.minicpmo.llm.rows import LlmRows
from engine.minicpmo.llm.sampling_ops import (
    GRAPH_TOP_K,
    MAX_RECENT,
    MAX_WINDOW,
    TIE_SLACK,
    Column,
    DuplexIds,
    choose_duplex,
    choose_turn,
    duplex_scores,
    turn_scores,
)


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
class SamplingSettings:
    """What full duplex and turns have in common."""

    temperature: float = 0.7
    top_k: int = 20
    """0: off."""
    top_p: float = 0.8
    greedy: bool = False
    repetition_penalty: float = 1.05
    repetition_window: int = 512
    length_penalty: float = 1.1
    """Above 1 the end of the turn or reply becomes less likely."""

    def __post_init__(self) -> None:
        _check("temperature", self.temperature >= 0, self.temperature)
        _check("top_k", self.top_k >= 0, self.top_k)
        _check("top_p", 0 < self.top_p <= 1, self.top_p)
        _check("repetition_penalty", self.repetition_penalty > 0, self.repetition_penalty)
        _check("length_penalty", self.length_penalty > 0, self.length_penalty)
        _check("repetition_window", self.repetition_window > 0, self.repetition_window)

    @property
    def takes_best(self) -> bool:
        return self.greedy or self.temperature == 0


@dataclass(frozen=True)
class DuplexSampling(SamplingSettings):
    """Settings of full-duplex decoding, per session."""

    listen_prob_scale: float = 1.0
    """As in the original this acts on the end-of-message token, not on listen."""
    listen_top_k: int | None = None
    """Likewise: end of message is taken when its rank is below this."""
    listen_bias: float = 0.0
    """Added to the logit of listen: what `listen_prob_scale` was meant for."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check("listen_prob_scale", self.listen_prob_scale > 0, self.listen_prob_scale)


@dataclass(frozen=True)
class TurnSampling(SamplingSettings):
    """Settings of half-duplex and chat decoding, per reply."""

    top_k: int = 100
    repetition_penalty: float = 1.02
    repetition_window: int = 128


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


# ------------------------------------------------------------------ rows as tensors


@dataclass(frozen=True)
class RowTensors:
    """Rows as `engine.minicpmo.llm.sampling_ops` takes them, on the host."""

    numbers: Tensor
    """[B, len(Column)] float64"""
    recent: Tensor
    """[B, W] int32, the vocabulary's size where there is no id."""

    @staticmethod
    def idle(count: int) -> Tensor:
        """Numbers of rows that belong to nobody."""
        numbers = torch.zeros(count, len(Column), dtype=torch.float64)
        numbers[:, Column.TAKES_BEST] = 1
        numbers[:, [Column.REPETITION_PENALTY, Column.LENGTH_PENALTY]] = 1
        numbers[:, [Column.LISTEN_TOP_K, Column.FORCED]] = -1
        return numbers


def duplex_tensors(
    rows: Sequence[DuplexRow], vocab: int, width: int | None = None, forced: Sequence[int] = ()
) -> RowTensors:
    """Take each row's next two random numbers and lay everything out; `width` of `recent`."""
    numbers = np.zeros((len(rows), len(Column)))
    for place, row in enumerate(rows):
        s = row.settings
        numbers[place] = (
            *(s.temperature, s.top_k, s.top_p, s.takes_best),
            *(s.repetition_penalty, s.length_penalty, s.listen_prob_scale, s.listen_bias),
            -1 if s.listen_top_k is None else s.listen_top_k,
            *((0.0, 0.0) if s.takes_best else (row.draws.next(), row.draws.next())),
            *(forced[place] if forced else -1, 1),
        )
    seen = [
        row.generated[-row.settings.repetition_window :]
        if row.settings.repetition_penalty != 1
        else []
        for row in rows
    ]
    return RowTensors(torch.from_numpy(numbers), _recent(seen, vocab, width))


def turn_tensors(
    rows: Sequence[TurnRow], vocab: int, width: int | None = None, forced: Sequence[int] = ()
) -> RowTensors:
    """Take each row's next random number and lay everything out; `width` of `recent`."""
    numbers = np.zeros((len(rows), len(Column)))
    for place, row in enumerate(rows):
        s = row.settings
        numbers[place] = (
            *(s.temperature, s.top_k, s.top_p, s.takes_best),
            *(s.repetition_penalty, s.length_penalty, 1, 0, -1, 0),
            0.0 if s.takes_best else row.draws.next(),
            *(forced[place] if forced else -1, row.forbidden is not None),
        )
    seen = [row.seen if row.settings.repetition_penalty != 1 else [] for row in rows]
    return RowTensors(torch.from_numpy(numbers), _recent(seen, vocab, width))


def _recent(seen: Sequence[Sequence[int]], vocab: int, width: int | None) -> Tensor:
    recent = np.full((len(seen), width or max(1, *map(len, seen))), vocab, np.int32)
    for place, ids in enumerate(seen):
        kept = ids[-recent.shape[1] :]
        recent[place, : len(kept)] = kept
    return torch.from_numpy(recent)


# ------------------------------------------------------------------ full duplex


def sample_duplex(
    logits: Tensor,
    rows: Sequence[DuplexRow],
    ids: DuplexIds,
    forbidden: Tensor,
    forced: Sequence[int] = (),
) -> list[int]:
    """One id per row of raw logits [B, V]; appends to each row's `generated`.

    chunk_eos is drawn first, from the untouched distribution at temperature 1, and is then not
    recorded; afterwards it is among the `forbidden` [V].
    """
    _check_batch(logits, rows)
    x = logits.float()
    tensors = duplex_tensors(rows, x.shape[1], forced=forced)
    numbers, recent = tensors.numbers.to(x.device), tensors.recent.to(x.device)
    limit = _limit(duplex_scores(x, numbers, recent, ids, forbidden), numbers)
    chosen: list[int] = choose_duplex(x, numbers, recent, ids, forbidden, limit).tolist()
    record(rows, chosen, ids)
    return chosen


def record(rows: Sequence[DuplexRow], chosen: Sequence[int], ids: DuplexIds) -> None:
    """Remember what was chosen for the repetition penalty."""
    for row, token in zip(rows, chosen, strict=True):
        if token != ids.chunk_eos:
            row.generated.append(token)


# ------------------------------------------------------------------ half duplex and chat


def sample_turn(
    logits: Tensor,
    rows: Sequence[TurnRow],
    terminators: Sequence[int],
    forced: Sequence[int] = (),
) -> list[int]:
    """One id per row of raw logits [B, V]; where `forced` is not -1, that id."""
    _check_batch(logits, rows)
    x, forbidden = logits.float(), _mask(rows, logits)
    tensors = turn_tensors(rows, x.shape[1], forced=forced)
    numbers, recent = tensors.numbers.to(x.device), tensors.recent.to(x.device)
    limit = _limit(turn_scores(x, numbers, recent, terminators, forbidden), numbers)
    chosen: list[int] = choose_turn(x, numbers, recent, terminators, forbidden, limit).tolist()
    return chosen


def _mask(rows: Sequence[TurnRow], logits: Tensor) -> Tensor:
    """The forbidden ids [V]; rows that forbid anything forbid the same."""
    for row in rows:
        if row.forbidden is not None:
            return row.forbidden
    return torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)


# ------------------------------------------------------------------ shared


def _limit(x: Tensor, numbers: Tensor) -> int:
    """How many of the best of x [B, V] hold each row's top-k and what equals its last one."""
    vocab = x.shape[1]
    wanted = [k if 0 < k < vocab else vocab for k in numbers[:, Column.TOP_K].long().tolist()]
    limit = min(vocab, max(wanted) + TIE_SLACK)
    last = torch.tensor(wanted, device=x.device)[:, None] - 1
    while limit < vocab:
        values = x.topk(limit, dim=-1).values
        if not bool((values[:, -1:] >= values.gather(1, last)).any()):
            break
        limit = min(vocab, 2 * limit)
    return limit


def _check_batch(logits: Tensor, rows: Sequence[object]) -> None:
    assert logits.ndim == 2 and len(rows) == logits.shape[0] > 0, (
        f"logits {tuple(logits.shape)} for {len(rows)} rows"
    )


def _check(name: str, good: bool, value: float) -> None:
    if not good:
        raise ValueError(f"{name} = {value} is out of range")


class Choose(Protocol):
    """Logits [B, V], numbers, recent -> ids [B]; see `engine.minicpmo.llm.sampling_ops`."""

    def __call__(
        self, logits: Tensor, numbers: Tensor, recent: Tensor, /, *, limit: int
    ) -> Tensor: ...


class _Sampled(Protocol):
    @property
    def settings(self) -> SamplingSettings: ...


Row = TypeVar("Row", bound=_Sampled)


@dataclass(frozen=True)
class SamplingOrder(Generic[Row]):
    """One of the two orders of operations, with the ids that it needs."""

    name: str
    """Of its graphs."""
    tensors: Callable[[Sequence[Row], int, int | None, Sequence[int]], RowTensors]
    """Rows, the vocabulary's size, the width of `recent`, the ids that are forced."""
    choose: Choose
    """From tensors, for settings that `BatchSampler` takes."""
    sample: Callable[..., list[int]]
    """From logits [B, V], rows and `forced`, with any settings; records what was chosen."""
    record: Callable[[Sequence[Row], Sequence[int]], None]
    """Remember what `choose` chose, where the session's history needs it."""


def duplex_order(ids: DuplexIds, forbidden: Tensor) -> SamplingOrder[DuplexRow]:
    """The order of full duplex; `forbidden` [V]: what is never spoken."""
    return SamplingOrder(
        "duplex",
        duplex_tensors,
        partial(choose_duplex, ids=ids, forbidden=forbidden),
        partial(sample_duplex, ids=ids, forbidden=forbidden),
        partial(record, ids=ids),
    )


def turn_order(terminators: Sequence[int], forbidden: Tensor) -> SamplingOrder[TurnRow]:
    """The order of half duplex and chat; `forbidden` [V]: what is not said aloud."""
    return SamplingOrder(
        "turn",
        turn_tensors,
        partial(choose_turn, terminators=terminators, forbidden=forbidden),
        partial(sample_turn, terminators=terminators),
        lambda rows, chosen: None,
    )


class BatchSampler:
    """One order of sampling over the rows of `LlmRows`, captured for all sizes of batches."""

    def __init__(self, name: Hashable, rows: LlmRows, choose: Choose) -> None:
        self._name = name
        self._rows = rows
        self._choose = choose
        self._limit = min(rows.model.config.vocab_size, GRAPH_TOP_K + TIE_SLACK)

    @staticmethod
    def takes(settings: SamplingSettings) -> bool:
        """Return whether fixed numbers of candidates and recent ids do for these settings."""
        few = settings.takes_best or 0 < settings.top_k <= GRAPH_TOP_K
        return few and settings.repetition_window <= MAX_WINDOW

    @torch.inference_mode()
    def __call__(self, slots: Sequence[int], tensors: RowTensors) -> list[int]:
        """An id for each slot; waits for the device. `tensors.recent` is `MAX_RECENT` wide."""
        count = len(slots)
        size = padded_size(count) if self._rows.graphs.enabled else count
        index = torch.full((size,), self._rows.kv.num_slots, dtype=torch.int64)
        index[:count] = torch.tensor(list(slots))
        numbers = torch.zeros(size, tensors.numbers.shape[1], dtype=torch.float64)
        numbers[:count] = tensors.numbers
        recent = torch.full((size, MAX_RECENT), self._rows.model.config.vocab_size).int()
        recent[:count] = tensors.recent
        chosen = self._rows.graphs.run((self._name, size), self._run, index, numbers, recent)
        ids: list[int] = fetched(chosen)[:count].tolist()
        return ids

    def _run(self, index: Tensor, numbers: Tensor, recent: Tensor) -> Tensor:
        return self._choose(self._rows.logits[index], numbers, recent, limit=self._limit)

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Capture the graphs of all sizes."""
        rows = self._rows
        if not rows.graphs.enabled:
            return
        with rows.graphs.capturing():
            for size in sizes_up_to(rows.kv.num_slots):
                index = torch.full((size,), rows.kv.num_slots, dtype=torch.int64)
                numbers = RowTensors.idle(size)
                recent = torch.full((size, MAX_RECENT), rows.model.config.vocab_size).int()
                rows.graphs.run((self._name, size), self._run, index, numbers, recent)
