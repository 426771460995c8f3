"""Inbound deadline buffer: RTP packets of one Opus stream in, a gapless timeline out.

Packets in order leave at once. A gap waits for reordered packets until a deadline and is then
concealed, so the sample clock never jumps and no delay is left behind. Pure logic: it reads a clock
and knows neither sockets nor decoders. Owned by the uplink.

Positions count RTP ticks (48 kHz) and, like sequence numbers, are extended beyond their wrap.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from media.formats import (
    PTIME_S,
    RTP_OPUS_HZ,
    RTP_OPUS_PACKET_TICKS,
    RTP_TICKS_PER_UPLINK_SAMPLE,
)
from media.opus import has_fec, packet_ticks
from media.pieces import Action, JitterCounters, Piece
from media.red import Copy
from media.senderclock import SenderClock
from media.transit import (
    GAP_MARGIN_S,
    MAX_GAP_DEADLINE_S,
    MIN_GAP_DEADLINE_S,
    TransitTracker,
)

MAX_HELD_PACKETS = 128
MAX_JUMP_TICKS = RTP_OPUS_HZ
"""A packet further than this from the timeline belongs to a new stream, if to any."""
MAX_DROPOUT_PACKETS = 3000
MAX_MISORDER_PACKETS = 100
"""The same for sequence numbers, ahead and behind (RFC 3550 appendix A.1)."""
MAX_AHEAD_TICKS = RTP_OPUS_HZ
"""A sender faster than real time is cut off this far ahead of the clock."""
MAX_CLOCK_SKEW = 0.001
"""Part by which a sender's clock may be fast without being cut off; crystals keep to a tenth."""
MAX_BEHIND_S = 2.0
"""A timeline further behind the clock (the process was suspended) gives up the time between."""
MAX_CONCEALING_TICKS = RTP_OPUS_HZ // 2
"""Of lost sound nothing is left to extrapolate by then; the background noise follows."""

_HISTORY = (1 << 256) - 1
_SAME_INSTANT_TICKS = RTP_OPUS_HZ // 400
_MAX_DTX_BYTES = 2
_STALLED_POLL_S = 3 * PTIME_S


class _Packet(NamedTuple):
    sequence: int
    position: int
    ticks: int
    payload: bytes
    arrival_s: float
    is_copy: bool = False
    """It came within a later packet (RFC 2198)."""


class _Stray(NamedTuple):
    """A packet far from the stream, kept until a second one says whether a new stream began."""

    ssrc: int
    sequence: int
    timestamp: int
    payload: bytes
    arrival_s: float


def _signed(value: int, bits: int) -> int:
    half = 1 << (bits - 1)
    return ((value + half) & ((1 << bits) - 1)) - half


class JitterBuffer:
    """Turn packets, in whatever order and number they come, into consecutive pieces.

    `push` on arrival and `poll` about every 20 ms return what is due now.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.counters = JitterCounters()
        self._clock = clock
        self._transit = TransitTracker()
        self._sender_clock = SenderClock()
        self._ssrc: int | None = None
        self._stray: _Stray | None = None
        self._held: dict[int, _Packet] = {}
        self._next = 0
        self._highest = 0
        self._highest_position = 0
        self._seen = 0  # bit i: packet `_highest - i` came
        self._released_sequence = 0
        self._released_ticks = 0
        self._step = RTP_OPUS_PACKET_TICKS
        self._reach_s = 0.0  # how long after a packet its last copy is sent, as of late
        self._is_dtx = False
        self._concealing_ticks = 0
        self._begin_s = 0.0
        self._last_poll_s = 0.0
        self._has_deferred_poll = False

    @property
    def held_packets(self) -> int:
        """Return how many packets wait behind a gap."""
        return len(self._held)

    @property
    def gap_deadline_s(self) -> float:
        """Return how long after its expected arrival a missing packet is given up."""
        deadline_s = self._transit.gap_deadline_s
        if self._reach_s:
            deadline_s = max(deadline_s, min(MAX_GAP_DEADLINE_S, self._reach_s + GAP_MARGIN_S))
        return deadline_s

    @property
    def spread_s(self) -> float:
        """Return how much later than the quickest the packets of the last seconds came."""
        return self._transit.spread_s

    def push(
        self,
        ssrc: int,
        sequence: int,
        timestamp: int,
        payload: bytes,
        copies: Sequence[Copy] = (),
    ) -> list[Piece]:
        """Take a packet as it came; `sequence` has 16 bits, `timestamp` 32.

        `copies` of earlier packets, which came with it, take the places of those that did not come.
        """
        now = self._clock()
        pieces: list[Piece] = []
        self._reach_s = max(copy.offset for copy in copies) / RTP_OPUS_HZ if copies else 0.0
        ticks = packet_ticks(payload)
        timestamp = self._sender_clock.translate(
            ssrc, sequence, timestamp, ticks, len(payload), now
        )
        if self._ssrc is None:
            self._begin_s = self._last_poll_s = now
            self._start(ssrc, sequence, timestamp, now)
        elif ticks and self._is_next(ssrc, sequence, timestamp, ticks, now):
            self._pass_on(_Packet(self._highest + 1, self._next, ticks, payload, now), pieces)
            return pieces
        elif self._is_far(ssrc, sequence, timestamp):
            first, self._stray = self._stray, _Stray(ssrc, sequence, timestamp, payload, now)
            if first is None or not _follows(self._stray, first):
                self.counters.packets_stray += first is not None
                return pieces
            self._stray = None
            self._change_stream(first, pieces)
            self._accept(first.sequence, first.timestamp, first.payload, first.arrival_s, pieces)
        elif self._stray is not None:
            self.counters.packets_stray += 1
            self._stray = None
        self._accept(sequence, timestamp, payload, now, pieces, copies)
        return pieces

    def poll(self) -> list[Piece]:
        """Return what is due by the clock alone: expired gaps, and time in which nothing comes."""
        now = self._clock()
        pieces: list[Piece] = []
        is_stalled = now - self._last_poll_s > _STALLED_POLL_S
        self._last_poll_s = now
        # After a stall of this process packets may wait in the socket: let them be read first.
        self._has_deferred_poll = is_stalled and not self._has_deferred_poll
        if self._ssrc is None or self._has_deferred_poll:
            return pieces
        behind_s = now - self._expected_s()
        if not self._held and behind_s < MIN_GAP_DEADLINE_S:
            return pieces
        self._drain(now, pieces)
        if now - self._expected_s() > MAX_BEHIND_S:
            self._transit.reset(now, self._next / RTP_OPUS_HZ)
            self._begin_s = now - self._released_ticks / RTP_OPUS_HZ
            self.counters.resyncs += 1
        while not self._held and now >= self._silent_from_s() and not self._is_ahead(now, 0):
            self._conceal(RTP_OPUS_PACKET_TICKS, pieces)
        return pieces

    def _is_next(self, ssrc: int, sequence: int, timestamp: int, ticks: int, now: float) -> bool:
        """Tell whether a packet is the very next one of a stream of which nothing is missing."""
        return (
            not self._held
            and self._stray is None
            and ssrc == self._ssrc
            and sequence == (self._highest + 1) & 0xFFFF
            and timestamp == self._next & 0xFFFFFFFF
            and self._highest_position <= self._next
            and not self._is_ahead(now, ticks)
        )

    def _pass_on(self, packet: _Packet, pieces: list[Piece]) -> None:
        """Deliver the very next packet: what `_accept` does with it, in a third of the time."""
        counters = self.counters
        counters.packets_expected += 1
        counters.packets_received += 1
        self._seen = ((self._seen << 1) | 1) & _HISTORY
        self._highest, self._highest_position = packet.sequence, packet.position
        self._transit.add(packet.arrival_s, packet.position / RTP_OPUS_HZ)
        self._release(packet, 0, packet.arrival_s, pieces)

    def _is_far(self, ssrc: int, sequence: int, timestamp: int) -> bool:
        if ssrc != self._ssrc:
            return True
        ahead = _signed(sequence - self._highest, 16)
        if not -MAX_MISORDER_PACKETS <= ahead <= MAX_DROPOUT_PACKETS:
            return True
        distance = _signed(timestamp - self._next, 32)
        # A later packet with an earlier time: the sender began anew.
        is_backwards = ahead > 0 and _signed(timestamp - self._highest_position, 32) < 0
        return is_backwards or abs(distance) > MAX_JUMP_TICKS

    def _start(self, ssrc: int, sequence: int, timestamp: int, arrival_s: float) -> None:
        self._ssrc = ssrc
        self._next = self._highest_position = timestamp
        self._highest = self._released_sequence = sequence - 1
        self._seen = 0
        self._is_dtx = False
        self._transit.reset(arrival_s, timestamp / RTP_OPUS_HZ)

    def _change_stream(self, first: "_Stray", pieces: list[Piece]) -> None:
        """Deliver what is held, fill the time up to `first`, and continue with its stream."""
        self.counters.resyncs += 1
        while self._held:
            self._step_to(self._held[min(self._held)], first.arrival_s, pieces)
        now = first.arrival_s
        while now - MAX_BEHIND_S < self._expected_s() <= now - PTIME_S:
            if self._is_ahead(now, 0):
                break
            self._conceal(RTP_OPUS_PACKET_TICKS, pieces)
        self._start(first.ssrc, first.sequence, first.timestamp, first.arrival_s)

    def _accept(
        self,
        sequence: int,
        timestamp: int,
        payload: bytes,
        arrival_s: float,
        pieces: list[Piece],
        copies: Sequence[Copy] = (),
    ) -> None:
        position = self._next + _signed(timestamp - self._next, 32)
        extended = self._highest + _signed(sequence - self._highest, 16)
        is_newest = extended > self._highest
        if not self._record(extended, position):
            return
        ticks = packet_ticks(payload)
        if ticks is None:
            self.counters.packets_invalid += 1
            return
        if self._is_ahead(arrival_s, position + ticks - self._next):
            self.counters.packets_ahead += 1
            return
        if is_newest and self._concealing_ticks and position < self._next and not self._held:
            # Filled time, then sound from before it: the sender's timestamps stood still, or the
            # network did. Either way this was not heard yet, and what follows goes on from it.
            self._next = position
            self._transit.rebase(arrival_s, position / RTP_OPUS_HZ)
        else:
            self._transit.add(arrival_s, position / RTP_OPUS_HZ)
        held = self._held.get(position)
        if position + ticks <= self._next or (held is not None and not held.is_copy):
            self.counters.packets_late += 1
            return
        packet = self._held[position] = _Packet(extended, position, ticks, payload, arrival_s)
        if copies:
            self._fill_in(packet, copies)
        self._drain(self._clock(), pieces)

    def _fill_in(self, packet: _Packet, copies: Sequence[Copy]) -> None:
        """Put copies in the places of earlier packets that are missing."""
        for offset, payload in copies:
            position, ticks = packet.position - offset, packet_ticks(payload)
            is_missing = self._next <= position and position not in self._held
            if ticks is None or offset < ticks or not is_missing:
                continue
            # What number it had is not told: as many packets ago as fit in between.
            sequence = packet.sequence - offset // ticks
            self._held[position] = _Packet(
                sequence, position, ticks, payload, packet.arrival_s, is_copy=True
            )

    def _is_ahead(self, now: float, ticks: int) -> bool:
        """Tell whether `ticks` more would put the timeline too far ahead of the clock."""
        elapsed_ticks = (now - self._begin_s) * RTP_OPUS_HZ * (1 + MAX_CLOCK_SKEW)
        return self._released_ticks + ticks - elapsed_ticks > MAX_AHEAD_TICKS

    def _record(self, extended: int, position: int) -> bool:
        """Account for a packet's arrival; return False for a duplicate."""
        ahead = extended - self._highest
        if ahead > 0:
            self._seen = ((self._seen << ahead) | 1) & _HISTORY
            self._highest, self._highest_position = extended, position
            self.counters.packets_expected += ahead
        elif self._seen >> -ahead & 1:
            self.counters.packets_duplicate += 1
            return False
        else:
            self._seen |= 1 << -ahead
        self.counters.packets_received += 1
        return True

    def _drain(self, now: float, pieces: list[Piece]) -> None:
        """Deliver held packets as far as they are in order or the gap before them has expired."""
        while self._held:
            packet = self._held.get(self._next) or self._held[min(self._held)]
            if (
                packet.position > self._next
                and len(self._held) <= MAX_HELD_PACKETS
                and now < self._expected_s() + self.gap_deadline_s
                and not self._has_all_before(packet)
            ):
                return
            self._step_to(packet, now, pieces)

    def _step_to(self, packet: _Packet, now: float, pieces: list[Piece]) -> None:
        """Deliver the first held packet, or one step of the gap before it."""
        gap = packet.position - self._next
        if 0 < gap < _SAME_INSTANT_TICKS and self._has_all_before(packet):
            # A sender whose timestamps are not exact: nothing is missing.
            self._next = packet.position
        elif gap > 0:
            self._fill_gap(packet, gap, pieces)
            return
        del self._held[packet.position]
        skip = self._next - packet.position
        if skip >= packet.ticks:
            self.counters.packets_late += 1
            return
        self._release(packet, skip, now, pieces)

    def _release(self, packet: _Packet, skip: int, now: float, pieces: list[Piece]) -> None:
        if 0 < skip < _SAME_INSTANT_TICKS and packet.sequence == self._released_sequence + 1:
            self._next -= skip
            skip = 0
        self._step = packet.ticks
        self._released_sequence = max(self._released_sequence, packet.sequence)
        self._is_dtx = len(packet.payload) <= _MAX_DTX_BYTES
        self._concealing_ticks = 0
        skipped = skip // RTP_TICKS_PER_UPLINK_SAMPLE
        samples = self._advance(packet.ticks - skip)
        pieces.append(Piece(Action.DECODE, samples, packet.payload, skipped))
        counters = self.counters
        if packet.is_copy:
            counters.fec_samples += samples
            counters.fec_packets += 1
        counters.delay_s = max(0.0, now - packet.arrival_s)
        counters.total_delay_s += counters.delay_s * samples
        counters.emitted_samples += samples

    def _fill_gap(self, packet: _Packet, gap: int, pieces: list[Piece]) -> None:
        if gap > self._step:
            self._conceal(min(self._step, gap - self._step), pieces)
        elif self._is_missing(packet.sequence - 1) and has_fec(packet.payload):
            samples = self._advance(gap)
            pieces.append(Piece(Action.FEC, samples, packet.payload))
            self.counters.fec_samples += samples
            self.counters.fec_packets += 1
        else:
            self._conceal(gap, pieces)

    def _conceal(self, ticks: int, pieces: list[Piece]) -> None:
        counters = self.counters
        is_first = self._concealing_ticks == 0
        is_over = self._concealing_ticks >= MAX_CONCEALING_TICKS
        self._concealing_ticks += ticks
        samples = self._advance(ticks)
        if self._is_dtx:
            # Opus goes on with the noise that the sender described, for as long as it is asked.
            counters.comfort_samples += samples
            pieces.append(Piece(Action.COMFORT, samples))
            return
        counters.concealment_events += is_first
        counters.concealed_samples += samples
        counters.silent_concealed_samples += samples if is_over else 0
        pieces.append(Piece(Action.NOISE if is_over else Action.CONCEAL, samples))

    def _advance(self, ticks: int) -> int:
        """Move the timeline on and return the 16 kHz samples that this yields."""
        before = self._released_ticks // RTP_TICKS_PER_UPLINK_SAMPLE
        self._next += ticks
        self._released_ticks += ticks
        samples = self._released_ticks // RTP_TICKS_PER_UPLINK_SAMPLE - before
        self.counters.samples += samples
        return samples

    def _silent_from_s(self) -> float:
        """Return when the timeline goes on without packets; at once where silence was announced."""
        transit = self._transit
        wait_s = transit.gap_deadline_s if self._is_dtx else transit.silence_deadline_s
        # What was filled while late sound was on its way is made up for when nothing is said.
        expected_s = self._expected_s()
        surplus_s = self._released_ticks / RTP_OPUS_HZ - (expected_s - self._begin_s)
        return expected_s + wait_s + min(max(0.0, surplus_s), MAX_AHEAD_TICKS / RTP_OPUS_HZ)

    def _expected_s(self) -> float:
        """Return when the next packet of the timeline arrives on an undisturbed path."""
        return self._transit.base_s + self._next / RTP_OPUS_HZ

    def _has_all_before(self, packet: _Packet) -> bool:
        """Tell whether every packet since the last delivered one came: the gap is the sender's."""
        count = packet.sequence - self._released_sequence - 1
        if count <= 0:
            return True
        first = self._highest - packet.sequence + 1
        mask = (1 << count) - 1
        return self._seen >> first & mask == mask

    def _is_missing(self, sequence: int) -> bool:
        return not self._seen >> (self._highest - sequence) & 1


def _follows(later: _Stray, earlier: _Stray) -> bool:
    if later.ssrc != earlier.ssrc:
        return False
    return 0 < (later.sequence - earlier.sequence) & 0xFFFF <= MAX_MISORDER_PACKETS
