"""The attacks and the soak, short: what `python -m tests.faults` measures at length.

How much of the sound a caller hears depends on how busy this machine is, so here calls must only go
on; the programs hold the limits.
"""

from __future__ import annotations

import pytest

from tests.faults import hostile, matrix, soak, strangers, vanishing
from tests.faults.faults import FAULTS

pytestmark = pytest.mark.loopback


async def test_strangers_take_nothing_from_a_call() -> None:
    report = await strangers.run(rate=500, seconds=3)
    assert not report["died"] and not report["alarms"], report
    assert not any(loss.over for loss in report["calls"]), report
    assert report["log_bytes"] < strangers.MAX_LOG_BYTES, report
    assert min(report["sent"][name] for name in strangers.DATAGRAMS) > 0


async def test_hostile_caller_ends_its_own_call_only() -> None:
    names = ("SACK of wide gaps", "NACK of all", "events")
    report = await hostile.run(names, attack_s=2.0)
    assert set(report["attacks"]) == set(names)
    for name, found in report["attacks"].items():
        assert not found["died"] and not found["alarms"], (name, found)
        assert not any(loss.over for loss in found["calls"]), (name, found)


async def test_clients_that_vanish_leave_nothing_behind() -> None:
    report = await vanishing.run(6)
    assert report["faults"] == [], report
    assert report["counts"]["were served"], report


async def test_a_row_of_the_matrix_tells_who_was_told() -> None:
    kill = next(fault for fault in FAULTS if fault.name == "kill")
    row = await matrix.try_fault("engine", kill)
    assert row.fates["listening"].startswith("served"), row
    assert row.fates["answering"].startswith("served"), row
    assert not row.leaks and not row.alarms and set(row.died) <= {"recogniser"}, row
    assert "| engine | kill |" in matrix.as_table([row])


def test_slope_of_what_grows_is_told() -> None:
    samples = [soak.Sample(10.0 * i, "engine-0", {"rss_mb": 50 + i / 60}) for i in range(360)]
    found = soak.slopes(samples, 900.0)
    assert found["engine-0"]["rss_mb"]["per_hour"] == pytest.approx(6.0, abs=0.01)
    assert soak.judged(found, is_long=True) == ["engine-0: rss_mb grows by 6.0 an hour"]
    assert soak.judged(found, is_long=False) == []


@pytest.mark.parametrize(("every_s", "grows"), [(3000.0, False), (600.0, True)])
def test_steps_that_come_again_are_growth_a_single_one_is_not(every_s: float, grows: bool) -> None:
    samples = [
        soak.Sample(10.0 * i, "engine-0", {"rss_mb": 50.0 + 10 * i // every_s}) for i in range(360)
    ]
    found = soak.slopes(samples, 900.0)
    assert found["engine-0"]["rss_mb"]["least_squares"] > soak.MAX_RSS_MB_PER_H
    assert bool(soak.judged(found, is_long=True)) == grows
