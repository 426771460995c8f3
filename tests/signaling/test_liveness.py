"""When a peer counts as gone: connect deadline, silence, and a process that stood still."""

from signaling.awake import AwakeClock
from signaling.liveness import REFUSED_SILENCE_S, SILENCE_S, TICK_S, Liveness
from tests.waiting import Clock


def test_connect_deadline() -> None:
    liveness = Liveness(100.0, connect_deadline_s=15)
    assert liveness.check(114.9, 0) is None
    assert liveness.check(115.0, 7) == "connect_timeout"


def silence_endured(*, refused_at_s: float | None = None) -> float | None:
    """How long a peer that was heard until 5.0 s is waited for; None: for more than a minute."""
    liveness = Liveness(0.0)
    liveness.connected(0.0)
    for step in range(1, 260):
        now = step * TICK_S
        refusals = int(refused_at_s is not None and now >= refused_at_s)
        if liveness.check(now, int(min(now, 5.0) / TICK_S), refusals) is not None:
            return now - 5.0
    return None


def test_silence_is_endured_for_ten_seconds() -> None:
    assert silence_endured() == SILENCE_S == 10.0


def test_silence_is_endured_for_two_where_the_host_says_that_the_port_is_closed() -> None:
    assert silence_endured(refused_at_s=5.5) == REFUSED_SILENCE_S == 2.0
    assert silence_endured(refused_at_s=9.0) == 4.0


def test_a_refusal_before_a_sign_of_life_is_forgotten() -> None:
    assert silence_endured(refused_at_s=4.0) == SILENCE_S


def test_a_stalled_process_blames_nobody() -> None:
    clock = Clock()
    awake = AwakeClock(TICK_S, clock)
    liveness = Liveness(awake(), connect_deadline_s=15)
    clock.now += 30.0
    assert liveness.check(awake(), 0) is None, "nobody could connect meanwhile"
    liveness.connected(awake())
    clock.now += 0.25
    assert liveness.check(awake(), 10) is None
    clock.now += 30.0
    assert liveness.check(awake(), 10) is None
    clock.now += 0.25
    assert liveness.check(awake(), 60) is None
