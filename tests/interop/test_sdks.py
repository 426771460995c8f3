"""SDKs for Realtime over WebSockets, as they are: each talks to a real server by its own means.

Those of OpenAI are installed by `pip install -e '.[dev]'` and, in tests/web, `npm install`. Of
the others, which are large: pip install livekit-agents livekit-plugins-openai 'pipecat-ai[openai]'
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from pathlib import Path

import pytest

from tests import ROOT
from tests.bench.clients.rig import servers
from tests.bench.clients.roster import CLIENTS
from tests.bench.clients.table import Outcome
from tests.bench.clients.trial import Places, tried

pytestmark = pytest.mark.loopback

PLACES = Places((sys.executable,), ROOT / "tests" / "web" / "node_modules")
TRIED = {
    "agents-websocket": ("text", "tools", "handoff", "history"),
    "openai-npm": ("speech", "text", "tools"),
    "openai-agents": ("text", "tools", "handoff", "history"),
    "livekit-realtime": ("text", "tools"),
    "pipecat-realtime": ("text", "tools"),
}


async def _all() -> dict[str, Outcome]:
    """Side by side: most of the time goes into what is said."""
    with tempfile.TemporaryDirectory() as folder:
        async with servers(Path(folder)) as rig:
            clients = [client for client in CLIENTS if client.name in TRIED]
            trials = (tried(client, rig, PLACES, TRIED[client.name]) for client in clients)
            outcomes = await asyncio.gather(*trials)
    return {outcome.client.name: outcome for outcome in outcomes}


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return asyncio.run(_all())


@pytest.mark.parametrize("name", TRIED)
def test_it_does_what_it_is_made_for(name: str, outcomes: dict[str, Outcome]) -> None:
    outcome = outcomes[name]
    if outcome.missing:
        pytest.skip(outcome.missing)
    assert outcome.steps == dict.fromkeys(("connects", *TRIED[name], "hang-up"), ""), outcome.notes
