"""The data channel of events of one peer: bounded both ways. Owned by Peer, media worker."""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable

from aiortc import InvalidStateError, RTCDataChannel

from signaling.errors import ProtocolError
from signaling.ratelimit import TokenBucket

logger = logging.getLogger(__name__)

LABEL = "oai-events"
"""What OpenAI's documents call it; a channel of this name is preferred."""
MAX_EVENT_BYTES = 256 * 1024
MAX_BUFFERED_BYTES = 1_000_000
MAX_WAITING_EVENTS = 256
MAX_WAITING_BYTES = 256 * 1024
EVENTS_PER_S = 100.0
EVENTS_BURST = 200.0
DEAF_S = 0.5
"""For how long a flood is not listened to at a time."""
REFUSALS_PER_S = 1.0


class EventChannel:
    """Sends events once the client's channel is open, and admits the client's at a bounded rate.

    The first channel that the client opens carries the events, whatever its label, unless one
    called `oai-events` comes. While there is none, also between one that was closed and the next,
    events wait, the newest being dropped when too many do. A second channel is refused and kept
    aside: it takes over when the first is closed, as when a client opens a new one just before.

    Who floods is not heard for `DEAF_S` at a time, rather than one event in ten being taken: what
    was sent together, as an item and the response to it, is nearly always taken or dropped as one.

    `opened` is called for each channel that takes over, before what waited is sent on it;
    `received` gets each admitted message; `refused` at most once a second the error for messages
    that were dropped (too many or too large) or for a channel. Call `tell_dropped` now and then:
    what was dropped within that second is told then.
    """

    def __init__(
        self,
        *,
        opened: Callable[[], None],
        received: Callable[[str], None],
        refused: Callable[[ProtocolError], None],
        clock: Callable[[], float],
    ) -> None:
        self.messages_sent = 0
        self.bytes_sent = 0
        self.messages_received = 0
        self.bytes_received = 0
        self.receives_dropped = 0
        self.is_expected = False
        """Whether the offer has a data channel: only then do events wait for it."""
        self.max_message_bytes = 0
        """What the client takes in one message (RFC 8841 section 6.1); 0: any size."""
        self._opened = opened
        self._received = received
        self._refused = refused
        self._clock = clock
        self._channel: RTCDataChannel | None = None
        self._spare: RTCDataChannel | None = None
        self._waiting: deque[str] = deque()
        self._waiting_bytes = 0
        self._admission = TokenBucket(EVENTS_PER_S, EVENTS_BURST)
        self._deaf_until = float("-inf")
        self._refusals = TokenBucket(REFUSALS_PER_S, 1.0)
        self._untold: tuple[str, str] | None = None
        """Message and code about the last messages that were dropped."""

    @property
    def channel(self) -> RTCDataChannel | None:
        """Carries the events, or did so last."""
        return self._channel

    @property
    def is_open(self) -> bool:
        return self._channel is not None and self._channel.readyState == "open"

    def bind(self, channel: RTCDataChannel) -> None:
        """Take a channel that the client has opened."""
        channel.on("message", lambda message: self._on_message(channel, message))
        channel.on("close", lambda: self._on_close(channel))
        if not self.is_open:
            self._use(channel)
        elif channel.label == LABEL and self._channel is not None and self._channel.label != LABEL:
            other = self._channel
            self._use(channel)
            self._keep_aside(other)
        else:
            self._keep_aside(channel)

    def send(self, text: str) -> bool:
        """Send one event, or let it wait for a channel; return False if it was dropped."""
        size = len(text.encode())
        if self._channel is None or self._channel.readyState != "open":
            return self._wait(text, size)
        if self._channel.bufferedAmount + size > MAX_BUFFERED_BYTES:
            return False
        try:
            self._channel.send(text)
        except (InvalidStateError, ConnectionError, ValueError) as error:
            # Closed meanwhile, or larger than the client takes.
            logger.debug("event not sent: %r", error)
            return False
        self.messages_sent += 1
        self.bytes_sent += size
        return True

    async def close(self, limit_s: float) -> None:
        """Close the channel and wait until the client has, for `limit_s` at most.

        A client whose connection ends under an open channel takes that for a failure.
        """
        channel = self._channel
        if channel is None or channel.readyState != "open":
            return
        closed = asyncio.Event()
        channel.on("close", closed.set)
        channel.close()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await closed.wait()

    def tell_dropped(self) -> None:
        """Say which messages were dropped since that was said last, if it is time to."""
        if self._untold is None or not self._refusals.take(self._clock()):
            return
        (message, code), self._untold = self._untold, None
        dropped = f"{message} {self.receives_dropped} events were dropped in this call."
        self._refused(ProtocolError(dropped, code=code))

    def _use(self, channel: RTCDataChannel) -> None:
        self._channel = channel
        self._opened()
        waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        for text in waiting:
            self.send(text)

    def _keep_aside(self, channel: RTCDataChannel) -> None:
        if self._spare is not None and self._spare.readyState == "open":
            self._spare.close()
        self._spare = channel
        assert self._channel is not None
        told = (
            f'The events of this call go over the data channel "{self._channel.label[:64]}"; '
            f'"{channel.label[:64]}" carries none while that is open.'
        )
        self._refuse(ProtocolError(told, code="channel_refused"))

    def _on_close(self, channel: RTCDataChannel) -> None:
        if channel is self._spare:
            self._spare = None
        elif channel is self._channel and self._spare is not None:
            spare, self._spare = self._spare, None
            if spare.readyState == "open":
                self._use(spare)

    def _wait(self, text: str, size: int) -> bool:
        is_full = (
            len(self._waiting) >= MAX_WAITING_EVENTS
            or self._waiting_bytes + size > MAX_WAITING_BYTES
        )
        if not self.is_expected or is_full:
            return False
        self._waiting.append(text)
        self._waiting_bytes += size
        return True

    def _on_message(self, channel: RTCDataChannel, message: str | bytes) -> None:
        size = len(message.encode()) if isinstance(message, str) else len(message)
        self.messages_received += 1
        self.bytes_received += size
        if not self._is_admitted(self._clock()):
            self._drop_message(f"More than {EVENTS_PER_S:.0f} events per second.", "rate_limited")
        elif size > MAX_EVENT_BYTES:
            self._drop_message(f"An event is limited to {MAX_EVENT_BYTES} bytes.", "too_large")
        elif channel is not self._channel:
            self._drop_message("This data channel carries no events.", "channel_refused")
        else:
            # Some clients send their JSON as binary messages.
            self._received(
                message.decode(errors="replace") if isinstance(message, bytes) else message
            )

    def _is_admitted(self, now: float) -> bool:
        if now < self._deaf_until:
            return False
        if self._admission.take(now):
            return True
        self._deaf_until = now + DEAF_S
        return False

    def _drop_message(self, message: str, code: str) -> None:
        self.receives_dropped += 1
        self._untold = message, code
        self.tell_dropped()

    def _refuse(self, error: ProtocolError) -> None:
        if self._refusals.take(self._clock()):
            self._refused(error)
