"""A media worker's links to engines: dialled when the first call needs one, shared by its calls."""

from __future__ import annotations

import asyncio

from engine.client import EngineClient
from server.control import EngineAddress


class EngineLinks:
    """Owns one `EngineClient` per engine process, each kept alive in the given task group."""

    def __init__(self, name: str, tasks: asyncio.TaskGroup) -> None:
        self._name = name
        self._tasks = tasks
        self._clients: dict[str, asyncio.Task[EngineClient]] = {}

    async def get(self, address: EngineAddress) -> EngineClient:
        """The link to an engine. Raises `engine.client.EngineGone` when it does not answer."""
        task = self._clients.get(address.endpoint)
        if task is None:
            task = self._tasks.create_task(self._dial(address), name=f"dial {address.name}")
            self._clients[address.endpoint] = task
        # Several calls may wait for one dialling; a caller that leaves must not stop it.
        return await asyncio.shield(task)

    def lost(self, endpoint: str, reason: str) -> None:
        """The supervisor says this engine process is dead."""
        task = self._clients.get(endpoint)
        if task is not None and task.done() and not task.cancelled() and not task.exception():
            task.result().lost(reason)

    def close(self) -> None:
        for task in self._clients.values():
            if task.done() and not task.cancelled() and not task.exception():
                task.result().close()
            task.cancel()

    async def _dial(self, address: EngineAddress) -> EngineClient:
        client = EngineClient(address.endpoint, name=self._name)
        try:
            await client.connect()
        except BaseException:
            self._clients.pop(address.endpoint, None)
            client.close()
            raise
        self._tasks.create_task(self._keep(client), name=f"link {address.name}")
        return client

    async def _keep(self, client: EngineClient) -> None:
        await client.run()
        self._clients.pop(client.endpoint, None)
