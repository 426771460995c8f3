"""ZeroMQ links: a `Listener` many peers dial, a `Dialer` with one far end.

Both carry tagged msgspec structs, a dialer also several in one, as an array: each message of its
own costs the far end far more than what is in it. A dialer's first message is `Hello`; a listener
answers anything else, another version or bytes it cannot decode with `Refused` and forgets the
peer. Nothing here waits: a send that would exceed the high-water mark is refused.

The sockets are driven straight from the event loop by their file descriptor. It is edge triggered
(ZeroMQ: ZMQ_FD), so every wake-up drains, and every send looks once for messages that came with it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import msgspec
import zmq
from msgspec import Meta
from zmq.utils.monitor import parse_monitor_message

from engine.ipc.patience import Patience
from engine.ipc.protocol import MAX_MESSAGE_BYTES, VERSION, Hello, Message, Refused

log = logging.getLogger(__name__)

In = TypeVar("In")

HIGH_WATER_MESSAGES = 2_000
MESSAGES_PER_WAKEUP = 200
GATHER_S = 0.01
"""For so long `Dialer.gather` waits for more."""
MAX_GATHERED = 64
CLOSED = "the far end closed the link"
"""Why a dialer lost its far end, unless that refused it."""
READABLE = int(zmq.POLLIN)
"""As a number: with the flag itself each question makes a new one."""

encode = msgspec.msgpack.Encoder().encode

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that are no message: also for text that is not UTF-8, and nesting
too deep."""


class _Pump:
    """Calls `handle(frames)` for each message of a socket, on the running loop, until closed."""

    def __init__(self, socket: zmq.Socket[bytes], handle: Callable[[list[bytes]], None]) -> None:
        self._socket = socket
        self._handle = handle
        self._loop = asyncio.get_running_loop()
        self._fd: int = socket.FD
        self._scheduled = False
        self._closed = False
        self._loop.add_reader(self._fd, self._drain)
        self.kick()

    def kick(self) -> None:
        """Drain soon; needed after a send, which may have eaten the descriptor's edge."""
        if not self._scheduled and not self._closed:
            self._scheduled = True
            self._loop.call_soon(self._drain)

    def _drain(self) -> None:
        self._scheduled = False
        try:
            for _ in range(MESSAGES_PER_WAKEUP):
                # Asking costs a tenth of the exception that an empty socket raises.
                if self._closed or not int(self._socket.get(zmq.EVENTS)) & READABLE:
                    return
                self._handle(self._socket.recv_multipart(zmq.NOBLOCK))
        except BaseException:
            self.kick()
            raise
        self.kick()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._loop.remove_reader(self._fd)


def _bounded(socket: zmq.Socket[bytes]) -> None:
    socket.setsockopt(zmq.LINGER, 200)
    socket.setsockopt(zmq.SNDHWM, HIGH_WATER_MESSAGES)
    socket.setsockopt(zmq.RCVHWM, HIGH_WATER_MESSAGES)
    socket.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)


def _is_ours(folder: Path) -> bool:
    """Return whether only this user can create sockets there."""
    try:
        found = folder.lstat()
    except FileNotFoundError:
        return False
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022


class Listener(Generic[In]):
    """Owns a bound ROUTER socket and the table of peers that said `Hello`.

    Raises `zmq.ZMQError` from the constructor when the endpoint cannot be bound.
    """

    def __init__(
        self,
        endpoint: str,
        inbound: Any,
        *,
        on_message: Callable[[bytes, In], None],
        on_peer: Callable[[bytes, Hello], None] = lambda peer, hello: None,
        context: zmq.Context[Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        silence_limit_s: float = math.inf,
    ) -> None:
        several = Annotated[list[inbound], Meta(min_length=1, max_length=MAX_GATHERED)]
        self._decoder = msgspec.msgpack.Decoder(inbound | several)
        self._on_message = on_message
        self._on_peer = on_peer
        self._silence_limit_s = silence_limit_s
        self._clock = clock
        self._socket: zmq.Socket[bytes] = (context or zmq.Context.instance()).socket(zmq.ROUTER)
        _bounded(self._socket)
        # Without it a full or vanished peer's messages would disappear unnoticed.
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.bind(endpoint)
        self.endpoint: str = self._socket.getsockopt_string(zmq.LAST_ENDPOINT)
        self._peers: dict[bytes, Patience] = {}
        self.refused = 0
        self._pump = _Pump(self._socket, self._receive)

    @property
    def peers(self) -> tuple[bytes, ...]:
        return tuple(self._peers)

    def send(self, peer: bytes, message: Message) -> bool:
        """Queue `message`; False when the peer is gone or does not keep up."""
        try:
            self._socket.send_multipart((peer, encode(message)), zmq.NOBLOCK)
        except zmq.ZMQError as error:
            if error.errno not in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                raise
            return False
        self._pump.kick()
        return True

    def silent_peers(self) -> list[bytes]:
        """Peers that sent nothing for `silence_limit_s`; asked for once in `patience.TICK_S`."""
        return [peer for peer, patience in self._peers.items() if patience.check()]

    def mend(self) -> bool:
        """Bind again where the socket's file was deleted; whether that was done now.

        Peers that are connected notice nothing. Raises `zmq.ZMQError` when it cannot be bound.
        """
        path = self.endpoint.removeprefix("ipc://")
        if not path.startswith("/") or os.path.exists(path) or not _is_ours(Path(path).parent):
            return False
        self._socket.bind(self.endpoint)
        log.warning("the socket %s was deleted; it was created again", path)
        return True

    def forget(self, peer: bytes) -> None:
        """Treat the peer as unknown: its next message must be a `Hello`."""
        self._peers.pop(peer, None)

    def close(self) -> None:
        self._pump.close()
        self._socket.close()

    def _receive(self, frames: list[bytes]) -> None:
        peer, payload = frames[0], frames[-1]
        try:
            if len(frames) != 2:
                raise msgspec.DecodeError(f"expected 2 frames, got {len(frames)}")
            patience = self._peers.get(peer)
            if patience is None:
                self._admit(peer, payload)
                return
            message = self._decoder.decode(payload)
        except UNREADABLE as error:
            self._refuse(peer, Refused("malformed", str(error)))
            return
        patience.sign()
        for each in message if isinstance(message, list) else (message,):
            if peer in self._peers:
                self._on_message(peer, each)

    def _admit(self, peer: bytes, payload: bytes) -> None:
        try:
            hello = msgspec.msgpack.decode(payload, type=Hello)
        except UNREADABLE as error:
            self._refuse(
                peer, Refused("hello_expected", f"the first message must be Hello: {error}")
            )
            return
        if hello.version != VERSION:
            reason = f"protocol version {hello.version} is not ours, {VERSION}"
            self._refuse(peer, Refused("version", reason))
            return
        self._peers[peer] = Patience(self._silence_limit_s, clock=self._clock)
        self._on_peer(peer, hello)

    def _refuse(self, peer: bytes, refusal: Refused) -> None:
        self.refused += 1
        log.warning("refused a peer of %s: %s", self.endpoint, refusal.reason)
        self.send(peer, refusal)
        self.forget(peer)


class Dialer(Generic[In]):
    """Owns a DEALER socket with one far end; says `Hello` at once.

    `on_lost(reason)` is called at most once: when the far end closes the connection, refuses us,
    or sends what cannot be decoded. The owner then closes the dialer; it never reconnects by
    itself, because a new process at the same address knows nothing of the old one's sessions.
    """

    def __init__(
        self,
        endpoint: str,
        inbound: Any,
        *,
        name: str,
        on_message: Callable[[In], None],
        on_lost: Callable[[str], None],
        context: zmq.Context[Any] | None = None,
    ) -> None:
        self.endpoint = endpoint
        self._decoder = msgspec.msgpack.Decoder(inbound)
        self._refusal = msgspec.msgpack.Decoder(Refused)
        self._on_message = on_message
        self._on_lost: Callable[[str], None] | None = on_lost
        context = context or zmq.Context.instance()
        self._socket: zmq.Socket[bytes] = context.socket(zmq.DEALER)
        _bounded(self._socket)
        self._gathered: list[Message] = []
        self._timer: asyncio.TimerHandle | None = None
        monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._monitor_pump = _Pump(monitor, self._monitored)
        self._socket.connect(endpoint)
        self._pump = _Pump(self._socket, self._receive)
        self.send(Hello(VERSION, name))

    def send(self, message: Message) -> bool:
        """Queue `message` behind what was gathered; False when the far end does not keep up."""
        self.flush()
        return self._put(message)

    def gather(self, message: Message) -> None:
        """Queue `message` with others that come within `GATHER_S`.

        For sound and reports: nobody is told what is refused. It takes a queue of thousands of
        messages that nobody reads, and whoever does not read them is soon found silent.
        """
        self._gathered.append(message)
        if len(self._gathered) >= MAX_GATHERED:
            self.flush()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self.flush)

    def flush(self) -> None:
        """Queue what was gathered now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._put(gathered if len(gathered) > 1 else gathered[0])

    def _put(self, content: Message | list[Message]) -> bool:
        payload = encode(content)
        try:
            # What has less than 64 KiB is copied all the same.
            self._socket.send(payload, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        self._pump.kick()
        return True

    def close(self) -> None:
        self._on_lost = None
        if self._socket.closed:
            return
        self.flush()
        self._pump.close()
        self._monitor_pump.close()
        self._socket.disable_monitor()
        self._socket.close()

    def _lost(self, reason: str) -> None:
        callback, self._on_lost = self._on_lost, None
        if callback is not None:
            callback(reason)

    def _monitored(self, frames: list[bytes]) -> None:
        if parse_monitor_message(frames)["event"] == zmq.EVENT_DISCONNECTED:
            self._lost(CLOSED)

    def _receive(self, frames: list[bytes]) -> None:
        payload = frames[-1]
        try:
            message = self._decoder.decode(payload)
        except UNREADABLE as error:
            self._lost(self._explain(payload, error))
            return
        if isinstance(message, Refused):
            self._lost(f"refused: {message.reason}")
            return
        self._on_message(message)

    def _explain(self, payload: bytes, error: Exception) -> str:
        try:
            return f"refused: {self._refusal.decode(payload).reason}"
        except UNREADABLE:
            return f"unreadable message from the far end: {error}"
