"""WHIP from a page of another origin in Chromium: Eyevinn's web client, and an ICE restart.

Guards: cross-origin rules, trickle and DELETE as that client does them; the conversation goes on in
the new ICE session after a restart by PATCH, with every candidate pair of the old one gone.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from playwright.async_api import Page

from tests import ROOT
from tests.browser.chrome import browse
from tests.serving import Serving
from tests.waiting import until

MODULES = ROOT / "tests" / "web" / "node_modules"
CLIENT = "@eyevinn/whip-web-client/dist/whip-client.js"
NEEDED = {
    "client": CLIENT,
    "events": "events/events.js",
    "sdp-transform": "sdp-transform/lib/index.js",
    "./parser": "sdp-transform/lib/parser.js",
    "./writer": "sdp-transform/lib/writer.js",
    "./grammar": "sdp-transform/lib/grammar.js",
}
LOADER = """
(sources) => {
  const loaded = {};
  const require = (name) => {
    if (!(name in loaded)) {
      const module = { exports: {} };
      loaded[name] = module;
      new Function('module', 'exports', 'require', sources[name])(module, module.exports, require);
    }
    return loaded[name].exports;
  };
  window.WHIPClient = require('client').WHIPClient;
}
"""
INGEST = """
async (endpoint) => {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
  const client = new window.WHIPClient({ endpoint, opts: { iceServers: [] } });
  window.client = client;
  window.began = performance.now();
  await client.ingest(stream);
  return { resource: await client.getResourceUrl(), tag: client.eTag,
           trickles: client.supportTrickleIce(), state: client.getICEConnectionState() };
}
"""


@asynccontextmanager
async def elsewhere() -> AsyncIterator[str]:
    """A page that is not the server's."""

    async def page(request: web.Request) -> web.Response:
        return web.Response(
            text="<!doctype html><title>elsewhere</title>", content_type="text/html"
        )

    app = web.Application()
    app.router.add_get("/{any:.*}", page)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "localhost", 0)
        await site.start()
        yield f"http://localhost:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()


def rows(server: Serving) -> list[dict[str, Any]]:
    calls = server.get("/api/stats")[1]["calls"]
    return [row for call in calls for row in call["stats"]]


def received(server: Serving, kind: str, name: str) -> int:
    found = [row for row in rows(server) if row["type"] == "inbound-rtp"]
    return next((int(row.get(name, 0)) for row in found if row["kind"] == kind), 0)


async def test_eyevinns_web_client_ingests_and_leaves(server: Serving) -> None:
    if not (MODULES / CLIENT).is_file():
        pytest.skip("@eyevinn/whip-web-client is missing: npm install in tests/web")
    sources = {name: (MODULES / path).read_text() for name, path in NEEDED.items()}
    async with elsewhere() as url, browse(url) as page:
        complaints: list[str] = []
        page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        await page.evaluate(LOADER, sources)
        told = await page.evaluate(INGEST, f"{server.url}whip")
        assert told["resource"].startswith(f"{server.url}whip/rtc_")
        assert told["tag"].startswith('"') and told["trickles"]
        await until(lambda: received(server, "audio", "packetsReceived") > 50)
        await until(lambda: received(server, "video", "framesDecoded") > 0)
        await page.evaluate("() => window.client.destroy()")
        await until(lambda: server.get("/api/stats")[1]["calls"] == [])
        assert complaints == []


CONNECT = """
async (endpoint) => {
  const pc = new RTCPeerConnection();
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  pc.addTrack(stream.getTracks()[0], stream);
  window.pc = pc;
  window.events = [];
  const channel = pc.createDataChannel('oai-events');
  channel.onmessage = ({ data }) => window.events.push(JSON.parse(data));
  window.channel = channel;
  await pc.setLocalDescription();
  const answer = await fetch(endpoint, {
    method: 'POST', headers: { 'Content-Type': 'application/sdp' }, body: pc.localDescription.sdp,
  });
  window.session = new URL(answer.headers.get('Location'), endpoint).href;
  window.tag = answer.headers.get('ETag');
  await pc.setRemoteDescription({ type: 'answer', sdp: await answer.text() });
}
"""
RESTART = """
async () => {
  const { pc } = window;
  pc.restartIce();
  await pc.setLocalDescription();
  const lines = pc.localDescription.sdp.split('\\r\\n');
  const first = (name) => lines.find((line) => line.startsWith(`a=${name}:`));
  const fragment = [first('ice-ufrag'), first('ice-pwd'), 'm=audio 9 RTP/AVP 0', first('mid'), '']
    .join('\\r\\n');
  const answer = await fetch(window.session, {
    method: 'PATCH',
    headers: { 'Content-Type': 'application/trickle-ice-sdpfrag', 'If-Match': '*' },
    body: fragment,
  });
  const ours = (await answer.text()).split('\\r\\n');
  const credentials = ours.filter((line) => /^a=ice-(ufrag|pwd):/.test(line));
  const candidates = ours.filter((line) => line.startsWith('a=candidate:'));
  const [head, ...media] = pc.remoteDescription.sdp
    .replace(/a=(candidate|ice-ufrag|ice-pwd|end-of-candidates).*\\r\\n/g, '').split(/^(?=m=)/m);
  const more = [...credentials, ...candidates, ''].join('\\r\\n');
  await pc.setRemoteDescription(
    { type: 'answer', sdp: head + media.map((section) => section + more).join('') });
  const tag = answer.headers.get('ETag');
  const isNew = tag !== window.tag;
  window.tag = tag;
  return { status: answer.status, isNew, ufrag: credentials[0].split(':')[1] };
}
"""
PAIR = """
async () => {
  const report = await window.pc.getStats();
  const transport = [...report.values()].find((row) => row.type === 'transport');
  const pair = report.get(transport.selectedCandidatePairId);
  const remote = pair && report.get(pair.remoteCandidateId);
  return { ufrag: remote && remote.usernameFragment, state: window.pc.iceConnectionState,
           changes: transport.selectedCandidatePairChanges, dtls: transport.dtlsState };
}
"""
ASK = """
(text) => {
  const content = [{ type: 'input_text', text }];
  const item = { type: 'message', role: 'user', content };
  window.channel.send(JSON.stringify({ type: 'conversation.item.create', item }));
  window.channel.send(JSON.stringify({ type: 'response.create' }));
}
"""


async def hears(server: Serving, packets: int) -> None:
    """Wait until the server has so many packets of sound."""
    await until(lambda: received(server, "audio", "packetsReceived") > packets)


async def answers(page: Page, count: int) -> None:
    await page.wait_for_function(
        "(count) => window.events.filter((e) => e.type === 'response.done').length >= count",
        arg=count,
    )


async def test_a_restart_by_patch_keeps_the_conversation(server: Serving) -> None:
    async with elsewhere() as url, browse(url) as page:
        await page.evaluate(CONNECT, f"{server.url}whip")
        await page.wait_for_function("() => window.channel.readyState === 'open'")
        await page.evaluate(ASK, "what time is it?")
        await answers(page, 1)
        for count in (2, 3):
            told = await page.evaluate(RESTART)
            assert told["status"] == 200 and told["isNew"]
            await page.wait_for_function(
                f"async (ufrag) => (await ({PAIR})()).ufrag === ufrag", arg=told["ufrag"]
            )
            wanted = received(server, "audio", "packetsReceived") + 50
            await page.evaluate(ASK, "what time is it?")
            await answers(page, count)
            await hears(server, wanted)
            pair = await page.evaluate(PAIR)
            assert pair["state"] in ("connected", "completed") and pair["dtls"] == "connected"
        kinds = json.loads(
            await page.evaluate("() => JSON.stringify(window.events.map((e) => e.type))")
        )
        assert kinds.count("session.created") == 1 and "session.ended" not in kinds
        await page.evaluate("() => fetch(window.session, { method: 'DELETE' })")
        await until(lambda: server.get("/api/stats")[1]["calls"] == [])
