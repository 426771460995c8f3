"""Peer: the life of one RTCPeerConnection. Says what happens, carries no sound. Media worker.

Of aiortc (pinned to 1.16.0) two private names are used, RTCRtpReceiver._handle_rtp_packet, hooked
on the instance, and RTCRtpTransceiver._codecs, to which RED is added; two of its constants are
replaced. tests/signaling/ fails when that stops working.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from aiortc import (
    MediaStreamTrack,
    RTCDataChannel,
    RTCPeerConnection,
    RTCRtpReceiver,
    RTCRtpSender,
    RTCSessionDescription,
)
from aiortc import rtp as aiortc_rtp
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtpPacket

from signaling.answer import finish_answer
from signaling.awake import AwakeClock
from signaling.channel import EventChannel
from signaling.errors import ProtocolError
from signaling.fragment import parse_fragment, write_fragment
from signaling.ice import IceSettings, configuration
from signaling.inbound import prepare_certificate
from signaling.liveness import CONNECT_DEADLINE_S, SILENCE_S, TICK_S, Liveness
from signaling.offer import OpusWishes, codecs, opus_wishes, parameter_sets
from signaling.peerstats import Report, collect
from signaling.prepared import PreparedOffer, max_message_bytes, prepare_offer
from signaling.ratelimit import TokenBucket
from signaling.sdp import Section, invalid
from signaling.wire import Wire

logger = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 10.0
CLOSE_TIMEOUT_S = 3.0
CHANNEL_CLOSE_S = 0.3
DELIVERY_TICK_S = 0.02
ICE_UPDATES_PER_S = 4.0
ICE_UPDATES_BURST = 64.0
ICE_RESTARTS_PER_S = 0.2
ICE_RESTARTS_BURST = 5.0
"""Each lets the client name 64 more addresses, to which checks are then sent."""
OUT_OF_REACH = frozenset({"closed", "vanished", "connect_timeout", "failed", "no_answer"})
"""Reasons after which nothing can be sent any more."""

# aiortc renumbers what is below 96 and refuses five numbers. A payload type is what its offer says
# (RFC 3264 section 6.1); `signaling.offer` leaves out those that cannot work.
aiortc_rtp.DYNAMIC_PAYLOAD_TYPES = range(128)
aiortc_rtp.FORBIDDEN_PAYLOAD_TYPES = range(0)

OnReceivers = Callable[[RTCRtpReceiver | None, RTCRtpReceiver | None], None]


async def _ignore_packet(packet: RtpPacket, arrival_time_ms: int) -> None:
    """Take the place of RTCRtpReceiver._handle_rtp_packet where nobody wants the media."""


@contextmanager
def _refusing() -> Iterator[None]:
    """Turn what aiortc makes of an offer into a refusal; what the system lacks stays as it is."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        logger.warning("an offer could not be negotiated: %s", type(error).__name__)
        logger.debug("how it failed", exc_info=True)
        raise invalid("The offer cannot be answered: its m-lines contradict each other.") from error


def _redundant(section: Section) -> list[RTCRtpCodecParameters]:
    """Packets that repeat earlier Opus (RFC 2198), as aiortc would list them."""
    return [
        RTCRtpCodecParameters(
            "audio/red",
            clockRate=48_000,
            channels=2,
            payloadType=int(codec.payload_type),
        )
        for codec in codecs(section)
        if codec.name == "red"
    ]


class PeerListener(Protocol):
    """What a peer tells its session, on the loop, never while it is being called itself."""

    def connected(self) -> None:
        """ICE and DTLS are done; media can flow."""

    def channel_open(self) -> None:
        """A data channel for the events is open; what waited for it is sent next.

        Said again for each channel that takes the place of another within the call.
        """

    def message(self, text: str) -> None:
        """The client sent an event (unparsed)."""

    def refused(self, error: ProtocolError) -> None:
        """Events of the client were dropped; called at most once a second."""

    def silent(self, silent_s: float) -> None:
        """For how long nothing was heard of the client; said each TICK_S while it is connected."""

    def gone(self, reason: str) -> None:
        """The peer is over, said exactly once.

        "closed" (by the client), "vanished", "connect_timeout", "failed" (ICE or DTLS),
        "flooded" (its control traffic cost too much), "internal_error", or what was given to
        close(). Unless it came from close(), close() must still be called; unless it
        is one of OUT_OF_REACH, the client can be told until then.
        """


class Peer:
    """One peer connection from its offer to its end. Use from one event loop only."""

    def __init__(
        self,
        call_id: str,
        settings: IceSettings,
        listener: PeerListener,
        *,
        clock: Callable[[], float] = time.monotonic,
        connect_deadline_s: float = CONNECT_DEADLINE_S,
        silence_s: float = SILENCE_S,
    ) -> None:
        """`silence_s`: after so much silence the client has vanished."""
        self.call_id = call_id
        self.audio_receiver: RTCRtpReceiver | None = None
        """Receives the first audio m-line on which the client sends; None if there is none."""
        self.video_receiver: RTCRtpReceiver | None = None
        self.parameter_sets: dict[int, tuple[bytes, ...]] = {}
        """H.264 parameter sets that the offer brings for the video, by payload type."""
        self.opus_wishes = OpusWishes()
        self.channel = EventChannel(
            opened=self._channel_opened,
            received=self._message,
            refused=self._refused,
            clock=clock,
        )
        self._settings = settings
        self._listener = listener
        self._clock = clock
        self._awake = AwakeClock(TICK_S, clock)
        self._connect_deadline_s = connect_deadline_s
        self._silence_s = silence_s
        self._liveness: Liveness | None = None
        self._ice_updates = TokenBucket(ICE_UPDATES_PER_S, ICE_UPDATES_BURST)
        self._ice_restarts = TokenBucket(ICE_RESTARTS_PER_S, ICE_RESTARTS_BURST)
        self._pc: RTCPeerConnection | None = None
        self._wire: Wire | None = None
        self._downlink: MediaStreamTrack | None = None
        self._sender: RTCRtpSender | None = None
        self._watch: asyncio.Task[None] | None = None
        self._is_connected = False
        self._gone_reason: str | None = None
        self._is_closing = False
        self._closed = asyncio.Event()

    @property
    def audio_sender(self) -> RTCRtpSender | None:
        """Sends the downlink, once the offer is answered; None if the client takes no sound."""
        return self._sender

    @property
    def is_connected(self) -> bool:
        return self._is_connected and self._gone_reason is None

    @property
    def is_reachable(self) -> bool:
        """Whether events may still arrive: also between the end of a call and its close()."""
        return self._is_connected and self._gone_reason not in OUT_OF_REACH

    async def answer(
        self,
        offer_sdp: str,
        *,
        downlink: MediaStreamTrack,
        on_receivers: OnReceivers | None = None,
    ) -> str:
        """Answer the client's offer; called once. The connect deadline starts here.

        `downlink` is sent if the client receives audio, and stopped with the peer in any case.
        `on_receivers(audio, video)` runs before any media can arrive: there the uplinks replace
        `receiver._handle_rtp_packet`. Packets of a receiver left without such a hook are ignored,
        for nothing would empty aiortc's unbounded queues behind it.

        Raises ProtocolError as signaling.offer.check_offer does, OSError when no UDP port can be
        bound, TimeoutError after ANSWER_TIMEOUT_S. After an error the peer is closed.
        """
        if self._pc is not None or self._is_closing:
            raise RuntimeError("answer() is called once, before close()")
        self._downlink = downlink
        try:
            prepared = prepare_offer(offer_sdp)
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await self._negotiate(prepared, downlink, on_receivers)
        except BaseException:
            await self.close("no_answer")
            raise

    async def _negotiate(
        self,
        offer: PreparedOffer,
        downlink: MediaStreamTrack,
        on_receivers: OnReceivers | None,
    ) -> str:
        pc = self._pc = RTCPeerConnection(configuration())
        prepare_certificate(pc)
        pc.on("connectionstatechange", self._on_state)
        pc.on("datachannel", self._on_datachannel)
        with _refusing():
            await pc.setRemoteDescription(RTCSessionDescription(sdp=offer.text, type="offer"))
        self._wire = Wire(pc, self._settings, self._clock, exceeded=lambda: self._end("flooded"))
        if offer.plan.data is not None:
            self.channel.is_expected = True
            data = offer.original.sections[offer.plan.data]
            self.channel.max_message_bytes = max_message_bytes(data)
        self._use_transceivers(pc, offer, downlink)
        if offer.plan.sees is not None:
            self.parameter_sets = parameter_sets(offer.original.sections[offer.plan.sees])
        if offer.plan.speaks is not None:
            description = offer.original
            speaks = description.sections[offer.plan.speaks]
            self.opus_wishes = opus_wishes(speaks, description.origin)
        self._hand_out_receivers(on_receivers)
        self._liveness = Liveness(
            self._awake(),
            connect_deadline_s=self._connect_deadline_s,
            silence_s=self._silence_s,
        )
        with _refusing():
            await pc.setLocalDescription()
        self._watch = asyncio.create_task(self._run_watch(), name=f"peer-watch-{self.call_id}")
        return finish_answer(pc.localDescription.sdp, offer)

    def _use_transceivers(
        self, pc: RTCPeerConnection, offer: PreparedOffer, downlink: MediaStreamTrack
    ) -> None:
        """Give each m-line that is taken its part: who hears, who speaks, who sees."""
        by_mid = {transceiver.mid: transceiver for transceiver in pc.getTransceivers()}
        plan = offer.plan
        for index in plan.taken:
            transceiver = by_mid.get(offer.mids[index])
            if transceiver is None:
                continue
            transceiver.direction = plan.direction(index)
            transceiver._codecs += _redundant(offer.original.sections[index])
            if index == plan.speaks:
                self._sender = transceiver.sender
                self._sender.replaceTrack(downlink)
            if index == plan.hears:
                self.audio_receiver = transceiver.receiver
            if index == plan.sees:
                self.video_receiver = transceiver.receiver

    def _hand_out_receivers(self, on_receivers: OnReceivers | None) -> None:
        if on_receivers is not None:
            on_receivers(self.audio_receiver, self.video_receiver)
        for idle in (self.audio_receiver, self.video_receiver):
            if idle is not None and "_handle_rtp_packet" not in vars(idle):
                # Not `_enabled = False`: setLocalDescription switches that on again.
                vars(idle)["_handle_rtp_packet"] = _ignore_packet

    async def update_ice(self, fragment: str) -> str:
        """Take a client's fragment (RFC 8840): candidates, or new credentials, which restart ICE.

        Return our fragment after a restart, else "". Raises ProtocolError: 400 malformed, 409 when
        the call is ending, 429 when the client restarts without an end.
        """
        parts = parse_fragment(fragment)
        if self._wire is None or self._gone_reason is not None:
            raise ProtocolError("The call is ending.", code="call_ending", status=409)
        bucket = self._ice_restarts if self._wire.is_restart(parts) else self._ice_updates
        if not bucket.take(self._clock()):
            raise ProtocolError(
                "Too many ICE updates; try again in a few seconds.",
                code="rate_limit_exceeded",
                status=429,
                type="rate_limit_error",
            )
        ours = await self._wire.update(parts)
        if self._liveness is not None:
            self._liveness.spoke(self._awake())
        return write_fragment(ours) if ours else ""

    def send(self, text: str) -> bool:
        """Send one event; return False if it was dropped (no channel, closed, or congested)."""
        return self._gone_reason not in OUT_OF_REACH and self.channel.send(text)

    async def delivered(self, limit_s: float) -> None:
        """Wait until the client has acknowledged every event, is out of reach, or for `limit_s`."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limit_s
        while self.is_reachable and self._wire is not None and loop.time() < deadline:
            if self._wire.is_delivered:
                return
            await asyncio.sleep(DELIVERY_TICK_S)

    async def stats(self) -> Report:
        """Return statistics by webrtc-stats id, names and units; {} before the answer."""
        if self._pc is None or self._wire is None:
            return {}
        return await collect(self._pc, self._wire, self.channel)

    async def close(self, reason: str = "hangup") -> None:
        """End the peer and free everything it holds, within about CLOSE_TIMEOUT_S. Idempotent."""
        if self._is_closing:
            await self._closed.wait()
            return
        self._is_closing = True
        self._end(reason)
        try:
            if self._watch is not None:
                self._watch.cancel()
                await asyncio.wait([self._watch])
            if self._pc is not None:
                await self._close_connection(self._pc)
        finally:
            if self._downlink is not None:
                self._downlink.stop()
            self._closed.set()

    async def _close_connection(self, pc: RTCPeerConnection) -> None:
        # A task of its own: aiortc may be closing by itself, and then a cancelled wait for it
        # would break that, too.
        closing = asyncio.ensure_future(self._take_leave(pc))
        try:
            _, is_stuck = await asyncio.wait([closing], timeout=CLOSE_TIMEOUT_S)
            if is_stuck:
                logger.warning("peer connection did not close within %s s", CLOSE_TIMEOUT_S)
                self._abort()
                await asyncio.wait([closing], timeout=CLOSE_TIMEOUT_S)
        finally:
            closing.cancel()
        if closing.done() and not closing.cancelled() and (error := closing.exception()):
            # Half-made, aiortc fails in ways of its own.
            logger.warning("peer connection did not close: %s", type(error).__name__)
            self._abort()

    async def _take_leave(self, pc: RTCPeerConnection) -> None:
        if self.is_reachable:
            await self.channel.close(CHANNEL_CLOSE_S)
        await pc.close()

    def _abort(self) -> None:
        if self._wire is not None:
            self._wire.abort()

    async def _run_watch(self) -> None:
        assert self._liveness is not None and self._wire is not None
        while self._gone_reason is None:
            await asyncio.sleep(TICK_S)
            self.channel.tell_dropped()
            wire, now = self._wire, self._awake()
            reason = self._liveness.check(now, wire.heard, wire.refusals)
            if reason is None and wire.has_left:
                reason = "closed"
            if reason is not None:
                self._end(reason)
            elif self._is_connected:
                self._tell(partial(self._listener.silent, self._liveness.silent_s(now)))

    def _on_state(self) -> None:
        state = self._pc.connectionState if self._pc is not None else "closed"
        if state == "connected" and not self._is_connected and self._gone_reason is None:
            self._is_connected = True
            if self._liveness is not None:
                self._liveness.connected(self._awake())
            self._tell(self._listener.connected)
        elif state in ("failed", "closed"):
            self._end(state)

    def _on_datachannel(self, channel: RTCDataChannel) -> None:
        if self._gone_reason is None:
            self.channel.bind(channel)

    def _channel_opened(self) -> None:
        self._tell(self._listener.channel_open)

    def _message(self, text: str) -> None:
        if self._gone_reason is None:
            self._tell(lambda: self._listener.message(text))

    def _refused(self, error: ProtocolError) -> None:
        if self._gone_reason is None:
            self._tell(lambda: self._listener.refused(error))

    def _end(self, reason: str) -> None:
        if self._gone_reason is None:
            self._gone_reason = reason
            self._tell(lambda: self._listener.gone(reason))

    def _tell(self, call: Callable[[], None]) -> None:
        # An exception here would surface in aiortc's receive loop and be blamed on DTLS.
        try:
            call()
        except Exception:
            logger.exception("listener of peer %s failed", self.call_id)
            self._end("internal_error")
