"""Events on the data channel, with each engine behind them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

from aiortc import InvalidStateError

from signaling.realtime.client_events import CLIENT_EVENT_TYPES
from tests.caller import Caller
from tests.fuzz.mutators.structures import mutate_json
from tests.fuzz.target import Target

CALLS = 3
NATIVE_OPTIONS = (
    *("--set", "minicpmo.device=cpu", "--set", "minicpmo.max_context=600"),
    *("--set", "engine.slots=2", "--set", "engine.ready_timeout_s=300"),
)
EVENTS_PER_S = 80.0
"""Of a call; more than 100 are refused unread."""
ANSWER_S = 20.0
MAX_EVENT_BYTES = 60_000
"""Larger ones exceed what the far end's SCTP takes (a=max-message-size)."""
ENDINGS = ("closed", "goodbye", "context_limit")
"""Reasons for which a caller may end its own call by what it says."""


class Events(Target):
    """JSON events of clients; one case is one message."""

    corpus = "events"
    concurrency = CALLS

    def __init__(self, engine: str = "builtin") -> None:
        self.name = "events" if engine == "builtin" else f"events:{engine}"
        self._engine = engine
        # The threads of torch would stand in each other's way where cores are few.
        self.environment = {"OMP_NUM_THREADS": "1"} if engine == "minicpmo" else {}
        # The bystander needs a slot, and each slot of a native engine seconds of warm-up.
        self._calls = 1 if engine == "minicpmo" else CALLS
        self._folder: Path | None = None
        self._callers: asyncio.Queue[Caller] = asyncio.Queue()
        self._url = ""
        self._checks = 0

    @property
    def options(self) -> Sequence[str]:  # type: ignore[override]
        options = ["--engine", self._engine]
        if self._engine == "minicpmo":
            from tests.tiny_checkpoint import write_checkpoint

            self._folder = Path(tempfile.mkdtemp(prefix="fz"))
            model = write_checkpoint(self._folder / "tiny", seed=3)
            options += ["--model", str(model), *NATIVE_OPTIONS]
        return options

    def seeds(self) -> dict[str, bytes]:
        """The corpus, and the bare type of every event there is."""
        bare = {f"bare-{name}": json.dumps({"type": name}).encode() for name in CLIENT_EVENT_TYPES}
        return bare | super().seeds()

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        return mutate_json(rng, parent, other)

    def signature(self, case: bytes) -> str:
        from tests.server.worker.talk import Talk

        try:
            text = case.decode()
        except UnicodeDecodeError:
            return "no UTF-8"
        talk = Talk()
        talk.ask(text)
        told = [
            (event["type"], event.get("error", {}).get("code"), event.get("error", {}).get("param"))
            for event in talk.events
        ]
        return f"{told} {[type(message).__name__ for message in talk.to_engine]}"

    async def open(self, url: str, folder: Path) -> None:
        self._url = url
        for _ in range(self._calls):
            self._callers.put_nowait(await self._call())

    async def _call(self) -> Caller:
        caller = await Caller(self._url).__aenter__()
        await caller.hears("session.created", timeout_s=ANSWER_S)
        return caller

    async def try_case(self, case: bytes) -> str:
        caller = await self._callers.get()
        try:
            ended = [e["reason"] for e in caller.events if e["type"] == "session.ended"]
            if ended or caller.pc.connectionState != "connected":
                await _hang_up(caller)
                caller = await self._call()
                if ended and ended[0] not in ENDINGS:
                    return f"an event ended the call: {ended[0]}"
            with contextlib.suppress(InvalidStateError):
                caller.channel.send(case[:MAX_EVENT_BYTES].decode(errors="replace"))
            await asyncio.sleep(1 / EVENTS_PER_S)
        finally:
            self._callers.put_nowait(caller)
        return ""

    async def settle(self) -> str:
        """Each call answers a good event."""
        self._checks += 1
        callers = [self._callers.get_nowait() for _ in range(self._callers.qsize())]
        try:
            silent = await asyncio.gather(*map(self._answers, callers))
        finally:
            for caller in callers:
                self._callers.put_nowait(caller)
        return next(filter(None, silent), "")

    async def _answers(self, caller: Caller) -> str:
        mark = f"check-{self._checks}"
        del caller.events[:-1]
        event = {"type": "conversation.item.retrieve", "item_id": "no-such", "event_id": mark}
        deadline = asyncio.get_running_loop().time() + ANSWER_S
        while asyncio.get_running_loop().time() < deadline:
            if caller.pc.connectionState != "connected":
                return ""
            with contextlib.suppress(InvalidStateError):
                caller.channel.send(json.dumps(event))
            for _ in range(20):
                errors = [e["error"] for e in caller.events if e["type"] == "error"]
                if any(error.get("event_id") == mark for error in errors):
                    return ""
                if any(e["type"] == "session.ended" for e in caller.events):
                    return ""
                await asyncio.sleep(0.05)
        return f"a good event was not answered within {ANSWER_S:g} s"

    async def close(self) -> None:
        while not self._callers.empty():
            await _hang_up(self._callers.get_nowait())
        if self._folder is not None:
            await asyncio.to_thread(shutil.rmtree, self._folder, True)


async def _hang_up(caller: Caller) -> None:
    with contextlib.suppress(OSError):
        await caller.hang_up()
    await caller.__aexit__(None, None, None)
