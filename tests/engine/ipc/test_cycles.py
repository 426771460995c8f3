"""Cycles: what has ended is freed soon, in one collection with all that ends about then."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Iterator

import pytest

from engine.ipc.cycles import COLLECT_AFTER_S, CycleCollector
from tests import virtual_time


class Knot:
    """A cycle that only a collection frees."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def only_its_own_collections() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


def test_what_has_ended_is_freed_within_the_time() -> None:
    async def check() -> None:
        cycles = CycleCollector()
        running = asyncio.create_task(cycles.run())
        for _ in range(3):
            knot = weakref.ref(Knot())
            await asyncio.sleep(3 * COLLECT_AFTER_S)
            assert knot() is not None, "a collection that nothing asked for"
            cycles.ended()
            await asyncio.sleep(COLLECT_AFTER_S * 1.01)
            assert knot() is None
        running.cancel()

    virtual_time.run(check)


def test_what_ends_soon_after_is_freed_by_the_same_collection() -> None:
    async def check() -> None:
        cycles = CycleCollector()
        running = asyncio.create_task(cycles.run())
        collections = []

        def count(phase: str, about: dict[str, int]) -> None:
            collections.append(phase)

        gc.callbacks.append(count)
        try:
            for _ in range(50):
                knot = weakref.ref(Knot())
                cycles.ended()
                await asyncio.sleep(COLLECT_AFTER_S / 60)
            await asyncio.sleep(3 * COLLECT_AFTER_S)
        finally:
            gc.callbacks.remove(count)
        assert knot() is None
        assert collections == ["start", "stop"]
        running.cancel()

    virtual_time.run(check)


def test_collections_pass_over_what_was_loaded() -> None:
    loaded = Knot()
    CycleCollector()
    assert not any(one is loaded for one in gc.get_objects())
