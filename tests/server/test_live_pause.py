"""A call that pauses for long, in a running server with real processes and peers.

Guards: its slot goes to who waits; resuming waits behind them; both calls are answered afterwards,
with what was written down of the first one told to the engine again.
"""

from __future__ import annotations

import pytest

from tests.caller import Caller
from tests.serving import Serving

pytestmark = pytest.mark.loopback

OPTIONS = ("engine.slots=1", "chat.slots=0", "calls.pause_keeps_s=5")
TURNS = {"audio": {"input": {"turn_detection": None}}}


async def answered(caller: Caller, count: int) -> None:
    caller.type("what is two plus two")
    done = await caller.hears("response.done", count=count)
    assert done["response"]["status"] == "completed", done


async def test_long_pause_lets_others_speak_and_goes_on_behind_them() -> None:
    settings = [part for option in OPTIONS for part in ("--set", option)]
    with Serving(*settings) as server:
        async with Caller(server.url, session=TURNS) as first:
            await first.hears("session.created")
            await answered(first, 1)
            first.send("session.pause")
            assert (await first.hears("session.paused"))["slot_kept_s"] == 5.0
            async with Caller(server.url, session=TURNS) as second:
                await second.hears("session.queued")
                await second.hears("session.created")
                codes = [e["code"] for e in first.events if e["type"] == "session.warning"]
                assert codes[-2:] == ["pause_ends_soon", "slot_given_away"]
                await answered(second, 1)
                first.send("session.resume")
                assert (await first.hears("session.queued"))["position"] == 1
            assert (await first.hears("session.resumed"))["kept"] == "words"
            await answered(first, 2)
            first.send("session.pause")
            first.send("session.resume")
            assert (await first.hears("session.resumed", count=2))["kept"] == "everything"
            await answered(first, 3)
