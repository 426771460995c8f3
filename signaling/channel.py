"""The data channel `oai-events` of one peer: bounded both ways. Owned by Peer, media worker."""

import logging
from collections import deque
from collections.abc import Callable

from aiortc import InvalidStateError, RTCDataChannel

from signaling.errors import ProtocolError
from signaling.ratelimit import TokenBucket

logger = logging.getLogger(__name__)

LABEL = "oai-events"
MAX_EVENT_BYTES = 256 * 1024
MAX_BUFFERED_BYTES = 1_000_000
MAX_WAITING_EVENTS = 256
MAX_WAITING_BYTES = 256 * 1024
EVENTS_PER_S = 100.0
EVENTS_BURST = 200.0
REFUSALS_PER_S = 1.0


class EventChannel:
    """Sends events once the client's channel is open, and admits the client's at a bounded rate.

    `received` gets each admitted message; `refused` at most once a second the error for messages
    that were dropped: too many, too large, or binary.
    """

    def __init__(
        self,
        *,
        received: Callable[[str], None],
        refused: Callable[[ProtocolError], None],
        clock: Callable[[], float],
    ) -> None:
        self.messages_sent = 0
        self.bytes_sent = 0
        self.messages_received = 0
        self.bytes_received = 0
        self.sends_dropped = 0
        self.receives_dropped = 0
        self.is_expected = False
        """Whether the offer has a data channel: only then do events wait for it."""
        self._received = received
        self._refused = refused
        self._clock = clock
        self._channel: RTCDataChannel | None = None
        self._waiting: deque[str] = deque()
        self._waiting_bytes = 0
        self._admission = TokenBucket(EVENTS_PER_S, EVENTS_BURST)
        self._refusals = TokenBucket(REFUSALS_PER_S, 1.0)

    @property
    def channel(self) -> RTCDataChannel | None:
        return self._channel

    @property
    def is_open(self) -> bool:
        return self._channel is not None and self._channel.readyState == "open"

    def bind(self, channel: RTCDataChannel) -> bool:
        """Take the client's channel; return False for any but the first `oai-events`."""
        if channel.label != LABEL or self._channel is not None:
            return False
        self._channel = channel
        channel.on("message", self._on_message)
        return True

    def release_waiting(self) -> None:
        """Send what waited for the channel to open, in order."""
        while self._waiting:
            self.send(self._waiting.popleft())
        self._waiting_bytes = 0

    def send(self, text: str) -> bool:
        """Send one event, or let it wait for the channel; return False if it was dropped."""
        size = len(text.encode())
        if self._channel is None:
            return self._wait(text, size)
        if self._channel.bufferedAmount + size > MAX_BUFFERED_BYTES:
            return self._drop()
        try:
            self._channel.send(text)
        except (InvalidStateError, ConnectionError, ValueError) as error:
            # Closed meanwhile, or larger than the client's a=max-message-size.
            logger.debug("event not sent: %r", error)
            return self._drop()
        self.messages_sent += 1
        self.bytes_sent += size
        return True

    def _wait(self, text: str, size: int) -> bool:
        is_full = (
            len(self._waiting) >= MAX_WAITING_EVENTS
            or self._waiting_bytes + size > MAX_WAITING_BYTES
        )
        if not self.is_expected or is_full:
            return self._drop()
        self._waiting.append(text)
        self._waiting_bytes += size
        return True

    def _drop(self) -> bool:
        self.sends_dropped += 1
        return False

    def _on_message(self, message: str | bytes) -> None:
        size = len(message.encode()) if isinstance(message, str) else len(message)
        self.messages_received += 1
        self.bytes_received += size
        now = self._clock()
        if not self._admission.take(now):
            self._refuse(now, f"More than {EVENTS_PER_S:.0f} events per second.", "rate_limited")
        elif size > MAX_EVENT_BYTES:
            self._refuse(now, f"An event is limited to {MAX_EVENT_BYTES} bytes.", "too_large")
        elif not isinstance(message, str):
            self._refuse(now, "Events are JSON text, not binary messages.", "invalid_event")
        else:
            self._received(message)

    def _refuse(self, now: float, message: str, code: str) -> None:
        self.receives_dropped += 1
        if self._refusals.take(now):
            dropped = f" {self.receives_dropped} events were dropped in this call."
            self._refused(ProtocolError(message + dropped, code=code))
