"""When to try again after a connection was lost."""

from __future__ import annotations

import random
from collections.abc import Iterator

FIRST_S, MOST_S = 0.5, 8.0
FOR_S = 60.0
"""For so long a server is looked for that lets sessions be resumed."""


def waits(chance: random.Random | None = None) -> Iterator[float]:
    """Seconds to wait before each attempt: none, then ones that double, each spread over its upper
    half so that many clients do not come back together; `FOR_S` in all.
    """
    chance = chance or random.Random()
    yield 0.0
    passed, longest = 0.0, FIRST_S
    while passed < FOR_S:
        wait = longest * (0.5 + chance.random() / 2)
        passed += wait
        longest = min(MOST_S, 2 * longest)
        yield wait
