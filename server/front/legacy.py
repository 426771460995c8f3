"""What a front leaves to the one that takes its place: by the keeper, which reads none of it."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from server.config import Config
from server.front.processes import KeptProcesses
from server.front.resume_tokens import new_secret
from server.front.socket_folder import SocketFolder
from server.keeper.keeper import Inheritance


class Legacy:
    """Each of these is what the front before had, or is made and left to the next one."""

    def __init__(self, kept: KeptProcesses) -> None:
        self._kept = kept

    def listening(self, listen: Callable[[], socket.socket]) -> socket.socket:
        """The socket that clients connect to; who comes meanwhile waits in its queue."""
        file = self._kept.file("listening")
        if file is not None:
            return socket.socket(fileno=file)
        made = listen()
        self._kept.remember("listening", b"", made.fileno())
        return made

    def folder(self) -> SocketFolder:
        """Where the sockets between our processes are; locked as long as the keeper lives."""
        left = self._kept.memory("folder")
        return SocketFolder(
            None if left is None else Path(left.decode()),
            self._kept.file("folder"),
            on_lock=lambda path, lock: self._kept.remember("folder", str(path).encode(), lock),
        )

    def key(self) -> str:
        """The key that was made because none was configured."""
        return self._remembered("key", lambda: secrets.token_urlsafe(24).encode()).decode()

    def leave(self, config: Config) -> None:
        """For `config_of`, with the number of media workers that was come to."""
        self._kept.remember("config", msgspec.msgpack.encode(config))

    def resume_secret(self) -> bytes:
        """What resume tokens are made with."""
        return self._remembered("resume secret", new_secret)

    def _remembered(self, name: str, make: Callable[[], bytes]) -> bytes:
        found = self._kept.memory(name)
        if found is None:
            found = make()
            self._kept.remember(name, found)
        return found


def config_of(found: Inheritance) -> Config | None:
    """What the first front was configured with; None in that one.

    The next ones ask neither file nor environment: someone may be editing the one, and children
    run that were started as the other said.
    """
    left = found.memories.get("config")
    return None if left is None else msgspec.msgpack.decode(left, type=Config)
