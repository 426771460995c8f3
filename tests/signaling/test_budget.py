"""What a call's control traffic may cost."""

from signaling.budget import CpuBudget


def test_a_burst_is_free_then_half_of_a_core_then_the_end() -> None:
    budget = CpuBudget(share=0.25, burst_s=2.0)
    now, cpu_s, pauses = 0.0, 0.0, 0.0
    while not budget.is_exceeded:
        pause_s = budget.spend(now, 0.01)
        if cpu_s < 1.4:
            assert pause_s == 0.0
        now += 0.01 + pause_s
        cpu_s += 0.01
        pauses += pause_s
        assert now < 10
    assert 2.0 < cpu_s < 3.5
    assert pauses > 0


def test_a_share_of_a_core_is_never_too_much() -> None:
    budget = CpuBudget(share=0.25, burst_s=2.0)
    assert all(budget.spend(second, 0.24) == 0.0 for second in range(1000))
    assert not budget.is_exceeded


def test_one_enormous_packet_is_the_end() -> None:
    budget = CpuBudget(share=0.25, burst_s=2.0)
    budget.spend(0.0, 2.5)
    assert budget.is_exceeded
