"""What is tried with each client, and the lines in which a driver tells of it.

Imports nothing of ours, since the drivers run in environments that have the client alone.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Protocol

STEPS = ("connects", "speech", "captions", "interruption", "text", "tools", "hang-up")
HZ = 24_000
LOUD = 800
STEP_S = 45.0
ONLY = "OMNICALL_STEPS"
"""In the environment: which steps are taken, with commas between them; all if it is not there."""
GREETING = "good morning to you"
WEATHER = "get_weather in Rome"
FOUND = "i found"
STORY = "tell me a story"
STORY_END = "water all along"


class Report:
    """Writes a line of JSON for each step."""

    def __init__(self, version: str) -> None:
        self._write({"version": version})

    @contextlib.asynccontextmanager
    async def step(self, name: str, timeout_s: float = STEP_S) -> AsyncIterator[None]:
        """What happens in the block; a failure is told and the next step follows."""
        begun = time.monotonic()
        told: dict[str, object] = {"step": name}
        try:
            async with asyncio.timeout(timeout_s):
                yield
            told["ok"] = True
        except Exception as error:  # noqa: BLE001 - whatever a client raises is its result
            told |= {"ok": False, "why": f"{type(error).__name__}: {error}"[:300]}
        self._write(told | {"s": round(time.monotonic() - begun, 1)})

    def note(self, text: str) -> None:
        """Something that the table cannot show."""
        self._write({"note": text})

    def _write(self, told: dict[str, object]) -> None:
        print(json.dumps(told), flush=True)


class Microphone:
    """Sends silence, and speech where it is told to, in real time."""

    def __init__(
        self, send: Callable[[bytes], Awaitable[None]], folder: Path, hz: int = HZ, ms: int = 100
    ) -> None:
        self._send = send
        self._folder = folder
        self._hz = hz
        self._ms = ms
        self._unsaid = b""

    def say(self, name: str) -> None:
        """Say what the file of this name holds."""
        self._unsaid += (self._folder / f"{name}.{self._hz}.pcm").read_bytes()

    async def run(self) -> None:
        """Talk until cancelled."""
        size = 2 * self._hz * self._ms // 1000
        begun, n = time.monotonic(), 0
        while True:
            piece, self._unsaid = self._unsaid[:size], self._unsaid[size:]
            await self._send(piece.ljust(size, b"\0"))
            n += 1
            await asyncio.sleep(max(0.0, begun + n * self._ms / 1000 - time.monotonic()))


class Adapter(Protocol):
    """One client in a call; the two texts and the numbers grow."""

    @property
    def said(self) -> str:
        """What the assistant said, by its captions."""

    @property
    def heard(self) -> str:
        """What the user said, by the captions."""

    @property
    def loud_s(self) -> float:
        """Seconds of the assistant's voice."""

    @property
    def calls(self) -> int:
        """Functions that ran."""

    @property
    def interruptions(self) -> int:
        """How often the client was told that an answer was cut."""

    @property
    def say(self) -> Callable[[str], None]:
        """Say what a file holds."""

    async def type(self, text: str) -> None: ...

    async def hang_up(self) -> None: ...


def loud_s(pcm: bytes, hz: int = HZ) -> float:
    """Seconds of this 16 bit sound if somebody speaks in it, else 0."""
    samples = array.array("h", pcm[: len(pcm) // 2 * 2])
    if not samples:
        return 0.0
    level = math.sqrt(sum(sample * sample for sample in samples) / len(samples))
    return len(samples) / hz if level > LOUD else 0.0


class Pauses:
    """Counts how often a voice fell silent: Live tells of interruptions in no other way."""

    LONG_S = 0.3

    def __init__(self) -> None:
        self.count = 0
        self._silence_s = self.LONG_S

    def add(self, pcm: bytes, hz: int = HZ) -> None:
        """Take in the next piece; true zeros are silence."""
        before = self._silence_s
        if loud_s(pcm, hz):
            self._silence_s = 0.0
        elif not any(pcm):
            self._silence_s += len(pcm) / 2 / hz
        self.count += before < self.LONG_S <= self._silence_s


async def until(condition: Callable[[], object]) -> None:
    """Wait for something that nothing announces in the same way for all clients."""
    while not condition():  # noqa: ASYNC110
        await asyncio.sleep(0.05)


async def settled(client: Adapter, quiet_s: float = 2.0) -> None:
    """Wait until nobody has spoken for a while."""
    before, since = client.loud_s, time.monotonic()
    while time.monotonic() < since + quiet_s:
        await asyncio.sleep(0.1)
        if client.loud_s != before:
            before, since = client.loud_s, time.monotonic()


Step = Callable[[Adapter], Awaitable[None]]


async def converse(
    report: Report,
    client: Adapter,
    more: Mapping[str, Step] | None = None,
    leave_out: frozenset[str] = frozenset(),
) -> None:
    """All steps but the first, with a client that is connected; `more` come before hang-up."""
    steps: dict[str, Step] = {
        "speech": _speech,
        "captions": _captions,
        "text": _text,
        "tools": _tools,
        "interruption": _interruption,
    }
    for name, step in (steps | dict(more or {})).items():
        if name in leave_out or not is_wanted(name):
            continue
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STEP_S):
                await settled(client)
        async with report.step(name):
            await step(client)
    async with report.step("hang-up"):
        await client.hang_up()


def is_wanted(step: str) -> bool:
    """Whether a step is taken; connecting and hanging up always are."""
    only = os.environ.get(ONLY)
    return not only or step in only.split(",")


async def _speech(client: Adapter) -> None:
    begun = client.loud_s
    client.say("what_time")
    await until(lambda: client.loud_s > begun + 0.5)


async def _captions(client: Adapter) -> None:
    begun = len(client.said)
    client.say("what_time")
    await until(lambda: client.heard.strip() and client.said[begun:].strip())


async def _text(client: Adapter) -> None:
    begun = len(client.said)
    await client.type(GREETING)
    await until(lambda: "morning" in client.said[begun:].lower())


async def _tools(client: Adapter) -> None:
    begun = len(client.said)
    await client.type(WEATHER)
    await until(lambda: client.calls and FOUND in client.said[begun:].lower())


async def _interruption(client: Adapter) -> None:
    begun, cut, loud = len(client.said), client.interruptions, client.loud_s
    await client.type(STORY)
    await until(lambda: client.loud_s > loud + 2.0)
    # Longer than an acknowledgement, whatever it is understood to be.
    client.say("what_time")
    await until(lambda: client.interruptions > cut)
    await settled(client)
    if STORY_END in client.said[begun:].lower():
        raise AssertionError("the story was told to its end")


def arguments() -> tuple[str, Path]:
    """The server's address without a slash at its end, and the folder of the speech."""
    return sys.argv[1].rstrip("/"), Path(sys.argv[2])
