"""The outbound track: one packet a tick, pts in real time, exact cuts, silence, errors, FEC."""

import random
from typing import Any, NamedTuple

import pytest
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpsender import RTCRtpSender

from media import hooks
from media.clock import Ticker
from media.downlink import PAUSE_PACKET, AudioDownlink
from media.hooks import Transmission
from media.opus import SILENT_PACKET, OpusDecoder, has_fec
from media.playout import Playout
from media.red import unpack
from tests.media.peers import speech
from tests.media.test_clock import FakeTimers
from tests.media.test_packetsender import Wire, parameters


class Quiet:
    def started(self, epoch: int) -> None: ...

    def progressed(self, epoch: int, samples: int) -> None: ...

    def drained(self, epoch: int) -> None: ...


class Sent(NamedTuple):
    payload: bytes
    pts: int
    payload_type: int | None = None

    def __bytes__(self) -> bytes:
        return self.payload


class Out:
    """Stands for a connected sender: keeps what it is to send."""

    is_open = True
    payload_type = 111

    def __init__(self, timers: FakeTimers) -> None:
        self.sent: list[Sent] = []
        self.times: list[float] = []
        self._timers = timers

    def send(self, payload: bytes, pts: int, payload_type: int | None = None) -> None:
        self.sent.append(Sent(payload, pts, payload_type))
        self.times.append(self._timers.now)


class Line:
    """A downlink on virtual ticks."""

    def __init__(self, listener: Any = None) -> None:
        self.timers = FakeTimers()
        self.ticker = Ticker(phases=1, timers=self.timers)
        self.playout = Playout(listener=listener or Quiet())
        self.errors: list[Exception] = []
        self.track = AudioDownlink(
            self.playout, self.ticker, on_error=self.errors.append, clock=self.timers.time
        )
        self.out = Out(self.timers)
        self.track._packets = self.out  # type: ignore[assignment]

    def packets(self, ticks: int) -> list[Sent]:
        """What is sent within so many ticks."""
        before = len(self.out.sent)
        for _ in range(ticks):
            self.timers.run_to(self.timers.now + 0.02001)
        return self.out.sent[before:]


async def test_idle_track_sends_constant_silence_with_continuous_pts() -> None:
    line = Line()
    packets = line.packets(5)
    assert [bytes(p) for p in packets] == [SILENT_PACKET] * 5
    assert [p.pts for p in packets] == [0, 960, 1920, 2880, 3840]
    assert line.track.stats()["silentPacketsSent"] == 5


async def test_speech_is_encoded_and_silence_follows_its_end() -> None:
    line = Line()
    line.packets(2)
    line.playout.push(1, speech(0.2, 24_000))
    line.playout.finish(1)
    packets = line.packets(14)
    payloads = [bytes(p) for p in packets]
    assert all(p != SILENT_PACKET for p in payloads[:11])
    assert payloads[11:] == [SILENT_PACKET] * 3
    assert [p.pts for p in packets] == [960 * i for i in range(2, 16)]
    decoder = OpusDecoder()
    assert {len(decoder.decode(p)) for p in payloads} == {640}


async def test_a_cut_is_heard_in_the_next_packet() -> None:
    line = Line()
    line.playout.push(1, speech(2.0, 24_000))
    line.packets(10)
    assert line.playout.clear() == (1, 10 * 480 + 120)
    payloads = [bytes(p) for p in line.packets(4)]
    assert payloads[2:] == [SILENT_PACKET] * 2


async def test_failing_listener_ends_the_track_with_a_report() -> None:
    class Failing(Quiet):
        def progressed(self, epoch: int, samples: int) -> None:
            raise KeyError("listener")

    line = Line(Failing())
    line.playout.push(1, speech(0.1, 24_000))
    assert line.packets(1) == []
    assert [type(e) for e in line.errors] == [KeyError]
    assert line.track.readyState == "ended"
    assert line.ticker.num_subscribers == 0


async def test_sender_that_cannot_begin_ends_the_track_with_a_report() -> None:
    line = Line()
    sender = RTCRtpSender("audio", Wire())  # type: ignore[arg-type]
    line.track.bind(sender)
    await sender.send(parameters(256 * "m"))
    await sender.stop()
    assert [type(e) for e in line.errors] == [AssertionError]
    assert line.track.readyState == "ended"


async def test_nobody_fetches_packets() -> None:
    with pytest.raises(MediaStreamError):
        await Line().track.recv()


class Reported:
    """What a client reports of a bound downlink, by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, line: Line, **wishes: Any) -> None:
        self.latest = Transmission(0, 0)
        monkeypatch.setattr(hooks, "transmission", lambda sender: self.latest)
        line.track.bind(RTCRtpSender.__new__(RTCRtpSender), **wishes)
        line.track._packets = line.out  # type: ignore[assignment]

    def says(self, loss: float, round_trip_s: float = 0.05) -> None:
        self.latest = Transmission(100, 9000, 7, loss, round_trip_s, object())


async def test_fec_and_bitrate_follow_what_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    reported = Reported(monkeypatch, line)
    line.playout.push(1, speech(12.0, 24_000))
    clean = line.packets(100)
    assert not any(has_fec(bytes(p)) for p in clean)
    reported.says(0.07)
    lossy = line.packets(150)
    assert any(has_fec(bytes(p)) for p in lossy)
    assert line.track.stats()["fecPercent"] == 14
    assert line.track.stats()["targetBitrate"] == round(32_000 * 1.14)
    assert line.track.stats()["roundTripTime"] == 0.05
    reported.says(0.0)
    # The same report is not counted again, and the line's clock has gone on by 2 s.
    line.packets(100)
    assert line.track.stats()["fecPercent"] == 11
    for _ in range(4):
        # Smoothed as aiortc does it: it is the latest alone that tells of a queue.
        reported.says(0.0, 0.15 * 0.9 + 0.85 * (reported.latest.round_trip_s or 0))
        line.packets(50)
    assert line.track.stats()["targetBitrate"] == round(32_000 * 0.8**4)
    slow = line.packets(100)
    assert sum(len(bytes(p)) for p in slow) < 0.7 * sum(len(bytes(p)) for p in clean)


async def test_packets_carry_copies_where_the_client_takes_them_and_loses_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line()
    reported = Reported(monkeypatch, line, red_payload_type=63)
    line.playout.push(1, speech(4.0, 24_000))
    clean = line.packets(50)
    assert {p.payload_type for p in clean} == {None}
    reported.says(0.05)
    lossy = line.packets(50)[10:]
    assert {p.payload_type for p in lossy} == {63}
    found = {p.pts: unpack(p.payload) for p in lossy}
    for pts, packet in list(found.items())[2:]:
        assert packet is not None
        ((offset, payload),) = packet.copies
        earlier = found[pts - offset]
        assert earlier is not None and payload == earlier.payload
        assert offset == 2 * 960
    assert line.track.stats()["copiesSent"] >= 40
    reported.says(0.0, 0.4)
    assert {p.payload_type for p in line.packets(50)[20:]} == {None}


async def test_pauses_have_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    reported = Reported(monkeypatch, line, red_payload_type=63, has_pauses=True)
    line.packets(100)
    reported.says(0.1)
    packets = line.packets(100)
    assert {(p.payload, p.payload_type) for p in packets} == {(PAUSE_PACKET, None)}
    assert line.track.stats()["copiesSent"] == 0


async def test_who_takes_no_copies_is_sent_none(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    reported = Reported(monkeypatch, line)
    line.playout.push(1, speech(1.0, 24_000))
    reported.says(0.2)
    assert {p.payload_type for p in line.packets(40)} == {None}


async def test_a_client_gets_no_more_bits_than_it_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line()
    reported = Reported(monkeypatch, line, max_bitrate=16_000)
    line.playout.push(1, speech(4.0, 24_000))
    reported.says(0.1)
    packets = line.packets(150)
    assert line.track.stats()["targetBitrate"] == 16_000
    assert sum(len(bytes(p)) for p in packets) * 8 / 3.0 < 18_000


async def test_who_prefers_pauses_is_sent_little_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line()
    Reported(monkeypatch, line, has_pauses=True)
    assert [bytes(p) for p in line.packets(5)] == [SILENT_PACKET] * 5
    packets = line.packets(46)
    line.playout.push(1, speech(0.1, 24_000))
    packets += line.packets(14)
    # Each tenth tick is told to be silent; then the answer, its end, and silence again.
    pauses = [p.pts for p in packets if bytes(p) == PAUSE_PACKET]
    assert pauses[:5] == [960 * n for n in (5, 15, 25, 35, 45)]
    spoken = [p.pts for p in packets if bytes(p) not in (PAUSE_PACKET, SILENT_PACKET)]
    assert spoken[:6] == [960 * n for n in range(51, 57)]
    decoder = OpusDecoder()
    assert {len(decoder.decode(bytes(p))) for p in packets} == {640}


async def test_a_loudspeaker_that_opens_late_is_sent_pauses_at_the_beginning(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line()
    Reported(monkeypatch, line, opens_late=True)
    early = line.packets(500)
    assert len(early) < 60
    assert [bytes(p) for p in line.packets(50)] == [SILENT_PACKET] * 50
    line.playout.push(1, speech(0.1, 24_000))
    assert [p.pts for p in line.packets(5)] == [960 * n for n in range(550, 555)]


async def test_unheard_speech_is_taken_in_real_time_by_the_tick_alone() -> None:
    line = Line()
    line.track.bind(None)
    line.playout.push(1, speech(2.0, 24_000))
    for taken in range(1, 6):
        line.timers.run_to(line.timers.now + 0.02001)
        assert line.playout.taken_samples == taken * 480
    line.track.stop()
    line.timers.run_to(line.timers.now + 0.2)
    assert line.playout.taken_samples == 5 * 480


async def test_speech_for_a_sender_waits_until_that_is_connected() -> None:
    line = Line()
    line.out.is_open = False
    line.playout.push(1, speech(2.0, 24_000))
    line.timers.run_to(line.timers.now + 0.2)
    assert line.playout.taken_samples == 0
    line.out.is_open = True
    sent = line.packets(3)
    assert line.playout.taken_samples == 480 * len(sent) > 0


async def test_a_failing_listener_of_unheard_speech_is_told_once() -> None:
    class Failing(Quiet):
        def progressed(self, epoch: int, samples: int) -> None:
            raise LookupError("bug")

    line = Line(Failing())
    line.track.bind(None)
    line.playout.push(1, speech(1.0, 24_000))
    line.timers.run_to(line.timers.now + 0.2)
    assert [type(error) for error in line.errors] == [LookupError]


async def test_timestamps_keep_real_time_over_stalls_without_bursts_or_lost_sound() -> None:
    rng = random.Random(6)
    line = Line()
    timers = line.timers
    voice = speech(1.0, 24_000)
    begin = timers.now
    while timers.now < begin + 200:
        if rng.random() < 0.003 and line.playout.is_idle:
            line.playout.push(len(line.out.sent), voice)
            line.playout.finish(len(line.out.sent))
        if rng.random() < 0.01:
            # The loop is held up: the tick comes late or whole ticks are left out.
            timers.now += rng.uniform(0.005, 0.3)
        timers.run_to(max(timers.now, min(timers.pending)[0]))
    line.track.stop()
    sent = [(at, packet.pts) for at, packet in zip(line.out.times, line.out.sent, strict=True)]
    first_s, first_pts = sent[0]
    offsets = [at - first_s - (pts - first_pts) / 48_000 for at, pts in sent]
    assert max(map(abs, offsets)) <= 0.0205
    assert line.ticker.skipped_ticks > 50
    # Never two packets at once, but for the one that a late tick is followed by.
    gaps = [b[0] - a[0] for a, b in zip(sent, sent[2:], strict=False)]
    assert min(gaps) >= 0.019
    assert line.playout.taken_samples == line.playout.pushed_samples > 24_000
