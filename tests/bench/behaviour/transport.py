"""What the way to and from the caller does to the sound: losses, and how it keeps real time."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from tests.bench import loss
from tests.bench.behaviour.caller import Caller

LADDER = {"none": (0.0, 1), "5 %": (0.05, 1), "10 %": (0.1, 1), "10 %, bursts of 3": (0.1, 3)}
LOSS_S = 30.0
RTP_HZ = 48_000
WRAP = 1 << 32
ENDS_S = 5.0
"""At the beginning and at the end, in which the packet that came soonest is taken."""
STORY_S = 30.0
Stamp = tuple[float, int]
"""When a packet came, and its RTP timestamp."""


async def loss_ladder() -> dict[str, Any]:
    """PLCMOS from our encoder to our receiver, in virtual time, and how far it falls; nothing of
    it where `speechmos` is missing. Our encoder is on one way of a call, our receiver on the other.
    """
    judge, pcm = loss.Judge(), loss.speech(LOSS_S)
    rows = {name: await loss.run(pcm, *case, judge) for name, case in LADDER.items()}
    clean = rows["none"].get("plcmos")
    if clean is not None:
        for row in rows.values():
            row["fall"] = round(clean - row["plcmos"], 2)
    return rows


async def drift(caller: Caller, seconds: float) -> float | None:
    """By how many ms the stream to the caller is ahead of real time at the end of a call of so
    many seconds, in which something is told now and then; None if no stream came."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        caller.ask("tell me a story")
        await asyncio.sleep(min(STORY_S, left))
    return ahead_ms(list(caller.ear.stamps))


def ahead_ms(stamps: list[Stamp]) -> float | None:
    """The network only delays: of some seconds the packet that came soonest tells the clock."""
    if not stamps:
        return None
    begun, first = stamps[0]
    ahead = [
        (came, ((ticks - first + WRAP // 2) % WRAP - WRAP // 2) / RTP_HZ - (came - begun))
        for came, ticks in stamps
    ]
    last = stamps[-1][0]
    before = max(of for came, of in ahead if came <= begun + ENDS_S)
    after = max(of for came, of in ahead if came >= last - ENDS_S)
    return round((after - before) * 1000, 1)
