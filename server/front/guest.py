"""Guest: one accepted HTTP connection, and how long it may take for what it is doing.

The clock is one that leaves out this process's own standstills (`signaling.awake`).
aiohttp's protocol stands behind it; only asyncio's public protocol methods pass through here.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Literal, cast

HEAD_S = 10.0
"""From the connection, or the first byte of a later request, to the end of its headers; with TLS
the handshake is within it.
"""
IDLE_S = 75.0
"""Without a request; longer than reverse proxies keep theirs."""
LINGER_S = 2.0
LINGER_BYTES = 256 * 1024
"""Bytes of a refused body that are still read, so that the client gets to read why."""
BLOCKED_S = 20.0
"""A client that reads nothing of its answer for so long is left."""

Phase = Literal["head", "serving", "idle", "leaving"]
LONGEST_S: dict[Phase, float] = {"head": HEAD_S, "idle": IDLE_S, "leaving": LINGER_S}


class Guest(asyncio.Protocol):
    """Owns the connection's phase; `HttpAcceptor` decides when it has to go."""

    def __init__(
        self,
        sock: socket.socket,
        host: str,
        make_inner: Callable[[], asyncio.Protocol],
        on_phase: Callable[[Guest], None],
        on_lost: Callable[[Guest], None],
        clock: Callable[[], float],
    ) -> None:
        self.host = host
        """Whose it is: an address, or an IPv6 network."""
        self.phase: Phase = "head"
        self.since = clock()
        self.transport: asyncio.Transport | None = None
        self.inner: asyncio.Protocol | None = None
        self._sock = sock
        self._make_inner = make_inner
        self._on_phase = on_phase
        self._on_lost = on_lost
        self._clock = clock
        self._blocked_at: float | None = None
        self._surplus_bytes = 0

    @property
    def is_half_open(self) -> bool:
        """No request is being served: ending the connection loses nothing."""
        return self.phase != "serving"

    def serve(self) -> None:
        """A whole request is there."""
        self._enter("serving")

    def answered(self, *, is_body_unread: bool) -> None:
        """Nothing more is done for its request but sending the answer."""
        self._enter("leaving" if is_body_unread else "idle")

    def is_overdue(self) -> bool:
        now = self._clock()
        if self._blocked_at is not None and now - self._blocked_at > BLOCKED_S:
            return True
        longest_s = LONGEST_S.get(self.phase)
        return longest_s is not None and now - self.since > longest_s

    def dismiss(self) -> None:
        """End the connection at once, whatever is still to be sent."""
        if self.transport is not None:
            self.transport.abort()
            return
        try:
            # Within the TLS handshake, whose transport is not ours yet.
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def _enter(self, phase: Phase) -> None:
        self.phase, self.since = phase, self._clock()
        self._on_phase(self)

    # ------------------------------------------------------------------ asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are no subclass of it.
        self.transport = cast(asyncio.Transport, transport)
        self.inner = self._make_inner()
        self.inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        assert self.inner is not None and self.transport is not None
        if self.phase == "idle":
            self._enter("head")
        elif self.phase == "leaving":
            self._surplus_bytes += len(data)
            if self._surplus_bytes > LINGER_BYTES:
                self.transport.abort()
                return
        self.inner.data_received(data)

    def eof_received(self) -> bool | None:
        assert self.inner is not None
        return self.inner.eof_received()

    def pause_writing(self) -> None:
        assert self.inner is not None
        self._blocked_at = self._clock()
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        assert self.inner is not None
        self._blocked_at = None
        self.inner.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        assert self.inner is not None
        self.inner.connection_lost(error)
        self._on_lost(self)
