"""The agents SDK as it is, in a page of another origin: speech, a function, an interruption."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import ROOT
from tests.bench.clients.rig import servers
from tests.bench.clients.roster import CLIENTS
from tests.bench.clients.trial import Places, tried

STEPS = ("speech", "tools", "interruption")


async def test_openais_agents_talk_call_functions_and_are_interrupted(tmp_path: Path) -> None:
    [client] = [client for client in CLIENTS if client.name == "agents-webrtc"]
    places = Places((sys.executable,), ROOT / "tests" / "web" / "node_modules")
    async with servers(tmp_path) as rig:
        outcome = await tried(client, rig, places, STEPS)
    if outcome.missing:
        pytest.skip(outcome.missing)
    assert outcome.steps == dict.fromkeys(("connects", *STEPS, "hang-up"), ""), outcome.notes
