"""A media worker's links to engines: dialled when the first call needs one, shared by its calls."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import NamedTuple

from engine.ipc.engine_client import EngineClient, EngineGone
from server.control import EngineAddress

MAX_DEAD = 64
"""An address is of one life of an engine. Only the latest dead can still be assigned to a call."""


class _Link(NamedTuple):
    client: EngineClient
    ready: asyncio.Future[EngineClient]
    """The same, once it is connected."""


class EngineLinks:
    """Owns one `EngineClient` per engine process, each kept alive in the given task group."""

    def __init__(self, name: str, tasks: asyncio.TaskGroup) -> None:
        self._name = name
        self._tasks = tasks
        self._links: dict[str, _Link] = {}
        self._keepers: set[asyncio.Task[None]] = set()
        self._dead: OrderedDict[str, str] = OrderedDict()
        """Endpoints that nobody will ever listen at again, and why."""

    async def get(self, address: EngineAddress) -> EngineClient:
        """The link to an engine. Raises `EngineGone` when it does not answer, or is known to be
        dead: the word of that may come before a call with this address has begun to dial.
        """
        if (reason := self._dead.get(address.endpoint)) is not None:
            raise EngineGone(reason)
        link = self._links.get(address.endpoint)
        if link is None:
            client = EngineClient(address.endpoint, name=self._name)
            link = _Link(client, asyncio.get_running_loop().create_future())
            self._links[address.endpoint] = link
            keeper = self._tasks.create_task(self._keep(link), name=address.name)
            self._keepers.add(keeper)
            keeper.add_done_callback(self._keepers.discard)
        # Several calls may wait for one dialling; a caller that leaves must not stop it.
        return await asyncio.shield(link.ready)

    def lost(self, endpoint: str, reason: str) -> None:
        """The supervisor says this engine process is dead; who still dials it need not wait."""
        self._dead[endpoint] = reason
        while len(self._dead) > MAX_DEAD:
            self._dead.popitem(last=False)
        link = self._links.get(endpoint)
        if link is not None:
            link.client.lost(reason)

    def close(self) -> None:
        for keeper in self._keepers:
            keeper.cancel()

    async def _keep(self, link: _Link) -> None:
        """Dial, then ping until the engine is gone. Raises nothing: that would end the worker."""
        client, told = link
        try:
            try:
                await client.connect()
            except Exception as error:  # noqa: BLE001 - the boundary: those who wait get it
                told.set_exception(error)
                return
            told.set_result(client)
            await client.run()
        finally:
            del self._links[client.endpoint]
            client.close()
            told.cancel()
