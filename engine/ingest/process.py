"""The ingest process of an engine: keeps sound and pictures out of the model's interpreter.

A line of JSON on stdin says where to listen; one on stdout answers with the endpoint, and then a
line each second is the sign of life. It ends when stdin is closed or its parent dies.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import time

import msgspec
import uvloop

from engine.config import LogLevel
from engine.ingest.relay import Relay
from engine.ipc.lifeline import OOM_ENGINE, die_with_parent, go_before_parent
from engine.ipc.logs import log_to

log = logging.getLogger(__name__)

BEAT_S = 1.0
LINGER_S = 0.05


class IngestConfig(msgspec.Struct, frozen=True):
    """What the process is told at its start."""

    name: str
    endpoint: str
    """Where media workers dial."""
    engine: str
    """Where the engine listens."""
    log_level: LogLevel = "info"
    log_file: str = ""
    log_max_mb: int = 0


class Beat(msgspec.Struct, frozen=True):
    """A sign of life."""

    endpoint: str
    cpu_s: float


async def _beat(relay: Relay) -> None:
    while True:
        times = os.times()
        line = msgspec.json.encode(Beat(relay.endpoint, times.user + times.system))
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
        await asyncio.sleep(BEAT_S)


async def serve(config: IngestConfig) -> None:
    """Relay until stdin is closed."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    relay = Relay(config.endpoint, config.engine)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def end() -> None:
        await reader.read()
        over.set()

    # What is loaded by now lives as long as the process.
    gc.collect()
    gc.freeze()
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(work) for work in (relay.run(), _beat(relay), end())]
        await over.wait()
        # What the engine said last is on its way.
        await asyncio.sleep(LINGER_S)
        for task in running:
            task.cancel()
    relay.close()


def main() -> None:
    """Entry of the process: the parent's pid is the argument."""
    die_with_parent(int(sys.argv[1]))
    go_before_parent(OOM_ENGINE)
    config = msgspec.json.decode(_line(), type=IngestConfig)
    log_to(config.name, config.log_level, config.log_file, config.log_max_mb)
    uvloop.run(serve(config))
    # Give the link's own threads a moment, and do not wait for what nobody takes any more.
    time.sleep(LINGER_S)
    os._exit(0)


def _line() -> bytes:
    """The first line of stdin, and no more: the rest is for the loop."""
    found = bytearray()
    while not found.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            break
        found += byte
    return bytes(found)
