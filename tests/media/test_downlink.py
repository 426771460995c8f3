"""The outbound track: one packet a tick, pts in real time, exact cuts, silence, errors, FEC."""

import asyncio
import random
from typing import Any

import av
import pytest
from aiortc.mediastreams import MediaStreamError
from aiortc.rtcrtpsender import RTCRtpSender

from media import hooks
from media.clock import Ticker
from media.downlink import PAUSE_PACKET, AudioDownlink
from media.hooks import Transmission
from media.opus import SILENT_PACKET, OpusDecoder, has_fec
from media.playout import Playout
from tests.media.peers import speech
from tests.media.test_clock import FakeTimers


class Quiet:
    def started(self, epoch: int) -> None: ...

    def progressed(self, epoch: int, samples: int) -> None: ...

    def drained(self, epoch: int) -> None: ...


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

    async def packets(self, count: int) -> list["av.Packet[Any]"]:
        packets = []
        for _ in range(count):
            waiting = asyncio.ensure_future(self.track.recv())
            await asyncio.sleep(0)
            assert not waiting.done()
            self.timers.run_to(self.timers.now + 0.02001)
            packets.append(await waiting)
        return packets


async def test_idle_track_sends_constant_silence_with_continuous_pts() -> None:
    line = Line()
    packets = await line.packets(5)
    assert [bytes(p) for p in packets] == [SILENT_PACKET] * 5
    assert [p.pts for p in packets] == [0, 960, 1920, 2880, 3840]
    assert {p.time_base.denominator for p in packets} == {48_000}
    assert line.track.stats()["silentPacketsSent"] == 5


async def test_speech_is_encoded_and_silence_follows_its_end() -> None:
    line = Line()
    await line.packets(2)
    line.playout.push(1, speech(0.2, 24_000))
    line.playout.finish(1)
    packets = await line.packets(14)
    payloads = [bytes(p) for p in packets]
    assert all(p != SILENT_PACKET for p in payloads[:11])
    assert payloads[11:] == [SILENT_PACKET] * 3
    assert [p.pts for p in packets] == [960 * i for i in range(2, 16)]
    decoder = OpusDecoder()
    assert {len(decoder.decode(p)) for p in payloads} == {640}


async def test_a_cut_is_heard_in_the_next_packet() -> None:
    line = Line()
    line.playout.push(1, speech(2.0, 24_000))
    await line.packets(10)
    assert line.playout.clear() == (1, 10 * 480 + 120)
    payloads = [bytes(p) for p in await line.packets(4)]
    assert payloads[2:] == [SILENT_PACKET] * 2


async def test_a_missed_tick_is_made_up_once_and_never_in_a_burst() -> None:
    line = Line()
    await line.packets(3)
    line.timers.run_to(line.timers.now + 0.2)
    await asyncio.wait_for(line.track.recv(), 5)
    assert line.track.stats()["missedTicks"] >= 8
    await line.packets(1)


async def test_failing_listener_ends_the_track_with_a_report() -> None:
    class Failing(Quiet):
        def progressed(self, epoch: int, samples: int) -> None:
            raise KeyError("listener")

    line = Line(Failing())
    line.playout.push(1, speech(0.1, 24_000))
    with pytest.raises(MediaStreamError):
        await line.packets(1)
    assert [type(e) for e in line.errors] == [KeyError]
    assert line.track.readyState == "ended"
    assert line.ticker.num_subscribers == 0


async def test_stop_ends_a_waiting_recv() -> None:
    line = Line()
    waiting = asyncio.ensure_future(line.track.recv())
    await asyncio.sleep(0)
    line.track.stop()
    with pytest.raises(MediaStreamError):
        await waiting
    with pytest.raises(MediaStreamError):
        await line.track.recv()
    assert line.errors == []


class Reported:
    """What a client reports of a bound downlink, by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, line: Line, **wishes: Any) -> None:
        self.latest = Transmission(0, 0)
        monkeypatch.setattr(hooks, "transmission", lambda sender: self.latest)
        line.track.bind(RTCRtpSender.__new__(RTCRtpSender), **wishes)

    def says(self, loss: float, round_trip_s: float = 0.05) -> None:
        self.latest = Transmission(100, 9000, 7, loss, round_trip_s, object())


async def test_fec_and_bitrate_follow_what_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line()
    reported = Reported(monkeypatch, line)
    line.playout.push(1, speech(12.0, 24_000))
    clean = await line.packets(100)
    assert not any(has_fec(bytes(p)) for p in clean)
    reported.says(0.07)
    lossy = await line.packets(150)
    assert any(has_fec(bytes(p)) for p in lossy)
    assert line.track.stats()["fecPercent"] == 14
    assert line.track.stats()["targetBitrate"] == round(32_000 * 1.14)
    assert line.track.stats()["roundTripTime"] == 0.05
    reported.says(0.0)
    # The same report is not counted again, and the line's clock has gone on by 2 s.
    await line.packets(100)
    assert line.track.stats()["fecPercent"] == 11
    for _ in range(4):
        # Smoothed as aiortc does it: it is the latest alone that tells of a queue.
        reported.says(0.0, 0.15 * 0.9 + 0.85 * (reported.latest.round_trip_s or 0))
        await line.packets(50)
    assert line.track.stats()["targetBitrate"] == round(32_000 * 0.8**4)
    slow = await line.packets(100)
    assert sum(len(bytes(p)) for p in slow) < 0.7 * sum(len(bytes(p)) for p in clean)


async def test_a_client_gets_no_more_bits_than_it_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line()
    reported = Reported(monkeypatch, line, max_bitrate=16_000)
    line.playout.push(1, speech(4.0, 24_000))
    reported.says(0.1)
    packets = await line.packets(150)
    assert line.track.stats()["targetBitrate"] == 16_000
    assert sum(len(bytes(p)) for p in packets) * 8 / 3.0 < 18_000


async def test_who_prefers_pauses_is_sent_little_in_silence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = Line()
    Reported(monkeypatch, line, has_pauses=True)
    assert [bytes(p) for p in await line.packets(5)] == [SILENT_PACKET] * 5
    waiting = asyncio.ensure_future(line.track.recv())
    packets = []
    for tick in range(60):
        await asyncio.sleep(0)
        line.timers.run_to(line.timers.now + 0.02001)
        await asyncio.sleep(0)
        if tick == 45:
            line.playout.push(1, speech(0.1, 24_000))
        if waiting.done():
            packets.append(waiting.result())
            waiting = asyncio.ensure_future(line.track.recv())
    waiting.cancel()
    # Ticks 5, 25 and 45 are told to be silent; then the answer, its end, and silence again.
    pauses = [p.pts for p in packets if bytes(p) == PAUSE_PACKET]
    assert pauses[:3] == [960 * n for n in (5, 25, 45)]
    spoken = [p.pts for p in packets if bytes(p) not in (PAUSE_PACKET, SILENT_PACKET)]
    assert spoken[:6] == [960 * n for n in range(51, 57)]
    decoder = OpusDecoder()
    assert {len(decoder.decode(bytes(p))) for p in packets} == {640}


async def test_unheard_speech_is_taken_in_real_time_by_the_tick_alone() -> None:
    line = Line()
    line.track.bind(None)
    line.playout.push(1, speech(2.0, 24_000))
    for taken in range(1, 6):
        line.timers.run_to(line.timers.now + 0.02001)
        assert line.playout.taken_samples == taken * 480
    with pytest.raises(MediaStreamError):
        await line.track.recv()
    line.track.stop()
    line.timers.run_to(line.timers.now + 0.2)
    assert line.playout.taken_samples == 5 * 480


async def test_speech_for_a_sender_waits_until_the_sender_takes_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hooks, "transmission", lambda sender: Transmission(0, 0))
    line = Line()
    line.track.bind(RTCRtpSender.__new__(RTCRtpSender))
    line.playout.push(1, speech(2.0, 24_000))
    line.timers.run_to(line.timers.now + 0.2)
    assert line.playout.taken_samples == 0
    await line.packets(3)
    assert line.playout.taken_samples == 3 * 480


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
    sent: list[tuple[float, int]] = []
    voice = speech(1.0, 24_000)
    begin = timers.now
    while timers.now < begin + 200:
        if rng.random() < 0.003 and line.playout.is_idle:
            line.playout.push(len(sent), voice)
            line.playout.finish(len(sent))
        waiting = asyncio.ensure_future(line.track.recv())
        await asyncio.sleep(0)
        if rng.random() < 0.01 and not waiting.done():
            # The loop is held up: the tick comes late or whole ticks are left out.
            timers.now += rng.uniform(0.005, 0.3)
        while not waiting.done():
            timers.run_to(max(timers.now, min(timers.pending)[0]))
            await asyncio.sleep(0)
        sent.append((timers.now, (await waiting).pts or 0))
    line.track.stop()
    first_s, first_pts = sent[0]
    offsets = [at - first_s - (pts - first_pts) / 48_000 for at, pts in sent]
    assert max(map(abs, offsets)) <= 0.0205
    assert line.ticker.skipped_ticks > 50
    # Never two packets at once, but for the one that a late tick is followed by.
    gaps = [b[0] - a[0] for a, b in zip(sent, sent[2:], strict=False)]
    assert min(gaps) >= 0.019
    assert line.playout.taken_samples == line.playout.pushed_samples > 24_000


async def test_a_tick_that_the_sender_missed_shows_in_the_timestamps() -> None:
    line = Line()
    await line.packets(3)
    line.timers.run_to(line.timers.now + 0.1001)
    late = [await line.track.recv()]
    late += await line.packets(2)
    assert [p.pts for p in late] == [960 * n for n in (7, 8, 9)]
