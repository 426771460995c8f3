"""A recording is played whole, and what is synthesised waits."""

from media.formats import DOWNLINK_PACKET_BYTES
from media.liveplayout import LivePlayout


class Listener:
    def started(self, epoch: int) -> None: ...

    def progressed(self, epoch: int, samples: int) -> None: ...

    def drained(self, epoch: int) -> None: ...


def test_a_recording_holds_the_playout_and_its_end_is_told_once() -> None:
    ends: list[bool] = []
    taken: list[bytes | None] = []
    playout = LivePlayout(listener=Listener(), taken=taken.append, ended=lambda: ends.append(True))
    playout.push(1, b"\2" * DOWNLINK_PACKET_BYTES)
    playout.finish(1)
    assert playout.play(b"\1" * (DOWNLINK_PACKET_BYTES + 10))
    assert not playout.play(b"\1\1")
    assert playout.take() == b"\1" * DOWNLINK_PACKET_BYTES and ends == []
    assert playout.take() == b"\1" * 10 + bytes(DOWNLINK_PACKET_BYTES - 10) and ends == [True]
    assert playout.take() == b"\2" * DOWNLINK_PACKET_BYTES
    assert playout.take() is None and ends == [True]
    assert playout.play(b"\1\1")
    assert len(taken) == 4 and taken[-1] is None
