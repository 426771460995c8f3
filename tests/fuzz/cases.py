"""The cases of a campaign: the same seed gives the same ones, whatever the server says."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from tests.fuzz.target import Finding, Target

MAX_POOL = 4_000
MAX_GROWN_BYTES = 64 * 1024


class Cases:
    """Owns the pool that cases are made from; it grows by those whose signature is new."""

    def __init__(self, target: Target, seed: int) -> None:
        self._target = target
        self._seed = seed
        self._pool = list(target.seeds().values())
        self._signatures = {target.signature(case) for case in self._pool}
        self.faults: list[Finding] = []
        """Cases at which the parsers themselves raised."""

    @property
    def signatures(self) -> int:
        return len(self._signatures)

    def __iter__(self) -> Iterator[bytes]:
        number = 0
        while True:
            number += 1
            case = self._make(Random(f"{self._target.name}/{self._seed}/{number}"))
            try:
                signature = self._target.signature(case)
            except Exception as error:  # noqa: BLE001 - whatever a parser raises is the finding
                what = f"a parser raised {type(error).__name__}: {str(error)[:200]}"
                self.faults.append(Finding(what, case))
                yield case
                continue
            self._grow(case, signature)
            yield case

    def _make(self, rng: Random) -> bytes:
        # The newest ones more often: what lies behind them is known least.
        last = len(self._pool) - 1
        index = last - int(len(self._pool) * rng.random() ** 2) if rng.random() < 0.5 else None
        parent = self._pool[rng.randint(0, last) if index is None else max(index, 0)]
        return self._target.mutate(rng, parent, rng.choice(self._pool))

    def _grow(self, case: bytes, signature: str) -> None:
        if signature in self._signatures or len(self._pool) >= MAX_POOL:
            return
        self._signatures.add(signature)
        if len(case) <= MAX_GROWN_BYTES:
            self._pool.append(case)
