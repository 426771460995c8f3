"""Each process x each fault x each state of a call: who was told, when, what was lost and left."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from msgspec import Struct

from tests.faults.faults import DISK_FAULTS, FAULTS, Fault, log_disk
from tests.faults.scene import STATES, Fate, Scene
from tests.processes import descendants, is_there, of_role, role

PROCESSES = ("keeper", "front", "worker", "engine", "recogniser")
WATCH_S = 10.0
"""After a fault has ended."""
NEW_CALL_S = 5.0


class Row(Struct, frozen=True):
    """What one fault of one process did."""

    process: str
    fault: str
    fates: dict[str, str] = {}
    died: tuple[str, ...] = ()
    """Other processes that were there before and are not now."""
    new_call_s: float | None = None
    leaks: tuple[str, ...] = ()
    alarms: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    """What should not be so."""
    skipped: str = ""


ENDS_CALLS = {("keeper", "kill"), ("worker", "kill"), ("worker", "stop 20 s")}
"""Of clients that do not come back with their token; everything else no call may end for."""


def rows() -> list[tuple[str, Fault]]:
    """All that there is, in order. A disk is all processes' at once."""
    return [
        *((process, fault) for process in PROCESSES for fault in FAULTS),
        *(("all", fault) for fault in DISK_FAULTS),
    ]


async def try_fault(process: str, fault: Fault) -> Row:
    """One row."""
    folder = Path(tempfile.mkdtemp(prefix="fd"))
    try:
        async with contextlib.AsyncExitStack() as stack:
            try:
                options = await stack.enter_async_context(_disk(fault, folder))
            except OSError as error:
                return Row(process, fault.name, skipped=str(error))
            scene = await stack.enter_async_context(Scene(*options))
            scene.log.skip()
            return await _happen(scene, process, fault, folder)
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, True)


@contextlib.asynccontextmanager
async def _disk(fault: Fault, folder: Path) -> AsyncIterator[tuple[str, ...]]:
    if not fault.on_disk:
        yield ()
        return
    async with log_disk(fault, folder) as options:
        yield options


async def _happen(scene: Scene, process: str, fault: Fault, folder: Path) -> Row:
    first = scene.server.pid
    before = {pid: role(pid) for pid in descendants(first)}
    victim = first if process == "all" else of_role(first, process)[0]
    for actor in scene.actors:
        await actor.begin()
    window_s = fault.lasts_s + WATCH_S
    watching = asyncio.gather(*(actor.watch(window_s) for actor in scene.actors))
    async with fault.do(victim, folder):
        await asyncio.sleep(fault.lasts_s)
    is_over = process == "keeper" and fault.name == "kill"
    # Where nobody's call goes on every slot is free again; else the callers that live have them.
    may_wait = (process, fault.name) not in ENDS_CALLS
    new_call = None if is_over else asyncio.create_task(scene.new_call(may_wait=may_wait))
    fates = await watching
    new_call_s = None if new_call is None else await new_call
    died = tuple(name for pid, name in before.items() if pid != victim and not is_there(pid))
    alarms = tuple(scene.log.alarms())
    await scene.leave()
    leaked = await _left_behind(scene) if is_over else await scene.leaks()
    row = Row(
        process=process,
        fault=fault.name,
        fates={fate.state: str(fate) for fate in fates},
        died=died,
        new_call_s=None if new_call_s is None else round(new_call_s, 1),
        leaks=tuple(leaked),
        alarms=alarms,
    )
    return _judged(row, fates, is_over)


async def _left_behind(scene: Scene) -> list[str]:
    """What a keeper that was killed leaves: processes and sockets."""
    await asyncio.sleep(1.0)
    left = await asyncio.to_thread(lambda: [path.name for path in scene.folder.glob("omnicall-*")])
    return [f"folder {name}" for name in left]


def _judged(row: Row, fates: list[Fate], is_over: bool) -> Row:
    found = [f"{alarm}" for alarm in row.alarms]
    if not is_over:
        found += [f"left: {leak}" for leak in row.leaks]
        if row.new_call_s is None or row.new_call_s > NEW_CALL_S:
            found.append(f"a new call took {row.new_call_s} s")
        mortal = {"recogniser"} if row.process in ("engine", "recogniser") else set()
        found += [f"the {name} died, too" for name in row.died if name not in mortal]
    if (row.process, row.fault) not in ENDS_CALLS:
        found += [f"{f.state}: {f}" for f in fates if f.state != "closing" and not f.lives]
    return Row(
        **{name: getattr(row, name) for name in row.__struct_fields__ if name != "faults"},
        faults=tuple(found),
    )


def as_table(found: list[Row]) -> str:
    """For people."""
    head = ["process", "fault", *STATES, "new call", "died, too", "left behind"]
    lines = [head]
    for row in found:
        if row.skipped:
            lines.append([row.process, row.fault, f"skipped: {row.skipped}"])
            continue
        new_call = "-" if row.new_call_s is None else f"{row.new_call_s:.1f} s"
        fates = [row.fates.get(state, "") for state in STATES]
        dead = ", ".join(sorted(set(row.died)))
        lines.append([row.process, row.fault, *fates, new_call, dead, "; ".join(row.leaks)])
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (lines[0], rule, *lines[1:]))
