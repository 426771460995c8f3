"""The outbound audio track: 20 ms of Opus at each tick, taken from the playout.

Its timestamps keep real time: where ticks were missed they jump, and no sample is lost.

The only taker of the playout, whether anybody listens or not. Encodes at the tick, so that a cut of
the playout is heard within 20 ms. Owned by the session, in the media worker's event loop.
"""

import math
import time
from collections import deque
from collections.abc import Callable
from typing import NoReturn

from aiortc import MediaStreamTrack, RTCRtpSender
from aiortc.mediastreams import MediaStreamError

from media import hooks
from media.clock import Ticker
from media.formats import DOWNLINK_PACKET_BYTES, PTIME_MS, RTP_OPUS_PACKET_TICKS
from media.opus import SILENT_PACKET, OpusEncoder
from media.packetsender import PacketSender
from media.playout import Playout
from media.red import Copy, can_tell, pack
from media.sendrate import SendRate

SILENT_PCM = bytes(DOWNLINK_PACKET_BYTES)
REPORT_CHECK_TICKS = 200 // PTIME_MS
"""Clients report each half second at most: none is passed over, which would falsify the next."""
PAUSE_TICKS = 200 // PTIME_MS
"""In a pause one packet is sent in so many."""
OPENING_TICKS = 10_000 // PTIME_MS
"""So long there are pauses for a client that opens its loudspeaker late."""
PAUSE_PACKET = b"\xf8"
"""Discontinuous transmission (RFC 6716 section 2.1.9): a frame without a byte."""
PAUSE_AFTER_TICKS = 6
"""Of silence, by which a decoder has nothing left to extrapolate."""
COPY_DISTANCE = 2
"""Copied is the packet so many before: FEC tells of the last one, and none waits for long."""


class AudioDownlink(MediaStreamTrack):
    """A track that sends exactly one Opus packet of 20 ms per tick by the sender it is bound to.

    Missed ticks show as a gap in pts, so that the receiver never plays later and later.

    While the playout is idle it sends a constant packet of silence, which costs no encoding.
    Without a sender (`bind(None)`) it takes 20 ms a tick all the same and drops them: what is said
    to a client that takes no sound goes on, and ends, as if it were heard. `on_error` gets the
    first exception of the encoder, the playout or the sender; the track ends then.
    """

    kind = "audio"

    def __init__(
        self,
        playout: Playout,
        ticker: Ticker,
        *,
        on_error: Callable[[Exception], None],
        encoder: OpusEncoder | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.packets_sent = 0
        """Packets given to the sender."""
        self.silent_packets_sent = 0
        """Of these, the constant silence."""
        self.copies_sent = 0
        """Packets that carried a copy of an earlier one."""
        self._playout = playout
        self._on_error = on_error
        # FEC costs a fifth of the encoding: it begins with the first report of a loss.
        self._encoder = encoder or OpusEncoder(fec=False)
        self._sender: RTCRtpSender | None = None
        self._packets: PacketSender | None = None
        self._clock = clock
        self._rate = SendRate(self._encoder.bitrate)
        self._report: object = None
        self._round_trip_s: float | None = None
        self._is_unheard = False
        self._ticker = ticker
        self._pts = 0
        self._skipped_ticks = ticker.skipped_ticks
        self._pauses_until: float = 0
        """Ticks."""
        self._red_payload_type: int | None = None
        self._sent: deque[tuple[int, bytes]] = deque(maxlen=COPY_DISTANCE)
        """The latest packets, pts and payload."""
        self._taken_ticks = 0
        self._silent_ticks = 0
        self._unsubscribe = ticker.subscribe(self._on_tick)

    def bind(
        self,
        sender: RTCRtpSender | None,
        *,
        has_pauses: bool = False,
        opens_late: bool = False,
        max_bitrate: int | None = None,
        red_payload_type: int | None = None,
    ) -> None:
        """Name the sender once the offer is answered, None if the client takes no sound.

        What waits is sent once that is connected.

        Bit rate (of `max_bitrate` at most), FEC, and copies of earlier packets (where it is told of
        which `red_payload_type` they are) follow what is reported to the sender
        (`media.sendrate`), `stats` include it. With `has_pauses` little is sent in silence, with
        `opens_late` at the beginning: what comes before the client has opened its loudspeaker waits
        in its jitter buffer, and what follows is late by as much until there is a pause.
        """
        self._sender = sender
        self._packets = None if sender is None else PacketSender(sender, self._fail)
        self._is_unheard = sender is None
        self._pauses_until = math.inf if has_pauses else OPENING_TICKS if opens_late else 0
        self._red_payload_type = red_payload_type
        if max_bitrate is not None:
            bitrate = min(max_bitrate, self._encoder.bitrate)
            self._encoder.use_bitrate(bitrate)
            self._rate = SendRate(bitrate, most=max_bitrate)

    async def recv(self) -> NoReturn:
        """Raise MediaStreamError: packets are sent at the tick, and not fetched."""
        raise MediaStreamError

    def stop(self) -> None:
        """End the track: nothing more is taken or sent."""
        super().stop()
        self._unsubscribe()

    def stats(self) -> dict[str, float | int]:
        """Return counters by their webrtc-stats names and units."""
        stats: dict[str, float | int] = {
            "packetsSent": self.packets_sent,
            "silentPacketsSent": self.silent_packets_sent,
            "fecPercent": self._rate.encoding.fec_percent,
            "targetBitrate": self._rate.encoding.bitrate,
            "copiesSent": self.copies_sent,
        }
        if self._sender is not None:
            sent = hooks.transmission(self._sender)
            stats |= {"packetsSent": sent.packets_sent, "bytesSent": sent.bytes_sent}
            reported = {
                "remotePacketsLost": sent.packets_lost,
                "fractionLost": sent.fraction_lost,
                "roundTripTime": sent.round_trip_s,
            }
            stats |= {name: value for name, value in reported.items() if value is not None}
        return stats

    def _on_tick(self) -> None:
        try:
            if self._is_unheard:
                self._playout.take()
            elif self._packets is not None and self._packets.is_open:
                self._send_next(self._packets)
        except Exception as exc:  # noqa: BLE001  handed to the session, which ends the call
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        self.stop()
        self._on_error(exc)

    def _send_next(self, packets: PacketSender) -> None:
        payload = self._next_payload()
        pts = self._pts + self._gap_ticks() * RTP_OPUS_PACKET_TICKS
        self._pts = pts + RTP_OPUS_PACKET_TICKS
        if not payload:
            return
        copied = self._copy(pts)
        self._sent.append((pts, payload))
        if copied:
            payload = pack(packets.payload_type, payload, [copied])
            self.copies_sent += 1
        packets.send(payload, pts, self._red_payload_type if copied else None)
        self.packets_sent += 1

    def _copy(self, pts: int) -> Copy | None:
        """Return what of earlier packets goes with the one at `pts`."""
        is_wanted = self._rate.encoding.has_copies and self._red_payload_type is not None
        if not is_wanted or len(self._sent) < COPY_DISTANCE:
            return None
        earlier, payload = self._sent[0]
        copied = Copy(pts - earlier, payload)
        return copied if can_tell(copied) else None

    def _gap_ticks(self) -> int:
        """Return how many ticks passed without a packet since the packet before."""
        gap = self._ticker.skipped_ticks - self._skipped_ticks
        self._skipped_ticks = self._ticker.skipped_ticks
        # Before the first packet there is nothing to keep up with.
        return gap if self.packets_sent else 0

    def _next_payload(self) -> bytes:
        """Return what is sent at this tick; nothing within a pause."""
        if self._taken_ticks % REPORT_CHECK_TICKS == 0:
            self._follow_reports()
        self._taken_ticks += 1
        pcm = self._playout.take()
        if pcm is not None:
            if self._silent_ticks:
                # The silence bypassed the encoder: what it remembers is not what was heard.
                self._encoder.reset()
                self._silent_ticks = 0
            return self._encoder.encode(pcm)
        self._silent_ticks += 1
        if self._silent_ticks == 1 and self.packets_sent:
            # The encoder holds back its last 6.5 ms until more input comes.
            return self._encoder.encode(SILENT_PCM)
        return self._silence()

    def _silence(self) -> bytes:
        paused_ticks = self._silent_ticks - PAUSE_AFTER_TICKS
        if self._taken_ticks > self._pauses_until or paused_ticks < 0:
            self.silent_packets_sent += 1
            return SILENT_PACKET
        if paused_ticks % PAUSE_TICKS:
            return b""
        self.silent_packets_sent += 1
        return PAUSE_PACKET

    def _follow_reports(self) -> None:
        if self._sender is None:
            return
        sent = hooks.transmission(self._sender)
        if sent.report is self._report or sent.fraction_lost is None:
            return
        self._report = sent.report
        before = self._rate.encoding
        after = self._rate.report(self._clock(), sent.fraction_lost, self._latest_round_trip(sent))
        if after.fec_percent != before.fec_percent:
            self._encoder.expect_loss(after.fec_percent)
        if after.bitrate != before.bitrate:
            self._encoder.use_bitrate(after.bitrate)

    def _latest_round_trip(self, sent: hooks.Transmission) -> float | None:
        """Return the round trip of the latest report alone: smoothed it tells of a queue late."""
        before_s, self._round_trip_s = self._round_trip_s, sent.round_trip_s
        if before_s is None or sent.round_trip_s is None:
            return sent.round_trip_s
        return max(0.0, before_s + (sent.round_trip_s - before_s) / hooks.RTT_WEIGHT)
