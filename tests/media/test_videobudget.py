"""A camera gives way to the sound of its caller, and comes back."""

import random

from media.videobudget import MAX_BITRATE, MIN_BITRATE, VideoBudget


class Call:
    """Fifty packets of sound a second, and a camera that sends what it may."""

    def __init__(self, camera: int = 1_000_000) -> None:
        self.budget = VideoBudget()
        self.camera = camera
        self.now = 100.0
        self.received = self.lost = self.size = 0
        self.look()

    def look(self, spread_s: float = 0.0) -> None:
        self.budget.look(self.now, self.received, self.lost, spread_s, self.size)

    def seconds(self, count: int, *, loss: float = 0.0, spread_s: float = 0.0) -> None:
        for _ in range(count):
            self.now += 1.0
            lost = round(50 * loss)
            self.lost += lost
            self.received += 50 - lost
            self.size += min(self.camera, self.budget.limit) // 8
            self.look(spread_s)


def test_a_clean_call_has_the_whole_budget() -> None:
    call = Call()
    call.seconds(60, loss=0.02, spread_s=0.05)
    assert call.budget.limit == MAX_BITRATE


def test_lost_sound_takes_the_camera_down_below_what_it_sends() -> None:
    call = Call()
    call.seconds(1, loss=0.1)
    assert call.budget.limit == 700_000
    call.seconds(1, loss=0.1)
    assert call.budget.limit == 489_999
    call.seconds(20, loss=0.1)
    assert MIN_BITRATE <= call.budget.limit < 1.5 * MIN_BITRATE


def test_late_sound_does_the_same() -> None:
    call = Call()
    call.seconds(5, spread_s=0.2)
    assert call.budget.limit < 200_000


def test_the_camera_comes_back_by_and_by() -> None:
    call = Call()
    call.seconds(3, loss=0.1)
    low = call.budget.limit
    call.seconds(4)
    assert call.budget.limit == low
    call.seconds(15)
    assert call.budget.limit == MAX_BITRATE


def test_a_camera_that_is_off_is_not_blamed() -> None:
    call = Call(camera=0)
    call.seconds(20, loss=0.2)
    assert call.budget.limit == MAX_BITRATE


def test_a_pause_of_the_sound_tells_nothing() -> None:
    call = Call()
    call.now += 1.0
    call.lost += 3
    call.received += 3
    call.size += 100_000
    call.look()
    assert call.budget.limit == MAX_BITRATE


def test_whatever_is_counted_stays_within_the_bounds() -> None:
    rng = random.Random(2)
    call = Call()
    for _ in range(3000):
        call.now += rng.choice((0.0, 0.5, 1.0, 9.0))
        call.received += rng.randrange(60)
        call.lost += rng.randrange(-5, 20)
        call.size += rng.randrange(300_000)
        call.look(rng.choice((0.0, 0.0, 0.3)))
        assert MIN_BITRATE <= call.budget.limit <= MAX_BITRATE
