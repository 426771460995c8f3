"""The call page behind a firewall that lets only the TURN server through, in a real Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.browser.chrome import browse, event
from tests.coturn import SECRET, coturn_server
from tests.serving import Serving

RELAY_ONLY = """
  const Direct = window.RTCPeerConnection;
  window.connections = [];
  window.RTCPeerConnection = class extends Direct {
    constructor(configuration) {
      super({ ...configuration, iceTransportPolicy: 'relay' });
      window.connections.push(this);
    }
  };
"""
LOCAL = """
async () => {
  const report = await window.connections.at(-1).getStats();
  const transport = [...report.values()].find((row) => row.type === 'transport');
  const { localCandidateId } = report.get(transport.selectedCandidatePairId);
  const { candidateType, relayProtocol } = report.get(localCandidateId);
  return [candidateType, relayProtocol];
}
"""


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_the_page_converses_through_a_relay(tmp_path: Path, transport: str) -> None:
    with coturn_server(tmp_path) as where:
        url = f"turn:{where}?transport={transport}"
        options = ("--set", f"media.turn={url}", "--set", f"media.turn_secret={SECRET}")
        with Serving("--engine", "echo", *options) as serving:
            async with browse("about:blank") as page:
                await page.add_init_script(RELAY_ONLY)
                await page.goto(serving.url)
                await page.fill("#text", "good morning")
                await page.click("#send")
                done = await event(page, "response.done")
                assert done["response"]["status"] == "completed"
                assert await page.evaluate(LOCAL) == ["relay", transport]
