"""Bound the calls between offer and connection, and choose which one makes room. Front."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from typing import Protocol, TypeVar

from signaling.errors import NoFreeSlot, ProtocolError

SHARE = 4
"""One caller may have this part of all set-up places."""
FLOOR_S = 4.0
"""Nobody who has no more than others is dropped earlier: long enough for a slow network."""


class SettingUp(Protocol):
    """A call whose peer is not connected yet."""

    @property
    def callers(self) -> tuple[str, ...]:
        """Whom it counts for: an address, a client secret."""

    @property
    def since(self) -> float: ...


T = TypeVar("T", bound=SettingUp)


def room_for(
    callers: tuple[str, ...], connecting: Collection[T], most: int, now: float
) -> T | None:
    """The call to drop so that `callers` may set up one more; None while there is room.

    The bounds are `most` in all and a share of them per caller. Beyond one the oldest goes, of
    the caller who has most. Raises `ProtocolError` (429) or `NoFreeSlot` if all are too young.
    """
    share = max(1, most // SHARE)
    for caller in callers:
        mine = [call for call in connecting if caller in call.callers]
        if len(mine) >= share:
            oldest = _old_enough(mine, now)
            if oldest is None:
                raise ProtocolError(
                    f"{share} calls of this caller are being set up already.",
                    code="too_many_calls",
                    status=429,
                )
            return oldest
    if len(connecting) < most:
        return None
    held = Counter(caller for call in connecting for caller in call.callers)
    busiest, count = held.most_common(1)[0]
    if count > 1 + max(held[caller] for caller in callers):
        return min((c for c in connecting if busiest in c.callers), key=lambda c: c.since)
    oldest = _old_enough(connecting, now)
    if oldest is None:
        raise NoFreeSlot(FLOOR_S, "Too many calls are being set up.")
    return oldest


def _old_enough(calls: Collection[T], now: float) -> T | None:
    oldest = min(calls, key=lambda call: call.since)
    return oldest if now - oldest.since >= FLOOR_S else None
