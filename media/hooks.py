"""All access to aiortc's private parts, written against one version of it.

Nothing else in this package but `media.packetsender` may touch an underscored name of aiortc. A
test fails for each hook that no longer fires.
"""

import math
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Protocol

import aiortc
from aiortc import RTCRtpReceiver, RTCRtpSender
from aiortc.rtcrtpsender import RTT_ALPHA
from aiortc.rtp import (
    RTCP_PSFB_APP,
    RtcpByePacket,
    RtcpPsfbPacket,
    RtcpSrPacket,
    RtpPacket,
    pack_remb_fci,
    unwrap_rtx,
)

from media.reception import Header, StreamStatistics
from media.retransmission import MissingPackets

AIORTC_VERSION = "1.16.0"
RTT_WEIGHT = 1 - RTT_ALPHA
MAX_SOURCES = 4
"""Synchronization sources with statistics for each receiver; a report has room for 31."""
REMB_S = 1.0
"""Between limits told to who sends no times by which the bandwidth could be estimated."""


class AudioPacket(Header, Protocol):
    """What is read of a packet of sound, whoever decrypted it."""

    payload_type: int
    ssrc: int
    payload: bytes


OnPacket = Callable[[AudioPacket, str], None]
"""Gets a packet and the lower-case name of its codec. Must not raise."""

OnVideoPacket = Callable[[RtpPacket, str], bool]
"""Gets a packet and its codec; returns whether to ask for a keyframe."""


@dataclass(frozen=True, slots=True)
class Reception:
    """Figures of a receiver's streams, as its reports tell them."""

    packets_received: int = 0
    packets_lost: int = 0
    jitter_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Transmission:
    """Figures of a sender, and what its receiver last reported about it."""

    packets_sent: int = 0
    bytes_sent: int = 0
    """Payload bytes."""
    packets_lost: int | None = None
    fraction_lost: float | None = None
    """0 to 1, over the latest report interval."""
    round_trip_s: float | None = None
    """Smoothed: RTT_WEIGHT of each new one."""
    report: object = None
    """Another one for each report."""


class _NoDecoder:
    """Take the place of the queue to aiortc's decoder thread, which it makes end at once."""

    def get(self) -> None:
        return None

    def put(self, task: object) -> None:
        del task


def check_version() -> None:
    """Raise RuntimeError unless the installed aiortc is the one these hooks are written for."""
    if aiortc.__version__ != AIORTC_VERSION:
        raise RuntimeError(f"aiortc {aiortc.__version__} is installed, not {AIORTC_VERSION}")


def _get(owner: RTCRtpReceiver | RTCRtpSender, name: str) -> Any:
    owner_class = "RTCRtpReceiver" if isinstance(owner, RTCRtpReceiver) else "RTCRtpSender"
    return getattr(owner, f"_{owner_class}__{name}")


def _set(receiver: RTCRtpReceiver, name: str, value: object) -> None:
    attribute = f"_RTCRtpReceiver__{name}"
    if not hasattr(receiver, attribute):
        raise RuntimeError(f"aiortc has no {attribute} any more")
    setattr(receiver, attribute, value)


def set_method(owner: RTCRtpReceiver | RTCRtpSender, name: str, method: Callable[..., Any]) -> None:
    """Replace a method on one instance. Raises RuntimeError where aiortc has none of that name."""
    if not hasattr(owner, name):
        raise RuntimeError(f"aiortc has no {name} any more")
    setattr(owner, name, method)


def finish(work: Coroutine[Any, Any, None]) -> None:
    """Run what is a coroutine by its form only. Raises RuntimeError if it waits for anything."""
    try:
        work.send(None)
    except StopIteration:
        return
    work.close()
    raise RuntimeError(f"{work} waits")


def _stop_decoder(receiver: RTCRtpReceiver) -> None:
    # The thread gets this queue when it starts and ends with the first item; stop() still joins it.
    queue = _get(receiver, "decoder_queue")
    _set(receiver, "decoder_queue", _NoDecoder())
    # Before the start it is not read, after it the thread ends.
    queue.put(None)


def take_audio(receiver: RTCRtpReceiver, on_packet: OnPacket) -> None:
    """Route the packets of known payload types to `on_packet`, past aiortc's buffer and decoder.

    Receiver reports stay right: senders turn FEC on by the loss they read there. Call it at any
    time between the track event and the first packet.
    """
    check_version()
    _stop_decoder(receiver)
    codecs: dict[int, Any] = _get(receiver, "codecs")
    streams: dict[int, StreamStatistics] = _get(receiver, "remote_streams")
    names: dict[int, str] = {}

    async def handle(packet: AudioPacket, arrival_time_ms: int) -> None:
        del arrival_time_ms
        name = names.get(packet.payload_type)
        if name is None:
            name = codec_name(receiver, packet.payload_type)
            if name is None:
                return
            names[packet.payload_type] = name
        statistics = streams.get(packet.ssrc)
        if statistics is None:
            hz = codecs[packet.payload_type].clockRate
            statistics = _add_source(streams, packet.ssrc, hz)
        statistics.add(packet)
        on_packet(packet, name)

    set_method(receiver, "_handle_rtp_packet", handle)


def take_video(
    receiver: RTCRtpReceiver,
    on_packet: OnVideoPacket,
    on_report: Callable[[int], None] = lambda ssrc: None,
    on_bye: Callable[[list[int]], None] = lambda sources: None,
    *,
    limit: Callable[[], float] = lambda: math.inf,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Show each packet to `on_packet`, past aiortc's depayloading, buffer and decoder.

    Packets come in the order of arrival, retransmitted ones unwrapped. Reports, bandwidth
    estimation and requests for retransmission are kept. `on_report` gets the source of each sender
    report, `on_bye` those that leave (RFC 3550 section 6.6); `limit` says how many bit/s the sender
    is allowed at most. None of them may raise.
    """
    check_version()
    _stop_decoder(receiver)
    codecs: dict[int, Any] = _get(receiver, "codecs")
    streams: dict[int, StreamStatistics] = _get(receiver, "remote_streams")
    rtx_sources: dict[int, int] = _get(receiver, "rtx_ssrc")
    missing = MissingPackets(clock)
    bandwidth = _Bandwidth(receiver, limit, clock)

    async def handle(packet: RtpPacket, arrival_time_ms: int) -> None:
        await bandwidth.add(packet, arrival_time_ms)
        codec = codecs.get(packet.payload_type)
        if codec is None:
            return
        if packet.ssrc not in streams:
            _add_source(streams, packet.ssrc, codec.clockRate)
        streams[packet.ssrc].add(packet)
        if codec.name.lower() == "rtx":
            payload_type = codec.parameters.get("apt")
            original = _unwrapped(packet, payload_type, rtx_sources.get(packet.ssrc))
            if original is None or payload_type not in codecs:
                return
            packet, codec = original, codecs[payload_type]
        if lost := missing.add(packet.ssrc, packet.sequence_number):
            await receiver._send_rtcp_nack(packet.ssrc, lost)
        if on_packet(packet, codec.name.lower()):
            await receiver._send_rtcp_pli(packet.ssrc)

    set_method(receiver, "_handle_rtp_packet", handle)
    _take_reports(receiver, on_report, on_bye)


def _take_reports(
    receiver: RTCRtpReceiver,
    on_report: Callable[[int], None],
    on_bye: Callable[[list[int]], None],
) -> None:
    # The class's own, so that a receiver may be taken again.
    original = RTCRtpReceiver._handle_rtcp_packet

    async def handle(packet: Any) -> None:
        if isinstance(packet, RtcpSrPacket):
            on_report(packet.ssrc)
        elif isinstance(packet, RtcpByePacket):
            on_bye(packet.sources)
        await original(receiver, packet)

    set_method(receiver, "_handle_rtcp_packet", handle)


async def request_keyframe(receiver: RTCRtpReceiver, ssrc: int) -> None:
    """Send a PLI (RFC 4585 section 6.3.1)."""
    await receiver._send_rtcp_pli(ssrc)


class _Bandwidth:
    """Tells a sender how much to send at most: what is estimated, and never above a limit."""

    def __init__(
        self, receiver: RTCRtpReceiver, limit: Callable[[], float], clock: Callable[[], float]
    ) -> None:
        self._receiver = receiver
        self._limit = limit
        self._clock = clock
        self._told_s = -math.inf

    async def add(self, packet: RtpPacket, arrival_time_ms: int) -> None:
        """Learn from a packet, and tell what it shows."""
        now = self._clock()
        estimate, sources = math.inf, [packet.ssrc]
        if packet.extensions.abs_send_time is not None:
            estimated = _get(self._receiver, "remote_bitrate_estimator").add(
                abs_send_time=packet.extensions.abs_send_time,
                arrival_time_ms=arrival_time_ms,
                payload_size=len(packet.payload) + packet.padding_size,
                ssrc=packet.ssrc,
            )
            if estimated is None:
                return
            estimate, sources = estimated
        elif now - self._told_s < REMB_S:
            return
        bitrate, own_ssrc = min(estimate, self._limit()), _get(self._receiver, "rtcp_ssrc")
        if bitrate == math.inf or own_ssrc is None:
            return
        self._told_s = now
        fci = pack_remb_fci(int(bitrate), sources)
        await self._receiver._send_rtcp(
            RtcpPsfbPacket(fmt=RTCP_PSFB_APP, ssrc=own_ssrc, media_ssrc=0, fci=fci)
        )


def _unwrapped(packet: RtpPacket, payload_type: Any, ssrc: int | None) -> RtpPacket | None:
    """Return the packet that a retransmission repeats (RFC 4588 section 4)."""
    if ssrc is None or len(packet.payload) < 2 or not isinstance(payload_type, int):
        return None
    return unwrap_rtx(packet, payload_type=payload_type, ssrc=ssrc)


def discard(receiver: RTCRtpReceiver) -> None:
    """Drop all that a receiver gets: no thread, no queue, no reports."""
    check_version()
    _stop_decoder(receiver)

    async def handle(packet: RtpPacket, arrival_time_ms: int) -> None:
        del packet, arrival_time_ms

    set_method(receiver, "_handle_rtp_packet", handle)


def codec_name(receiver: RTCRtpReceiver, payload_type: int) -> str | None:
    """Return the lower-case name of what was negotiated by that number, if anything was."""
    codec = _get(receiver, "codecs").get(payload_type)
    return None if codec is None else str(codec.name.lower())


def reception(receiver: RTCRtpReceiver) -> Reception:
    """Return the statistics of the source that sends most, which a receiver report carries."""
    streams: dict[int, StreamStatistics] = _get(receiver, "remote_streams")
    stream = max(streams.values(), key=lambda s: s.packets_received, default=None)
    if stream is None or stream.max_seq is None:
        return Reception()
    return Reception(stream.packets_received, stream.packets_lost, stream.jitter_s)


def transmission(sender: RTCRtpSender) -> Transmission:
    """Return a sender's counters and the latest report about it."""
    report = _get(sender, "stats").get(f"remote-inbound-rtp_{id(sender)}")
    sent: tuple[int, int] = (_get(sender, "packet_count"), _get(sender, "octet_count"))
    if report is None:
        return Transmission(*sent)
    return Transmission(
        *sent,
        packets_lost=report.packetsLost,
        fraction_lost=report.fractionLost / 256,
        round_trip_s=report.roundTripTime,
        report=report,
    )


def _add_source(streams: dict[int, StreamStatistics], ssrc: int, hz: int) -> StreamStatistics:
    while len(streams) >= MAX_SOURCES:
        del streams[next(iter(streams))]
    streams[ssrc] = StreamStatistics(hz)
    return streams[ssrc]
