"""One campaign: cases, given in batches to a living server, and what the oracles say after each."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from msgspec import Struct

from tests.fuzz.cases import Cases
from tests.fuzz.rig import Rig
from tests.fuzz.target import FINDING, Finding, Target
from tests.processes import Usage, table

BATCH = 48
MAX_FINDINGS = 12
CASE_TIMEOUT_S = 60.0
PAUSE_S = 0.3
"""After a case that is tried alone: what it does may take a moment to show."""
MAX_GROWTH_KIB = 24 * 1024
"""Of a process in the second half of a campaign of a minute and more."""


class Report(Struct, frozen=True):
    """What a campaign did and found."""

    target: str
    seed: int
    cases: int
    seconds: float
    signatures: int
    findings: list[dict[str, object]]
    log_bytes: int = 0
    memory_kib: dict[str, tuple[int, int]] = {}
    """By role: before and after."""


class Campaign:
    """Runs one target; owns the findings."""

    def __init__(
        self, target: Target, seed: int, *, keep: Path | None = None, batch: int = BATCH
    ) -> None:
        self._target = target
        self._batch = batch
        self._seed = seed
        self._keep = keep
        self._findings: dict[str, Finding] = {}
        self._done = 0
        self._memory: list[tuple[int, list[Usage]]] = []

    async def run(self, *, seconds: float, cases: int | None, rig: Rig | None = None) -> Report:
        """Give the corpus, then `cases` new ones; until `seconds` are over, or too much was found.

        All of the corpus and a batch of new ones are given in any case. What is left behind is
        looked for only in a server of its own: whoever gives a `rig` ends it.
        """
        made = Cases(self._target, self._seed)
        log_bytes = 0
        async with self._ready(rig) as ready:
            started = time.monotonic()
            before = self._measure(ready)
            known = self._target.seeds().values()
            wanted = len(known) + self._batch
            for batch in _batches(
                itertools.chain(known, itertools.islice(made, cases)), self._batch
            ):
                await self._give(batch, ready, made)
                self._measure(ready)
                is_over = time.monotonic() - started > seconds and self._done >= wanted
                if is_over or len(self._findings) >= MAX_FINDINGS:
                    break
            await self._target.close()
            if ready is not None:
                self._judge_memory(time.monotonic() - started)
                log_bytes = ready.log.size
                if rig is None:
                    for what in await ready.end():
                        self._add(Finding(what, b"", is_alone=False))
            after = self._measure(ready)
            lasted_s = time.monotonic() - started
        return Report(
            target=self._target.name,
            seed=self._seed,
            cases=self._done,
            seconds=round(lasted_s, 1),
            signatures=made.signatures,
            findings=[self._told(finding) for finding in self._findings.values()],
            log_bytes=log_bytes,
            memory_kib={
                one.role: (old.rss_kib, one.rss_kib)
                for one in after
                for old in before
                if old.pid == one.pid
            },
        )

    @contextlib.asynccontextmanager
    async def _ready(self, rig: Rig | None) -> AsyncIterator[Rig | None]:
        if not self._target.needs_server:
            await self._target.open("", Path())
            yield None
            return
        async with contextlib.AsyncExitStack() as stack:
            if rig is None:
                rig = await stack.enter_async_context(
                    Rig(*self._target.options, environment=self._target.environment)
                )
            await self._target.open(rig.server.url, rig.folder)
            yield rig

    async def _give(self, batch: list[bytes], rig: Rig | None, made: Cases) -> None:
        self._done += len(batch)
        while made.faults:
            self._add(made.faults.pop())
        limit = asyncio.Semaphore(self._target.concurrency)

        async def give(case: bytes) -> None:
            async with limit:
                complaint = await self._try(case)
            if complaint:
                self._add(Finding(complaint, case))

        await asyncio.gather(*map(give, batch))
        found = await self._look(rig)
        if not found:
            return
        await self._recover(rig)
        await self._isolate(batch, found, rig)

    async def _isolate(self, batch: list[bytes], found: list[str], rig: Rig | None) -> None:
        """Find the case of a batch that did it."""
        for case in batch:
            if again := await self._alone(case, rig):
                for what in again:
                    self._add(Finding(what, case))
                await self._recover(rig)
                return
        numbers = f"in cases {self._done - len(batch) + 1} to {self._done}, not again one by one"
        for what in found:
            self._add(Finding(f"{what}; {numbers}", batch[-1], is_alone=False))

    async def _alone(self, case: bytes, rig: Rig | None) -> list[str]:
        complaint = await self._try(case)
        if rig is not None:
            await asyncio.sleep(PAUSE_S)
        return [*filter(None, [complaint]), *await self._look(rig)]

    async def _try(self, case: bytes) -> str:
        try:
            async with asyncio.timeout(CASE_TIMEOUT_S):
                return await self._target.try_case(case)
        except TimeoutError:
            return f"no answer within {CASE_TIMEOUT_S:g} s"
        except (OSError, EOFError) as error:
            return f"the connection broke: {error!r}"

    async def _look(self, rig: Rig | None) -> list[str]:
        complaint = await self._target.settle()
        found = [complaint] if complaint else []
        if rig is not None:
            found += await rig.complaints()
        return found

    async def _recover(self, rig: Rig | None) -> None:
        if rig is None:
            return
        await self._target.close()
        await rig.recover()
        await self._target.open(rig.server.url, rig.folder)

    def _judge_memory(self, lasted_s: float) -> None:
        half = [usage for cases, usage in self._memory if cases >= self._done / 2]
        if lasted_s > 60 and half:
            old = {one.pid: one for one in half[0]}
            for one in half[-1]:
                grown = one.rss_kib - old.get(one.pid, one).rss_kib
                if grown > MAX_GROWTH_KIB:
                    what = f"the {one.role} grew by {grown} KiB in the second half"
                    self._add(Finding(what, b"", is_alone=False))

    def _measure(self, rig: Rig | None) -> list[Usage]:
        found = [] if rig is None else table(rig.server.pid)
        self._memory.append((self._done, found))
        return found

    def _add(self, finding: Finding) -> None:
        self._findings.setdefault(finding.what, finding)

    def _told(self, finding: Finding) -> dict[str, object]:
        told: dict[str, object] = {"what": finding.what, "alone": finding.is_alone}
        if finding.case and finding.is_alone:
            name = f"{FINDING}-{hashlib.sha256(finding.case).hexdigest()[:12]}"
            told["case"] = name
            told["beginning"] = finding.case[:200].decode("latin-1")
            if self._keep is not None:
                folder = self._keep / (self._target.corpus or self._target.name)
                folder.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(finding.case)
        return told


def _batches(cases: Iterator[bytes], size: int) -> Iterator[list[bytes]]:
    while batch := list(itertools.islice(cases, size)):
        yield batch
