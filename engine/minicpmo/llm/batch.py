"""Sessions by slot over the rows of one language model: what full duplex and turns share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor

from engine.minicpmo.llm.context_window import Slide
from engine.minicpmo.llm.rows import Fed, LlmRows
from engine.minicpmo.llm.sampler import BatchSampler, Row, SamplingOrder
from engine.minicpmo.llm.sampling_ops import MAX_RECENT

Result = TypeVar("Result")
Made = TypeVar("Made", covariant=True)


class BatchedState(Protocol[Made]):
    """A session's automaton, as a batch drives it."""

    length: int
    """Positions in the cache."""

    @property
    def needs_decision(self) -> bool:
        """The slot's newest logits wait for a token."""
        ...

    @property
    def given(self) -> int:
        """The id that has to be chosen next; -1: any."""
        ...

    def decide(self, token: int) -> Made | None:
        """Take the chosen id; a result that is complete with it is returned."""
        ...

    @property
    def waiting(self) -> int | None:
        """The id to feed next."""
        ...

    def fed(self, hidden: Tensor) -> Made | None:
        """The waiting id is in the cache; a result that is complete with it is returned."""
        ...


State = TypeVar("State", bound=BatchedState[Any])


@dataclass
class Replay:
    """Hooks of replays and benchmarks; a server sets none."""

    observe: Callable[[list[int], Tensor], Tensor] | None = None
    """Slots and raw logits [B, V] of a sampling step -> the logits to sample from."""
    force: Callable[[list[int]], list[int]] | None = None
    """Slots -> the ids to choose, -1 for a free choice."""


@dataclass
class Chosen(Generic[Result]):
    """The first half of a step."""

    slots: list[int] = field(default_factory=list)
    """Slots that decided."""
    feeding: dict[int, int] = field(default_factory=dict)
    """Ids to feed, by slot."""
    results: dict[int, Result] = field(default_factory=dict)
    """Results that are complete before anything is fed."""


class Batch(ABC, Generic[State, Row, Result]):
    """Drives sessions by slot: all choose a token, one forward feeds what they chose."""

    def __init__(self, rows: LlmRows, order: SamplingOrder[Row], replay: Replay | None) -> None:
        self.rows = rows
        self.sessions: dict[int, State] = {}
        self.replay = replay or Replay()
        self._order = order
        self._sampler = BatchSampler(f"choose {order.name}", rows, order.choose)

    def warm_up(self) -> None:
        """Capture the sampler's graphs."""
        self._sampler.warm_up()

    # ------------------------------------------------------------------ sessions

    def open(self, slot: int, session: State) -> None:
        """Put a session on an empty slot."""
        assert slot not in self.sessions, f"slot {slot} is taken"
        self.sessions[slot] = session
        self.rows.reset(slot)

    def close(self, slot: int) -> None:
        """Forget a session and clear its rows."""
        del self.sessions[slot]
        self.rows.reset(slot)

    def newest(self, slot: int) -> Fed:
        """Return state and raw logits at the slot's last position that had any."""
        return self.rows.newest([slot])[0]

    # ------------------------------------------------------------------ a token for all

    def step(self, slots: Iterable[int] | None = None) -> dict[int, Result]:
        """Decide one token for every session under way (of `slots`) and feed it in one forward.

        Returns the results that are complete with this step.
        """
        chosen = self.choose(slots)
        if not chosen.slots:
            return {}
        states = self.rows.step(chosen.feeding)
        return self.fed(chosen, dict(zip(chosen.feeding, states, strict=True)))

    def choose(self, slots: Iterable[int] | None = None) -> Chosen[Result]:
        """Decide one token for every session under way (of `slots`)."""
        eligible = self.sessions if slots is None else set(slots)
        sessions = self.sessions
        deciding = [slot for slot in sorted(eligible) if sessions[slot].needs_decision]
        chosen: Chosen[Result] = Chosen(deciding)
        if not deciding:
            return chosen
        for slot, token in zip(deciding, self._decide(deciding), strict=True):
            result = sessions[slot].decide(token)
            if result is not None:
                chosen.results[slot] = result
            if (waiting := sessions[slot].waiting) is not None:
                chosen.feeding[slot] = waiting
        return chosen

    def fed(self, chosen: Chosen[Result], states: Mapping[int, Tensor]) -> dict[int, Result]:
        """Take the `states` [C] by slot after feeding; returns the results that are complete."""
        results = dict(chosen.results)
        for slot in chosen.feeding:
            result = self.sessions[slot].fed(states[slot])
            if result is not None:
                results[slot] = result
        self._check(chosen.slots)
        return results

    def _decide(self, slots: list[int]) -> list[int]:
        rows, replay = [self._row(slot) for slot in slots], self.replay
        forced = [self.sessions[slot].given for slot in slots]
        if replay.force is not None:
            forced = replay.force(slots)
        if replay.observe is None and all(BatchSampler.takes(row.settings) for row in rows):
            vocab = self.rows.model.config.vocab_size
            chosen = self._sampler(slots, self._order.tensors(rows, vocab, MAX_RECENT, forced))
            self._order.record(rows, chosen)
            return chosen
        logits = torch.stack([fed.logits for fed in self.rows.newest(slots)])
        if replay.observe is not None:
            logits = replay.observe(slots, logits)
        return self._order.sample(logits, rows, forced=forced)

    # ------------------------------------------------------------------ for subclasses

    def _apply(self, slot: int, slide: Slide | None) -> None:
        """Take out of a slot's cache what its window drops."""
        if slide is not None:
            self.rows.apply(slot, slide)

    def _check(self, slots: Iterable[int]) -> None:
        for slot in slots:
            ours, cached = self.sessions[slot].length, self.rows.length(slot)
            assert ours == cached, f"slot {slot}: session counts {ours}, cache holds {cached}"

    @abstractmethod
    def _row(self, slot: int) -> Row:
        """The slot's part of a sampling step."""
