"""100 ms go out for each 100 ms of the clock, never ahead by more."""

from media.formats import DOWNLINK_PACKET_BYTES
from media.steady import SteadyOutput


class Rig:
    def __init__(self) -> None:
        self.now = 5.0
        self.waiting: list[bytes] = []
        self.sent: list[tuple[bytes, bool]] = []
        self.output = SteadyOutput(
            lambda: self.waiting.pop(0) if self.waiting else None,
            lambda pcm, is_silent: self.sent.append((pcm, is_silent)),
            lambda: self.now,
        )
        self.output.tick()

    def after(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.02)):
            self.now += 0.02
            self.output.tick()


def test_silence_goes_out_as_true_zeros() -> None:
    rig = Rig()
    rig.after(1.0)
    assert len(rig.sent) == 10
    assert set(rig.sent) == {(bytes(5 * DOWNLINK_PACKET_BYTES), True)}


def test_speech_goes_out_in_its_time() -> None:
    rig = Rig()
    rig.waiting = [b"\1" * DOWNLINK_PACKET_BYTES] * 12
    rig.after(0.2)
    assert len(rig.waiting) == 2 and [silent for _, silent in rig.sent] == [False, False]
    rig.after(0.1)
    [_, _, (last, is_silent)] = rig.sent
    assert last == b"\1" * 2 * DOWNLINK_PACKET_BYTES + bytes(3 * DOWNLINK_PACKET_BYTES)
    assert not is_silent


def test_late_ticks_are_caught_up() -> None:
    rig = Rig()
    rig.now += 0.13
    rig.output.tick()
    rig.now += 0.07
    rig.output.tick()
    assert len(rig.sent) == 2


def test_a_standstill_is_not_caught_up() -> None:
    rig = Rig()
    rig.now += 60
    rig.output.tick()
    assert len(rig.sent) == 2
    rig.after(1.0)
    assert len(rig.sent) == 12
