"""A WebSocket whose handshake is done elsewhere (RFC 6455), bounded both ways. Media worker.

The frames are those of the `websockets` package, which does no input and output by itself.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, cast

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from signaling.awake import AwakeClock

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 21 * 1024 * 1024
"""15 MiB of sound, as OpenAI allows in one message, in base64."""
BYTES_PER_S = 2 * 1024 * 1024
BYTES_BURST = 24 * 1024 * 1024
MESSAGE_BYTES = 12 * 1024
"""What a message costs apart from its bytes: 170 a second, 2000 at once."""
MAX_AT_ONCE = 16
"""Messages that are handled before others get their turn."""
MAX_UNSENT_BYTES = 4 * 1024 * 1024
"""Of a client that does not read; a minute of sound."""
PING_S = 20.0
SILENT_S = 60.0
"""Without a byte for so long, pings notwithstanding, the client is gone."""
CLOSE_S = 2.0

Received = Callable[[str], None]


class WebSocketLink(asyncio.Protocol):
    """One connection. Who sends faster than `BYTES_PER_S` is read more slowly; nothing is dropped.

    `gone(reason)` is called once: "closed" (by the client), "vanished", "too_slow" (it does not
    read), "malformed" (no WebSocket frames), or what was given to `close`.
    """

    def __init__(
        self,
        head: bytes,
        *,
        received: Received,
        gone: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`head`: the response to the handshake, which is sent first."""
        self.messages_received = 0
        self.bytes_received = 0
        self.messages_sent = 0
        self.bytes_sent = 0
        self._head = head
        self._received = received
        self._gone = gone
        self._clock = clock
        self._frames = Protocol(Side.SERVER, state=OPEN, max_size=MAX_MESSAGE_BYTES)
        self._transport: asyncio.Transport | None = None
        self._waiting: deque[str] = deque()
        self._fragments: list[bytes] = []
        self._credit = float(BYTES_BURST)
        self._credit_at = clock()
        self._awake = AwakeClock(PING_S, clock)
        self._heard_at = self._awake()
        self._ping: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._gone_reason: str | None = None
        self._lost = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self._transport is not None and self._gone_reason is None

    @property
    def unsent_bytes(self) -> int:
        """What the client has not taken yet, beyond what the system holds."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def silent_s(self) -> float:
        """For how long not a byte has come, while it is read; who runs answers pings."""
        return 0.0 if self._is_paused else self._awake() - self._heard_at

    def probe(self) -> None:
        """Ask for a sign of life."""
        if self.is_open and self._frames.state is OPEN:
            self._frames.send_ping(b"")
            self._flush()

    def stats(self) -> dict[str, Any]:
        """What went over it, by the names of a data channel's statistics."""
        return {
            "type": "data-channel",
            "protocol": "websocket",
            "state": "open" if self.is_open else "closed",
            "messagesSent": self.messages_sent,
            "bytesSent": self.bytes_sent,
            "messagesReceived": self.messages_received,
            "bytesReceived": self.bytes_received,
        }

    def send(self, text: str) -> bool:
        """Send one message; return False if the connection is over."""
        if not self.is_open or self._frames.state is not OPEN:
            return False
        assert self._transport is not None
        data = text.encode()
        self._frames.send_text(data)
        self._flush()
        self.messages_sent += 1
        self.bytes_sent += len(data)
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            self._end("too_slow")
            self._transport.abort()
            return False
        return True

    async def close(self, code: int, reason: str = "") -> None:
        """Say goodbye and end the connection, within about `CLOSE_S`. Idempotent."""
        if self._transport is None:
            return
        self._end(reason or "closed")
        if self._frames.state is OPEN:
            self._frames.send_close(code, reason)
            self._flush()
        try:
            async with asyncio.timeout(CLOSE_S):
                await self._lost.wait()
        except TimeoutError:
            self._transport.abort()

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of it.
        self._transport = cast(asyncio.Transport, transport)
        self._write(self._head)
        self._schedule_ping()

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._awake()
        self._frames.receive_data(data)
        for event in self._frames.events_received():
            if isinstance(event, Frame):
                self._take(event)
        self._flush()
        self._hand_on()

    def eof_received(self) -> bool:
        self._end("closed" if self._is_told_closed else "vanished")
        self._frames.receive_eof()
        self._flush()
        return False

    def connection_lost(self, error: Exception | None) -> None:
        if self._ping is not None:
            self._ping.cancel()
        self._lost.set()
        self._end("closed" if self._is_told_closed else "vanished")

    # ------------------------------------------------------------------ within

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self._end("closed")
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            self._fragments.append(bytes(frame.data))
            if frame.fin:
                message, self._fragments = b"".join(self._fragments), []
                self.messages_received += 1
                self.bytes_received += len(message)
                self._waiting.append(message.decode(errors="replace"))

    def _hand_on(self) -> None:
        """Handle what waits as far as the budget allows; read on once nothing waits."""
        for _ in range(MAX_AT_ONCE):
            if not self._waiting or self._gone_reason is not None:
                break
            now = self._clock()
            earned = (now - self._credit_at) * BYTES_PER_S
            self._credit = min(float(BYTES_BURST), self._credit + earned)
            self._credit_at = now
            if self._credit < 0:
                break
            text = self._waiting.popleft()
            self._credit -= len(text) + MESSAGE_BYTES
            self._pass(text)
        if self._gone_reason is not None:
            self._waiting.clear()
        if self._waiting:
            self._pause(True)
            pause_s = max(0.0, -self._credit / BYTES_PER_S)
            asyncio.get_running_loop().call_later(pause_s, self._hand_on)
        else:
            self._pause(False)

    def _pass(self, text: str) -> None:
        try:
            self._received(text)
        except Exception:
            logger.exception("a message could not be handled")
            self._end("internal_error")

    def _pause(self, is_paused: bool) -> None:
        if self._transport is None or is_paused == self._is_paused or self._transport.is_closing():
            return
        self._is_paused = is_paused
        (self._transport.pause_reading if is_paused else self._transport.resume_reading)()

    def _flush(self) -> None:
        assert self._transport is not None
        for data in self._frames.data_to_send():
            if data:
                self._write(data)
            else:
                # Both sides have said goodbye, or the frames are none.
                self._end("closed" if self._is_told_closed else "malformed")
                self._transport.close()

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        # uvloop raises at a transport that has failed, of which `connection_lost` tells later.
        if not self._transport.is_closing():
            self._transport.write(data)

    @property
    def _is_told_closed(self) -> bool:
        return self._frames.close_rcvd is not None

    def _schedule_ping(self) -> None:
        self._ping = asyncio.get_running_loop().call_later(PING_S, self._check)

    def _check(self) -> None:
        if self._transport is None or self._lost.is_set():
            return
        if self._awake() - self._heard_at > SILENT_S and not self._is_paused:
            self._end("vanished")
            self._transport.abort()
            return
        if self._frames.state is OPEN:
            self._frames.send_ping(b"")
            self._flush()
        self._schedule_ping()

    def _end(self, reason: str) -> None:
        if self._gone_reason is None:
            self._gone_reason = reason
            self._gone(reason)
