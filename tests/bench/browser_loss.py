"""What lost packets cost what a browser hears of us, in Chromium on our page.

    python -m tests.bench.browser_loss [--sentences 10] [--plain]

With `--plain` the browser offers no copies of earlier packets (RFC 2198), which it does by itself.
The page calls a real server through a UDP relay of our own, which loses packets on the way to the
browser, and has sentences repeated. Prints a line of JSON for each loss: the share of samples that
the browser concealed, its delay, bytes sent, and of what the page played the share of words that
are wrong to the recogniser of `omnicall[voice]`, and PLCMOS where `speechmos` is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from playwright.async_api import Page

from engine.builtin.speech_models import find_models
from engine.builtin.whisper import WhisperModel
from engine.config import BuiltinConfig
from tests.bench.behaviour.sentences import errors, plain_words
from tests.bench.loss import Judge, lost
from tests.bench.outages import PEERS, Scene
from tests.bench.udp_relay import Relay
from tests.bench.words import SENTENCES
from tests.browser.chrome import browse, call, event
from tests.serving import Serving
from tests.speech import microphone

LOSSES = ((0.0, 1), (0.05, 1), (0.1, 1), (0.1, 3), (0.1, 5))
"""Share and length of bursts."""
SETTLE_S = 4.0
"""Until reports of the loss have had their effect."""
RECORD = """
() => {
  const context = new AudioContext({ sampleRate: 16000 });
  const node = context.createScriptProcessor(4096, 1, 1);
  window.heard = [];
  node.onaudioprocess = ({ inputBuffer }) => {
    const samples = inputBuffer.getChannelData(0);
    window.heard.push(Int16Array.from(samples, (s) => Math.max(-1, Math.min(1, s)) * 32767));
  };
  const stream = document.getElementById('remote-audio').srcObject;
  context.createMediaStreamSource(stream).connect(node).connect(context.destination);
}
"""
PLAIN = """
() => {
  const add = RTCPeerConnection.prototype.addTransceiver;
  RTCPeerConnection.prototype.addTransceiver = function (...given) {
    const added = add.apply(this, given);
    if (added.receiver.track.kind === 'audio') {
      const { codecs } = RTCRtpReceiver.getCapabilities('audio');
      added.setCodecPreferences(codecs.filter(({ mimeType }) => mimeType === 'audio/opus'));
    }
    return added;
  };
}
"""
TAKE = """
() => {
  let text = '';
  for (const chunk of window.heard.splice(0)) {
    text += String.fromCharCode(...new Uint8Array(chunk.buffer));
  }
  return btoa(text);
}
"""
STATS = """
async () => {
  const rows = [...(await window.peers.at(-1).getStats()).values()];
  return rows.find(row => row.type === 'inbound-rtp' && row.kind === 'audio');
}
"""


async def said(page: Page, sentence: str, count: int) -> NDArray[np.int16]:
    """Have a sentence repeated as the `count`th answer; what was played meanwhile, 16 kHz."""
    await page.evaluate(TAKE)
    await page.fill("#text", f"Repeat after me: {sentence}")
    await page.press("#text", "Enter")
    await event(page, "output_audio_buffer.stopped", count=count)
    await asyncio.sleep(0.7)
    return np.frombuffer(base64.b64decode(await page.evaluate(TAKE)), np.int16)


async def hear(page: Page, relay: Relay, loss: float, burst: int, count: int) -> dict[str, Any]:
    """One loss: sentences, and the figures of the browser while they were said."""
    relay.lost_down = lost(loss, burst, 3)
    model = WhisperModel(Path(find_models(BuiltinConfig()).ears[0].path))
    await asyncio.sleep(SETTLE_S)
    await page.evaluate(RECORD)
    await said(page, "Reports come in while this is said.", 1)
    before = await page.evaluate(STATS)
    wrong, total, played = 0, 0, []
    for number, sentence in enumerate(SENTENCES[:count]):
        pcm = await said(page, sentence, number + 2)
        played.append(pcm)
        heard = await asyncio.to_thread(model.transcribe, pcm)
        total += len(plain_words(sentence))
        wrong += errors(sentence, heard.text)
    after = await page.evaluate(STATS)

    def more(name: str) -> float:
        return float(after.get(name, 0) - before.get(name, 0))

    seconds = (after["timestamp"] - before["timestamp"]) / 1000
    row = {
        "loss": loss,
        "burst": burst,
        "lost": round(more("packetsLost") / (more("packetsLost") + more("packetsReceived")), 3),
        "kbit_s": round(more("bytesReceived") * 8 / seconds / 1000, 1),
        "concealed": round(more("concealedSamples") / more("totalSamplesReceived"), 4),
        "copies_received": int(more("fecPacketsReceived")),
        "copies_unused": int(more("fecPacketsDiscarded")),
        "delay_ms": round(more("jitterBufferDelay") / more("jitterBufferEmittedCount") * 1000),
        "words_wrong": round(wrong / total, 3),
    }
    mos = Judge().of(np.concatenate(played))
    return row if mos is None else row | {"plcmos": round(mos, 2)}


async def main(sentences: int, is_plain: bool) -> None:
    options = ("--set", "chat.slots=0")
    with (
        tempfile.TemporaryDirectory() as folder,
        Serving(*options, environment={"OMNICALL_BUILTIN_SPEECH": "auto"}) as server,
    ):
        quiet = microphone(Path(folder) / "mic.wav", [], 600)
        for loss, burst in LOSSES:
            relay = await Relay.open()
            async with browse("about:blank", quiet) as page:
                scene = Scene(server, page, relay)
                await page.add_init_script(f"({PEERS})()")
                if is_plain:
                    await page.add_init_script(f"({PLAIN})()")
                await page.route(re.compile("/v1/realtime/calls"), scene.through_relay)
                await page.goto(server.url)
                await call(page)
                row = await hear(page, relay, loss, burst, sentences)
                print(json.dumps(row), flush=True)  # noqa: T201
            relay.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sentences", type=int, default=len(SENTENCES))
    parser.add_argument("--plain", action="store_true")
    given = parser.parse_args()
    asyncio.run(main(given.sentences, given.plain))
