"""Cycles: what has ended is freed soon, in one collection with all that ends about then."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import weakref
from collections.abc import Iterator

import pytest

import engine.ipc.cycles as module
from engine.ipc.cycles import COLLECT_AFTER_S, TRIM_AFTER_S, CycleCollector, return_pages
from tests import virtual_time
from tests.waiting import until


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


async def test_freed_pages_are_returned_with_a_collection_but_not_with_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "COLLECT_AFTER_S", 0.0)
    times: list[float] = []
    now = 0.0
    cycles = CycleCollector(return_pages=lambda: times.append(now), clock=lambda: now)
    running = asyncio.create_task(cycles.run())
    for now in (1.0, TRIM_AFTER_S, TRIM_AFTER_S + 1, 2 * TRIM_AFTER_S):
        before = gc.get_stats()[2]["collections"]
        cycles.ended()
        await until(lambda: gc.get_stats()[2]["collections"] > before)  # noqa: B023 - awaited here
        if now % TRIM_AFTER_S == 0:
            await until(lambda: now in times)  # noqa: B023
    running.cancel()
    assert times == [TRIM_AFTER_S, 2 * TRIM_AFTER_S]


def resident_kib() -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="not glibc")
def test_pages_in_the_middle_of_a_heap_are_returned() -> None:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    held = [libc.malloc(100_000) for _ in range(400)]
    for block in held:
        ctypes.memset(block, 1, 100_000)
    for block in held[:-1]:
        libc.free(ctypes.c_void_p(block))
    full = resident_kib()
    return_pages()
    libc.free(ctypes.c_void_p(held[-1]))
    assert resident_kib() < full - 20_000


def test_collections_pass_over_what_was_loaded() -> None:
    loaded = Knot()
    CycleCollector()
    assert not any(one is loaded for one in gc.get_objects())
