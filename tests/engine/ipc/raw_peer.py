"""A ZeroMQ end that speaks bytes: for what `transport` must never send, and to see what it does.

Blocking calls would stop the event loop that the other end runs on, so everything polls.
"""

from __future__ import annotations

from types import TracebackType

import zmq

from engine.ipc.protocol import VERSION, Hello, Message
from engine.ipc.transport import encode
from tests.waiting import until


class RawPeer:
    """A DEALER that dials, or a ROUTER that listens, without any manners."""

    def __init__(self, kind: int, endpoint: str, *, receive_limit: int = 1000) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.RCVHWM, receive_limit)
        self._socket.setsockopt(zmq.SNDHWM, 100_000)
        if kind == zmq.ROUTER:
            self._socket.bind(endpoint)
        else:
            self._socket.connect(endpoint)

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def send(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames, zmq.NOBLOCK)

    def say(self, message: Message) -> None:
        self.send(encode(message))

    def hello(self, version: int = VERSION) -> None:
        self.say(Hello(version, "raw"))

    async def receive(self) -> list[bytes]:
        """The frames of the next message."""
        got: list[list[bytes]] = []

        def poll() -> bool:
            try:
                got.append(self._socket.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                return False
            return True

        await until(poll)
        return got[0]


def dealer(endpoint: str, *, receive_limit: int = 1000) -> RawPeer:
    return RawPeer(zmq.DEALER, endpoint, receive_limit=receive_limit)


def router(endpoint: str, *, receive_limit: int = 1000) -> RawPeer:
    return RawPeer(zmq.ROUTER, endpoint, receive_limit=receive_limit)
