"""From a received audio track to the model: 16 kHz PCM without a gap, 20 ms at a time.

Owned by the session, in the media worker's event loop; decodes there, 20 us a packet.
"""

import time
from collections.abc import Callable

from aiortc import RTCRtpReceiver

from media import hooks
from media.comfort import BackgroundNoise
from media.formats import SAMPLE_BYTES, UPLINK_HZ, UPLINK_PACKET_BYTES, UPLINK_PACKET_SAMPLES
from media.jitter import JitterBuffer
from media.mixdown import Mixdown
from media.opus import OpusDecoder, OpusError, is_stereo
from media.pieces import Action, Piece
from media.red import Copy, unpack


class UnsupportedCodec(Exception):
    """The sender uses a codec other than Opus."""


class AudioUplink:
    """Deliver what an audio receiver hears to `sink(pts, pcm)` on the event loop.

    `pts` counts 16 kHz samples from 0; `pcm` is 20 ms of int16. `on_error` gets the first exception
    of the decoder or the sink, after which the uplink is closed. A shared ticker must call `poll`
    about every 20 ms.
    """

    def __init__(
        self,
        receiver: RTCRtpReceiver,
        sink: Callable[[int, bytes], None],
        *,
        on_error: Callable[[Exception], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._receiver = receiver
        self._sink = sink
        self._on_error = on_error
        self._jitter = JitterBuffer(clock=clock)
        self._decoder = OpusDecoder(UPLINK_HZ)
        self._background = BackgroundNoise()
        self._mixdown: Mixdown | None = None
        """Only once two channels came: who sends one pays nothing for it."""
        self._pending = b""
        self._pts = 0
        self._bytes_received = 0
        self._undecodable_packets = 0
        self._undecodable_samples = 0
        self._is_closed = False
        hooks.take_audio(receiver, self._on_packet)

    def poll(self) -> None:
        """Deliver what is due although no packet came."""
        if not self._is_closed:
            try:
                self._deliver(self._jitter.poll())
            except Exception as exc:  # noqa: BLE001  handed to the session, which ends the call
                self._fail(exc)

    def close(self) -> None:
        """Deliver nothing from now on, and go on discarding what arrives."""
        self._is_closed = True

    @property
    def arrivals(self) -> tuple[int, int, float]:
        """How many packets came, how many are lost, and how late they come, s."""
        counters = self._jitter.counters
        return counters.packets_received, counters.packets_lost, self._jitter.spread_s

    def stats(self) -> dict[str, float | int]:
        """Return counters by their webrtc-stats names and units (seconds, bytes, samples)."""
        counters = self._jitter.counters
        late = counters.packets_late + counters.packets_ahead + counters.packets_stray
        return {
            "packetsReceived": counters.packets_received,
            "packetsLost": counters.packets_lost,
            "packetsDiscarded": late + counters.packets_invalid + self._undecodable_packets,
            "packetsDuplicated": counters.packets_duplicate,
            "bytesReceived": self._bytes_received,
            "jitter": hooks.reception(self._receiver).jitter_s,
            "jitterBufferDelay": counters.total_delay_s,
            "jitterBufferEmittedCount": counters.emitted_samples,
            "jitterBufferTargetDelay": self._jitter.gap_deadline_s,
            "currentDelay": counters.delay_s,
            "totalSamplesReceived": counters.samples,
            "concealedSamples": counters.concealed_samples + self._undecodable_samples,
            "silentConcealedSamples": counters.silent_concealed_samples,
            "concealmentEvents": counters.concealment_events + self._undecodable_packets,
            "fecPacketsReceived": counters.fec_packets,
            "fecSamplesRecovered": counters.fec_samples,
            "comfortNoiseSamples": counters.comfort_samples,
            "resyncs": counters.resyncs,
        }

    def _on_packet(self, packet: hooks.AudioPacket, codec: str) -> None:
        if self._is_closed:
            return
        payload = packet.payload
        self._bytes_received += len(payload)
        copies: tuple[Copy, ...] = ()
        try:
            if codec == "red":
                payload, copies = self._unpacked(payload)
            elif codec != "opus":
                raise UnsupportedCodec(codec)
            pieces = self._jitter.push(
                packet.ssrc, packet.sequence_number, packet.timestamp, payload, copies
            )
            self._deliver(pieces)
        except Exception as exc:  # noqa: BLE001  handed to the session, which ends the call
            self._fail(exc)

    def _unpacked(self, packet: bytes) -> tuple[bytes, tuple[Copy, ...]]:
        """Take what carries copies apart; what is malformed, or no Opus, becomes an empty one."""
        found = unpack(packet)
        if found is None or hooks.codec_name(self._receiver, found.payload_type) != "opus":
            return b"", ()
        return found.payload, found.copies

    def _deliver(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            pcm = self._decode(piece)
            if self._pending or len(pcm) != UPLINK_PACKET_BYTES:
                self._pending += pcm
                self._deliver_pending()
            else:
                self._sink(self._pts, pcm)
                self._pts += UPLINK_PACKET_SAMPLES
            if self._is_closed:
                return

    def _deliver_pending(self) -> None:
        offset = 0
        while len(self._pending) - offset >= UPLINK_PACKET_BYTES and not self._is_closed:
            self._sink(self._pts, self._pending[offset : offset + UPLINK_PACKET_BYTES])
            self._pts += UPLINK_PACKET_SAMPLES
            offset += UPLINK_PACKET_BYTES
        self._pending = self._pending[offset:]

    def _decode(self, piece: Piece) -> bytes:
        """Return exactly the piece's mono samples, whatever the payload is."""
        size = piece.samples * SAMPLE_BYTES
        if piece.action is Action.NOISE:
            return self._background.noise(piece.samples)
        if self._mixdown is None and piece.action is Action.DECODE and is_stereo(piece.payload):
            self._mixdown = Mixdown()
            self._decoder = OpusDecoder(UPLINK_HZ, channels=2)
        pcm = self._decode_channels(piece)
        if self._mixdown is not None:
            pcm = self._mixdown.mix(pcm)
        start = piece.skip * SAMPLE_BYTES
        if start or len(pcm) != size:
            pcm = pcm[start : start + size].ljust(size, b"\0")
        if piece.action is Action.DECODE:
            self._background.hear(pcm)
        return pcm

    def _decode_channels(self, piece: Piece) -> bytes:
        try:
            if piece.action is Action.DECODE:
                return self._decoder.decode(piece.payload)
            if piece.action is Action.FEC:
                return self._decoder.decode_fec(piece.payload, piece.samples)
        except OpusError:
            self._undecodable_packets += piece.action is Action.DECODE
            self._undecodable_samples += piece.samples
        # As much as will be left out at the start, too.
        return self._decoder.conceal(piece.skip + piece.samples)

    def _fail(self, exc: Exception) -> None:
        self.close()
        self._on_error(exc)
