"""When a peer counts as gone: connect deadline, silence, and a process that stood still."""

from signaling.liveness import TICK_S, Liveness


def test_connect_deadline() -> None:
    liveness = Liveness(100.0, connect_deadline_s=15)
    assert liveness.check(114.9, 0) is None
    assert liveness.check(115.0, 7) == "connect_timeout"


def gone_after(datagrams_until_s: float, steps: int = 80) -> float | None:
    liveness = Liveness(0.0)
    liveness.connected()
    for step in range(1, steps):
        now = step * TICK_S
        if liveness.check(now, int(min(now, datagrams_until_s) / TICK_S)) is not None:
            return now
    return None


def test_silence_is_noticed_within_four_seconds() -> None:
    assert gone_after(100) is None
    noticed = gone_after(5.0)
    assert noticed is not None and 3.0 <= noticed - 5.0 <= 3.5


def test_a_stalled_process_blames_nobody() -> None:
    liveness = Liveness(0.0)
    liveness.connected()
    assert liveness.check(0.25, 10) is None
    assert liveness.check(30.0, 10) is None
    assert liveness.check(30.25, 60) is None
