"""Every target for some seconds with a fresh seed, and all that was ever found, again.

A failure names its seed: `python -m tests.fuzz TARGET --seed S --cases N` does the same again.
"""

from __future__ import annotations

import asyncio
import importlib.util
import secrets

import msgspec
import pytest

from tests.fuzz.campaign import Campaign
from tests.fuzz.cases import Cases
from tests.fuzz.rig import Rig
from tests.fuzz.targets import TARGETS

SECONDS = 1.0
BATCH = 24
"""A target gets its corpus and as many cases more at least, however slow the machine is."""
BESIDE_BUILTIN = (
    *("offers", "multiparts", "items", "whip", "live-offers", "events", "ws-frames"),
    *("ws-realtime", "ws-realtime-joined", "ws-live", "ws-live-joined", "ws-openbmb"),
    *("chats", "speeches", "recordings", "voices", "zmq", "udp-stranger", "udp-client"),
)
ALONE = ("payloads", "files")


async def survives(name: str, rig: Rig | None = None) -> None:
    """Nothing is found by the corpus, nor by new cases."""
    seed = secrets.randbits(32)
    campaign = Campaign(TARGETS[name](), seed, batch=BATCH)
    report = await campaign.run(seconds=SECONDS, cases=None, rig=rig)
    assert not report.findings, msgspec.json.format(msgspec.json.encode(report)).decode()


@pytest.mark.loopback
async def test_no_door_of_a_server_breaks() -> None:
    async with Rig() as rig:
        for name in BESIDE_BUILTIN:
            await survives(name, rig)
        assert not await rig.end()


@pytest.mark.loopback
async def test_no_event_breaks_the_echo() -> None:
    await survives("events:echo")


@pytest.mark.loopback
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="it needs torch")
async def test_no_event_breaks_the_native_engine() -> None:
    await survives("events:minicpmo")


@pytest.mark.loopback
@pytest.mark.parametrize("name", ALONE)
async def test_no_decoder_breaks(name: str) -> None:
    await survives(name)


def test_every_door_is_tried() -> None:
    """The events are also tried with the other engines, in tests of their own."""
    elsewhere = {"events:echo", "events:minicpmo", *ALONE}
    assert set(TARGETS) == {*BESIDE_BUILTIN, *elsewhere}


MADE = ("offers", "events", "zmq", "udp-client", "ws-frames", "ws-live", "chats", "whip")


@pytest.mark.parametrize("name", MADE)
async def test_same_seed_gives_the_same_cases(name: str) -> None:
    def first() -> list[bytes]:
        return [case for case, _ in zip(Cases(TARGETS[name](), 5), range(60), strict=False)]

    once, again = await asyncio.to_thread(first), await asyncio.to_thread(first)
    assert once == again and len(set(once)) > 30
