"""What comes in real time passes; of what comes at once the newest is kept."""

import pytest

from media.livepace import RealTimeInput

MS = 32
"""Bytes of 1 ms."""


class Rig:
    def __init__(self) -> None:
        self.now = 0.0
        self.passed: list[tuple[int, int]] = []
        self.skipped: list[int] = []
        self.input = RealTimeInput(
            lambda pts, pcm: self.passed.append((pts // 16, len(pcm) // MS)),
            self.skipped.append,
            lambda: self.now,
        )

    def send(self, ms: int, *, times: int = 1, every_s: float = 0.0) -> None:
        for _ in range(times):
            self.input.append(bytes(ms * MS))
            self.input.tick()
            self.now += every_s

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            self.input.tick()

    @property
    def total_ms(self) -> int:
        return sum(ms for _, ms in self.passed)


@pytest.mark.parametrize("ms", [20, 100, 400])
def test_real_time_passes_at_once(ms: int) -> None:
    rig = Rig()
    rig.send(ms, times=100, every_s=ms / 1000)
    assert rig.total_ms == 100 * ms and rig.skipped == []
    assert rig.input.pts == 1600 * ms


def test_a_start_that_waited_is_heard_whole_and_soon() -> None:
    rig = Rig()
    rig.send(100, times=16)
    rig.wait(0.32)
    assert rig.total_ms == 1600 and rig.skipped == []
    rig.send(100, times=20, every_s=0.1)
    rig.wait(0.4)
    assert rig.total_ms == 3600


def test_of_minutes_at_once_the_newest_two_seconds_are_kept() -> None:
    rig = Rig()
    rig.send(100, times=600)
    rig.wait(0.4)
    assert rig.total_ms == 2500 and rig.skipped == [57_500]
    assert rig.passed[-1] == (59_000, 1000)
    assert rig.input.pts == 60_000 * 16
    rig.send(100, times=10, every_s=0.1)
    assert rig.total_ms == 3500 and len(rig.skipped) == 1


def test_pieces_are_no_longer_than_a_second() -> None:
    rig = Rig()
    rig.send(1900)
    rig.wait(0.4)
    assert rig.passed == [(0, 1000), (1000, 900)]
