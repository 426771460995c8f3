"""OpenAI Live from a page of its own, in a real Chromium, as OpenAI's guide writes it.

Guards: the offer with its candidates goes into the POST, events come on the channel, speech goes
both ways on the tracks, and the end is told before the connection is closed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.browser.chrome import browse
from tests.openai_types import live_events
from tests.serving import Serving
from tests.speech import microphone

PAGE = """
async (session) => {
  const pc = new RTCPeerConnection();
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  stream.getTracks().forEach((track) => pc.addTrack(track, stream));
  const live = { events: [], loudest: 0, pc };
  window.live = live;
  pc.ontrack = ({ streams }) => {
    const audio = new Audio();
    audio.srcObject = streams[0];
    audio.play();
    const context = new AudioContext();
    const analyser = context.createAnalyser();
    context.createMediaStreamSource(streams[0]).connect(analyser);
    const samples = new Float32Array(analyser.fftSize);
    setInterval(() => {
      analyser.getFloatTimeDomainData(samples);
      live.loudest = Math.max(live.loudest, ...samples.map(Math.abs));
    }, 50);
  };
  live.channel = pc.createDataChannel('oai-events');
  live.channel.onmessage = ({ data }) => live.events.push(JSON.parse(data));
  await pc.setLocalDescription(await pc.createOffer());
  while (pc.iceGatheringState !== 'complete') {
    await new Promise((done) => setTimeout(done, 50));
  }
  const answer = await fetch('/v1/live/sessions', {
    method: 'POST',
    headers: { 'Content-Type': 'application/json' },
    body: JSON.stringify({ session, transport: { type: 'webrtc', sdp: pc.localDescription.sdp } }),
  });
  const body = await answer.json();
  if (answer.ok) await pc.setRemoteDescription({ type: 'answer', sdp: body.transport.sdp });
  return [answer.status, body];
}
"""
HAS = "(kind) => window.live.events.some((event) => event.type === kind)"
CLOSE = "() => window.live.channel.send(JSON.stringify({ type: 'session.close' }))"
WORDS = """
(kind) => window.live.events.filter((event) => event.type === kind)
  .map((event) => event.delta).join('')
"""


async def test_a_page_talks_in_full_duplex(server: Serving, tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [(6.0, "what_time")], 60)
    async with browse(server.url, mic) as page:
        status, body = await page.evaluate(PAGE, {"model": "gpt-live-1"})
        assert status == 201, body
        await page.wait_for_function(HAS, arg="session.started")
        await page.wait_for_function(
            f"(kind) => ({WORDS})(kind).includes('.')",
            arg="session.output_transcript.delta",
        )
        assert "time" in await page.evaluate(WORDS, "session.input_transcript.delta")
        await page.wait_for_function("() => window.live.loudest > 0.05")
        await page.evaluate(CLOSE)
        await page.wait_for_function(HAS, arg="session.closed")
        events: list[dict[str, Any]] = await page.evaluate("() => window.live.events")
        assert [live_events().validate_python(event).type for event in events][
            0
        ] == "session.started"
        assert events[0]["session"]["id"] == body["session"]["id"]
        assert events[-1]["reason"] == "close_requested"
