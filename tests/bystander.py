"""A caller in a process of its own, who tells each second what it hears.

    python -m tests.bystander URL [--key KEY] [--story]

Prints a JSON line each second until its stdin ends, then hangs up. A process of its own, so that
what its parent does to the server does not take its time.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from typing import Any

from msgspec import Struct

from tests.caller import RATE, Caller
from tests.waiting import PATIENCE_S

CONNECT_S = 20.0


class Heard(Struct, frozen=True):
    """What a caller heard up to a moment."""

    at_s: float
    heard_s: float
    loud_s: float
    packets: int
    lost: int
    state: str
    ended: str = ""
    """The reason of `session.ended`, or of the last `error`."""
    call: str = ""
    failed_transcripts: int = 0


class Bystander:
    """The parent's end."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.heard: list[Heard] = []
        self._reading = asyncio.create_task(self._read(), name="bystander")
        self._news = asyncio.Event()

    @classmethod
    async def call(cls, url: str, *options: str) -> Bystander:
        """Place the call; returns when it is connected."""
        made = cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.bystander", url, *options),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
        )
        async with asyncio.timeout(CONNECT_S * 2):
            await made.next()
        return made

    async def next(self) -> Heard:
        """What it says next; the last word again when it is gone."""
        self._news.clear()
        if not self._reading.done():
            await self._news.wait()
        if not self.heard:
            raise RuntimeError("the bystander could not call")
        return self.heard[-1]

    def complaint(self) -> str:
        """What is wrong with its call."""
        last = self.heard[-1] if self.heard else None
        if last is None or self._reading.done():
            return "the bystander's process is gone"
        if last.ended or last.state != "connected":
            return f"the bystander's call is over ({last.state}, {last.ended})"
        return ""

    async def close(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stdout is not None
        try:
            async for line in self._process.stdout:
                self.heard.append(Heard(**json.loads(line)))
                self._news.set()
        finally:
            self._news.set()


def _last_word(caller: Caller) -> str:
    for event in reversed(caller.events):
        if event["type"] == "session.ended":
            return str(event["reason"])
    return ""


async def _tell(caller: Caller, started: float) -> None:
    stats: Any = await caller.pc.getStats()
    inbound = [s for s in stats.values() if s.type == "inbound-rtp" and s.kind == "audio"]
    failed = "conversation.item.input_audio_transcription.failed"
    heard = Heard(
        at_s=time.monotonic() - started,
        heard_s=caller.heard_samples / RATE,
        loud_s=caller.loud_samples / RATE,
        packets=sum(s.packetsReceived for s in inbound),
        lost=sum(s.packetsLost for s in inbound),
        state=caller.pc.connectionState,
        ended=_last_word(caller),
        call=caller.location.rpartition("/")[2],
        failed_transcripts=sum(event["type"] == failed for event in caller.events),
    )
    print(json.dumps({name: getattr(heard, name) for name in heard.__struct_fields__}), flush=True)


async def main(options: argparse.Namespace) -> None:
    closed = asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    started = time.monotonic()
    caller = Caller(options.url, key=options.key)
    try:
        await caller.__aenter__()
        await caller.hears("session.created", timeout_s=CONNECT_S)
        while not closed.done():
            await _tell(caller, started)
            if options.story and not caller.pc.connectionState == "closed":
                options.story = False
                caller.type("Tell me a story")
            await asyncio.wait([closed], timeout=1.0)
        await asyncio.wait_for(caller.hang_up(), 3)
    finally:
        await caller.__aexit__(None, None, None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--key")
    parser.add_argument("--story", action="store_true", help="ask for a long answer")
    asyncio.run(main(parser.parse_args()))
