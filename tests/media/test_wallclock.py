"""A wall clock that is set in a call changes no round trip, timer or TURN channel.

Each test that replaces the libraries' clock runs in a process of its own: it is replaced for good.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import aioice
import aiortc
import pytest

from media.wallclock import MEASURING
from tests import ROOT

UNUSED = {"aiortc.mediastreams"}
"""Its tracks make sound and pictures by themselves; ours do not derive from them."""


def uses_of_time(path: Path) -> set[str]:
    """What a module takes from `time`, for example `time`, and of aiortc's clock."""
    return {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in ("time", "clock")
    }


@pytest.mark.parametrize("library", [aiortc, aioice])
def test_no_module_measures_with_the_wall_clock_that_is_not_known(library: object) -> None:
    known = {module.__name__ for module in MEASURING} | UNUSED
    folder = Path(str(vars(library)["__file__"])).parent
    name = folder.name
    found = {
        f"{name}.{path.stem}": uses_of_time(path)
        for path in folder.glob("*.py")
        if path.stem != "clock"
    }
    assert {module for module, uses in found.items() if "time.time" in uses} <= known
    # Only the `time` that is replaced is used, and of the clock what is no duration.
    for module in MEASURING:
        if module.__name__ in found:
            assert {u for u in found[module.__name__] if u.startswith("time.")} == {"time.time"}


JUMP = """
import time
from media.wallclock import MEASURING, measure_with_monotonic_clock
measure_with_monotonic_clock()
import aiortc.clock, aiortc.rtcdtlstransport
real = time.time
def now():
    return [*(module.time.time() for module in MEASURING),
            aiortc.rtcdtlstransport.clock.current_ms() / 1000]
before = now()
time.time = lambda: real() + 3600
print(max(abs(b - a) for a, b in zip(before, now())))
"""

ROUND_TRIP = """
import asyncio, time
from media.wallclock import measure_with_monotonic_clock
measure_with_monotonic_clock()
from aiortc import RTCRtpSender
from aiortc.rtp import RtcpReceiverInfo, RtcpRrPacket
real, jump = time.time, 0.0
time.time = lambda: real() + jump

class Transport:
    state = "new"
    _stats_id = "transport"
    def _get_stats(self):
        return {}

async def main():
    global jump
    sender = RTCRtpSender("audio", Transport())
    vars(sender)["_RTCRtpSender__lsr"] = 7
    import aiortc.rtcrtpsender as module
    vars(sender)["_RTCRtpSender__lsr_time"] = module.time.time()
    jump = 7_582_351.0
    report = RtcpReceiverInfo(ssrc=sender._ssrc, fraction_lost=0, packets_lost=0,
                              highest_sequence=0, jitter=0, lsr=7, dlsr=1)
    await sender._handle_rtcp_packet(RtcpRrPacket(ssrc=1, reports=[report]))
    stats = await sender.getStats()
    print(next(s.roundTripTime for s in stats.values() if s.type == "remote-inbound-rtp"))

asyncio.run(main())
"""


@pytest.mark.loopback
@pytest.mark.parametrize("program", [JUMP, ROUND_TRIP], ids=["clocks", "round trip"])
def test_jump_of_the_wall_clock_is_not_measured(program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert abs(float(done.stdout)) < 30


def test_media_worker_replaces_the_clock_before_it_serves() -> None:
    tree = ast.parse((ROOT / "server/worker/worker.py").read_text())
    [main] = [node for node in tree.body if getattr(node, "name", "") == "main"]
    calls = [node.func for node in ast.walk(main) if isinstance(node, ast.Call)]
    assert "measure_with_monotonic_clock" in {getattr(call, "id", "") for call in calls}
