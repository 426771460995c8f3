"""Sound that comes at any pace reaches the engine in order, at one that it takes."""

from __future__ import annotations

from media.formats import UPLINK_HZ
from media.inputpace import MAX_PIECE_BYTES, MAX_WAITING_S, InputPace
from tests.waiting import Clock


class Rig:
    def __init__(self, speed: float = 1.0) -> None:
        self.clock = Clock()
        self.heard: list[tuple[int, int]] = []
        """Position and samples of each piece."""
        self.pace = InputPace(
            lambda pts, pcm: self.heard.append((pts, len(pcm) // 2)), lambda: speed, self.clock
        )

    @property
    def samples(self) -> int:
        return sum(samples for _, samples in self.heard)

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            self.clock.now += 0.02
            self.pace.tick()


def sound(seconds: float) -> bytes:
    return bytes(int(seconds * UPLINK_HZ) * 2)


def test_sound_in_its_time_passes_at_once() -> None:
    rig = Rig()
    for _ in range(100):
        rig.pace.append(sound(0.02))
        assert rig.pace.waiting_ms == 0
        rig.clock.now += 0.02
    assert [pts for pts, _ in rig.heard] == list(range(0, 32_000, 320))


def test_recording_sent_in_one_go_passes_at_the_engines_pace() -> None:
    rig = Rig()
    rig.pace.append(sound(10))
    assert rig.samples == UPLINK_HZ
    rig.wait(4)
    assert abs(rig.samples - 5 * UPLINK_HZ) <= 320
    rig.wait(5.1)
    assert rig.samples == 10 * UPLINK_HZ
    fast = Rig(speed=10)
    fast.pace.append(sound(10))
    fast.wait(0.92)
    assert fast.samples == 10 * UPLINK_HZ


def test_whole_turn_passes_at_once_in_pieces_that_a_message_holds() -> None:
    rig = Rig()
    rig.pace.append(sound(5.5))
    rig.pace.flush()
    assert rig.samples == int(5.5 * UPLINK_HZ) and rig.pace.waiting_ms == 0
    assert max(samples for _, samples in rig.heard) * 2 <= MAX_PIECE_BYTES
    ends = [pts + samples for pts, samples in rig.heard]
    assert [pts for pts, _ in rig.heard] == [0, *ends[:-1]]


def test_too_much_is_dropped_from_its_beginning_and_shows_as_a_gap() -> None:
    rig = Rig()
    rig.pace.append(sound(MAX_WAITING_S + 30))
    assert rig.pace.dropped_samples == 30 * UPLINK_HZ
    assert rig.heard[0][0] == 30 * UPLINK_HZ


def test_what_is_forgotten_does_not_pass_later() -> None:
    rig = Rig()
    rig.pace.append(sound(5))
    rig.pace.drop()
    rig.wait(10)
    assert rig.samples == UPLINK_HZ
    rig.pace.append(sound(0.02))
    assert rig.heard[-1] == (5 * UPLINK_HZ, 320)


def test_of_sound_in_real_time_only_the_newest_waits() -> None:
    heard: list[int] = []
    clock = Clock()
    pace = InputPace(lambda pts, pcm: heard.append(pts), lambda: 1.0, clock, max_waiting_s=2)
    pace.append(sound(1))
    pace.append(sound(5))
    assert pace.waiting_ms == 2000 and pace.dropped_samples == 3 * UPLINK_HZ
    clock.now += 1
    pace.tick()
    assert heard == [0, 4 * UPLINK_HZ]
