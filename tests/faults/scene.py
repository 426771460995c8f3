"""A server with callers in each state that a call can be in, and what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from msgspec import Struct

from tests.caller import Caller
from tests.fuzz.oracles import Baseline, Log, leaks
from tests.processes import table
from tests.serving import Serving

State = Literal["connecting", "queued", "listening", "answering", "closing"]
STATES: tuple[State, ...] = get_args(State)
IN_CALL: tuple[State, ...] = ("listening", "answering", "closing")
"""These hold a slot."""
SETTLE_S = 15.0
PATIENCE_S = 40.0
PACKET_S = 0.02


class Fate(Struct, frozen=True):
    """What became of one caller."""

    state: State
    lives: bool
    """Connected, sound comes, and an event is answered."""
    is_served: bool = False
    """It has a slot."""
    told: str = ""
    """The reason of `session.ended` or the code of an `error`; empty if nothing was said."""
    told_after_s: float | None = None
    over_after_s: float | None = None
    """When its peer connection was closed or failed."""
    lost_s: float = 0.0
    """Sound that should have come while the call was there and did not."""

    def __str__(self) -> str:
        if self.lives:
            lost = f", {self.lost_s:.1f} s lost" if self.lost_s > 0.1 else ""
            return ("served" if self.is_served else "waits") + lost
        told = f"told {self.told} {self.told_after_s:.1f} s" if self.told else "told nothing"
        over = "hangs" if self.over_after_s is None else f"over {self.over_after_s:.1f} s"
        return f"{told}, {over}"


class Actor:
    """One caller: brought into its state, then watched."""

    def __init__(self, state: State, url: str) -> None:
        self.state = state
        self.caller = Caller(url)
        self._answer = ""
        self._events = 0
        self._got_s = 0.0
        self._since = 0.0

    async def prepare(self) -> None:
        """Get into the state."""
        caller = self.caller
        self._answer = await caller.offer()
        if self.state == "connecting":
            return
        await caller.accept(self._answer)
        if self.state == "queued":
            await caller.hears("session.queued", timeout_s=PATIENCE_S)
            return
        await caller.hears("session.created", timeout_s=PATIENCE_S)
        if self.state == "answering":
            caller.type("Tell me a story")
            await caller.hears("output_audio_buffer.started", timeout_s=PATIENCE_S)

    async def begin(self) -> None:
        """The fault comes now."""
        self._events = len(self.caller.events)
        self._since = time.monotonic()
        self._got_s = await self._sound_s()

    async def watch(self, window_s: float) -> Fate:
        """Go on with the state for this long; what became of the caller."""
        caller = self.caller
        if self.state == "connecting":
            await caller.accept(self._answer)
        elif self.state == "closing":
            with contextlib.suppress(OSError, asyncio.TimeoutError):
                async with asyncio.timeout(window_s):
                    await caller.hang_up()
        told, told_at, over_at = "", None, None
        while (passed := time.monotonic() - self._since) < window_s and over_at is None:
            if not told and (word := self._word()):
                told, told_at = word, passed
            if caller.pc.connectionState in ("closed", "failed"):
                over_at = passed
            await asyncio.sleep(0.02)
        told = told or self._word()
        lives = over_at is None and not told and await self._is_alive()
        passed, got_s = time.monotonic() - self._since, await self._sound_s() - self._got_s
        # Who connects gets nothing before.
        counts = lives and self.state != "connecting"
        lost_s = max(0.0, passed - got_s) if counts else 0.0
        is_served = any(event["type"] == "session.created" for event in caller.events)
        return Fate(self.state, lives, is_served, told, told_at, over_at, lost_s)

    async def _is_alive(self) -> bool:
        before = self.caller.heard_samples
        if self.state in ("queued", "connecting"):
            # It waits, or is served by now; either way it is sent sound.
            await asyncio.sleep(1.0)
            return self.caller.heard_samples > before
        self.caller.send("conversation.item.retrieve", item_id="no-such", event_id="alive")
        for _ in range(60):
            await asyncio.sleep(0.05)
            errors = [e["error"] for e in self.caller.events if e["type"] == "error"]
            if any(error.get("event_id") == "alive" for error in errors):
                return self.caller.heard_samples > before
        return False

    def _word(self) -> str:
        for event in self.caller.events[self._events :]:
            if event["type"] == "session.ended":
                return str(event["reason"])
        return ""

    async def _sound_s(self) -> float:
        """What came, by its packets: what this process makes of them in time is its own affair."""
        stats: Any = await self.caller.pc.getStats()
        inbound = [s for s in stats.values() if s.type == "inbound-rtp" and s.kind == "audio"]
        return float(sum(s.packetsReceived for s in inbound)) * PACKET_S

    async def leave(self) -> None:
        with contextlib.suppress(OSError, asyncio.TimeoutError, AssertionError):
            async with asyncio.timeout(3):
                await self.caller.hang_up()
        with contextlib.suppress(asyncio.TimeoutError):
            async with asyncio.timeout(8):
                await self.caller.__aexit__(None, None, None)


class Scene:
    """Owns the server, its folder and the callers."""

    def __init__(
        self, *options: str, states: Sequence[State] = (*IN_CALL, "queued", "connecting")
    ) -> None:
        self._states = states
        self.folder = Path(tempfile.mkdtemp(prefix="fs"))
        path = self.folder / "log"
        path.touch()
        self.log = Log(path)
        slots = ("--set", f"engine.slots={len(IN_CALL)}")
        self.server = Serving(*slots, *options, environment={"TMPDIR": str(self.folder)}, log=path)
        self.actors: list[Actor] = []
        self.baseline = Baseline([], {})

    async def __aenter__(self) -> Scene:
        await asyncio.to_thread(self.server.__enter__)
        await self.new_call()
        await self.is_free()
        self.baseline = await self.now()
        for state in self._states:
            actor = Actor(state, self.server.url)
            self.actors.append(actor)
            await actor.prepare()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()
        await asyncio.to_thread(self.server.stop)
        await asyncio.to_thread(shutil.rmtree, self.folder, True)

    async def leave(self) -> None:
        """Everybody hangs up."""
        await asyncio.gather(*(actor.leave() for actor in self.actors))
        self.actors.clear()

    async def new_call(self, *, may_wait: bool = False) -> float | None:
        """How long until a new caller is served, in s; None if that takes too long.

        `may_wait`: a place in the queue will do.
        """
        enough = {"session.created", "session.queued"} if may_wait else {"session.created"}
        started = time.monotonic()
        while time.monotonic() - started < PATIENCE_S:
            caller = Caller(self.server.url)
            try:
                async with asyncio.timeout(PATIENCE_S / 2), caller:
                    while not enough & {event["type"] for event in caller.events}:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                    took_s = time.monotonic() - started
                    await caller.hang_up()
                    return took_s
            except (OSError, AssertionError, TimeoutError):
                # Refused: not yet.
                await asyncio.sleep(0.2)
        return None

    async def leaks(self) -> list[str]:
        """What is held now that was not before the callers came; waits for it to be let go."""
        if not await self.is_free():
            found = await self.stats()
            return [f"held: slots {found['slots']['used']}, calls {len(found['calls'])}"]
        deadline = time.monotonic() + SETTLE_S
        while True:
            held = leaks(self.baseline, await self.now())
            if not held or time.monotonic() > deadline:
                return held
            await asyncio.sleep(1.0)

    async def stats(self) -> dict[str, Any]:
        _, found = await asyncio.to_thread(self.server.get, "/api/stats")
        assert isinstance(found, dict), found
        return found

    async def now(self) -> Baseline:
        found = await self.stats()
        tasks = {p["name"]: p["tasks"] for p in found["processes"] if "tasks" in p}
        return Baseline(table(self.server.pid), tasks)

    async def is_free(self) -> bool:
        """Wait until no call is there."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                found = await self.stats()
                if found["ready"] and not found["calls"] and not found["slots"]["used"]:
                    return True
            await asyncio.sleep(0.2)
        return False
