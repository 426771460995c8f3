"""Work that is worth nothing once the client is gone. Front."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from signaling.http.bodies import ClientLeft

LOOK_S = 0.1


@asynccontextmanager
async def while_connected(request: web.Request) -> AsyncIterator[None]:
    """Cancel what is done within as soon as the connection has ended; raises ClientLeft then.

    aiohttp lets a handler go on until it writes, which may be long after.
    """
    loop = asyncio.get_running_loop()
    next_look: asyncio.TimerHandle | None = None

    def look() -> None:
        nonlocal next_look
        if request.transport is not None and not request.transport.is_closing():
            next_look = loop.call_later(LOOK_S, look)
        elif not timer.expired():
            timer.reschedule(loop.time())

    try:
        async with asyncio.timeout(None) as timer:
            look()
            try:
                yield
            finally:
                if next_look is not None:
                    next_look.cancel()
    except TimeoutError:
        if timer.expired():
            raise ClientLeft from None
        raise
