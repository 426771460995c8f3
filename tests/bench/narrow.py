"""What a camera leaves of a narrow way for the sound, in Chromium on our page.

    python -m tests.bench.narrow [--kbit 200]

The page calls a real server through a UDP relay of our own, which becomes narrow in mid-call. The
page's own limits of the camera are lifted, so that only what the server asks for (REMB) keeps it
small. Prints a line of JSON for every five seconds: what the camera sends, how much of the sound
is lost, and the round trip.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from playwright.async_api import Page

from tests.bench.outages import PEERS, Scene
from tests.bench.udp_relay import Narrows, Relay
from tests.browser.chrome import browse, call
from tests.serving import Serving
from tests.speech import microphone

STEP_S = 5.0
PHASES = (("wide", 15.0), ("narrow", 40.0), ("wide", 30.0))
LIFT = """
async () => {
  for (const sender of window.peers.at(-1).getSenders()) {
    if (sender.track?.kind !== 'video') continue;
    const parameters = sender.getParameters();
    Object.assign(parameters.encodings[0], { maxBitrate: 2500000, maxFramerate: 30 });
    await sender.setParameters(parameters);
  }
}
"""
STATS = """
async () => {
  const rows = [...(await window.peers.at(-1).getStats()).values()];
  const find = (type, kind) => rows.find((row) => row.type === type && row.kind === kind) ?? {};
  return {
    video: find('outbound-rtp', 'video'),
    sound: find('outbound-rtp', 'audio'),
    told: find('remote-inbound-rtp', 'audio'),
  };
}
"""


def difference(before: dict[str, Any], after: dict[str, Any]) -> dict[str, Any]:
    def more(kind: str, name: str) -> float:
        return float(after[kind].get(name, 0) - before[kind].get(name, 0))

    return {
        "video_kbit_s": round(more("video", "bytesSent") * 8 / STEP_S / 1000),
        "fps": round(more("video", "framesEncoded") / STEP_S, 1),
        "sound_lost": round(more("told", "packetsLost") / more("sound", "packetsSent"), 3),
        "round_trip_ms": round(1000 * after["told"].get("roundTripTime", 0)),
    }


async def watch(page: Page, relay: Relay, kbit_s: float) -> None:
    before = await page.evaluate(STATS)
    for phase, seconds in PHASES:
        relay.narrows = Narrows(kbit_s * 1000) if phase == "narrow" else None
        for _ in range(round(seconds / STEP_S)):
            await asyncio.sleep(STEP_S)
            after = await page.evaluate(STATS)
            print(json.dumps({"way": phase} | difference(before, after)), flush=True)  # noqa: T201
            before = after


async def main(kbit_s: float) -> None:
    with tempfile.TemporaryDirectory() as folder, Serving() as server:
        mic = microphone(Path(folder) / "mic.wav", [(1.0, "tell_story")], 120)
        relay = await Relay.open()
        async with browse("about:blank", mic) as page:
            scene = Scene(server, page, relay)
            await page.add_init_script(f"({PEERS})()")
            await page.route(re.compile("/v1/realtime/calls"), scene.through_relay)
            await page.goto(server.url)
            await call(page)
            await page.click("#camera-toggle")
            await page.wait_for_function(
                "() => window.peers.at(-1).getSenders().some(s => s.track?.kind === 'video')"
            )
            await page.evaluate(LIFT)
            await watch(page, relay, kbit_s)
        relay.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kbit", type=float, default=200.0)
    asyncio.run(main(parser.parse_args().kbit))
