"""A sender and a network in virtual time, for buffers that take a clock."""

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace

from media.jitter import JitterBuffer
from media.pieces import Action, Piece
from media.red import Copy


class VirtualClock:
    """Monotonic seconds that pass only when told."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Sent:
    """One packet: when it is sent (or arrives), and what it says."""

    at: float
    sequence: int
    timestamp: int
    payload: bytes
    ssrc: int = 1
    copies: tuple[Copy, ...] = ()


def stream(
    count: int,
    *,
    ms: float = 20,
    payload: bytes = b"\x78" + bytes(40),
    sequence: int = 100,
    timestamp: int = 5000,
    at: float = 0.0,
    ssrc: int = 1,
) -> list[Sent]:
    """Return `count` packets sent in time; the default payload is 20 ms of hybrid Opus."""
    ticks = int(ms * 48)
    return [
        Sent(
            at + i * ms / 1000,
            (sequence + i) & 0xFFFF,
            (timestamp + i * ticks) & 0xFFFFFFFF,
            payload,
            ssrc,
        )
        for i in range(count)
    ]


def copied(packets: list[Sent], *distances: int) -> list[Sent]:
    """Let each packet carry those sent so many before it."""
    found = []
    for i, packet in enumerate(packets):
        earlier = [packets[i - d] for d in sorted(distances, reverse=True) if i >= d]
        copies = tuple(
            Copy((packet.timestamp - e.timestamp) & 0xFFFFFFFF, e.payload) for e in earlier
        )
        found.append(replace(packet, copies=copies))
    return found


def lossy(packets: Iterable[Sent], loss: float, seed: int = 7) -> list[Sent]:
    """Drop packets at random, but not the first."""
    rng = random.Random(seed)
    return [p for i, p in enumerate(packets) if i == 0 or rng.random() >= loss]


def jittery(packets: Iterable[Sent], spread_s: float, seed: int = 8) -> list[Sent]:
    """Delay each packet by up to `spread_s`; they may overtake each other."""
    rng = random.Random(seed)
    return [replace(p, at=p.at + rng.uniform(0, spread_s)) for p in packets]


@dataclass
class Delivery:
    """A piece and where and when it came out."""

    at: float
    position: int
    """16 kHz samples before it."""
    piece: Piece


class Simulation:
    """Feed packets to a jitter buffer in virtual time, polling every 20 ms."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.begin = self.clock.now
        self.buffer = JitterBuffer(clock=self.clock)
        self.deliveries: list[Delivery] = []
        self._samples = 0
        self._next_poll = 0.0
        self.max_held = 0

    def run(self, packets: Iterable[Sent], *, until: float | None = None) -> "Simulation":
        """Let the packets arrive at their times and the clock run on to `until`."""
        for packet in sorted(packets, key=lambda p: p.at):
            self._poll_until(packet.at)
            self.clock.now = self.begin + packet.at
            p = packet
            self._take(self.buffer.push(p.ssrc, p.sequence, p.timestamp, p.payload, p.copies))
            self.max_held = max(self.max_held, self.buffer.held_packets)
        if until is not None:
            self._poll_until(until)
        return self

    @property
    def samples(self) -> int:
        """Return how many 16 kHz samples came out."""
        return self._samples

    def count(self, *actions: Action) -> int:
        """Return the samples that came about in one of these ways."""
        return sum(d.piece.samples for d in self.deliveries if d.piece.action in actions)

    def delays(self, begin: float, end: float) -> list[float]:
        """Return how long after being sent in time the sound of [begin, end) came out."""
        return [
            d.at - d.position / 16_000
            for d in self.deliveries
            if d.piece.action is Action.DECODE and begin <= d.at < end
        ]

    def _poll_until(self, at: float) -> None:
        while self._next_poll <= at:
            self.clock.now = self.begin + self._next_poll
            self._take(self.buffer.poll())
            self._next_poll += 0.020

    def _take(self, pieces: list[Piece]) -> None:
        for piece in pieces:
            at = self.clock.now - self.begin
            self.deliveries.append(Delivery(at, self._samples, piece))
            self._samples += piece.samples
