"""The JSON lines between the media benchmark and its processes, and what both ends share."""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import aioice.ice
import uvloop

Handler = Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]


def serve(handler: Callable[[], Handler], *, fast_loop: bool) -> None:
    """Answer one JSON line with one until the command `stop`."""
    # Machines without a network have only this address, which aioice leaves out.
    aioice.ice.get_host_addresses = lambda **_: ["127.0.0.1"]
    runner = uvloop.run if fast_loop else asyncio.run
    runner(_serve(handler))


async def _serve(make_handler: Callable[[], Handler]) -> None:
    handler = make_handler()
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        request = json.loads(line)
        answer = await handler(request)
        print(json.dumps(answer), flush=True)
        if request["command"] == "stop":
            return
