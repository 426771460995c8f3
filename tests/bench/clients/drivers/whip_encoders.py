"""Encoders that send by WHIP.

python -m tests.bench.clients.drivers.whip_encoders URL FOLDER gstreamer|ffmpeg

GStreamer's webrtcbin hears the answers; FFmpeg's muxer, as PyAV carries it, only sends.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np

from tests.bench.clients.steps import Report, arguments
from tests.server.test_live_whip import GSTREAMER, certificate, publish, python_with_gstreamer

VERSION = "import gi; gi.require_version('Gst', '1.0'); from gi.repository import Gst; " + (
    "Gst.init(None); print('.'.join(map(str, Gst.version()[:3])))"
)
TALK_S = 40.0
GAP_S = 6


def repeated(folder: Path) -> Path:
    """The question again and again, with time for answers."""
    pcm = np.frombuffer((folder / "what_time.48000.pcm").read_bytes(), np.int16)
    once = np.concatenate([pcm, np.zeros(GAP_S * 48_000, np.int16)])
    path = folder / "questions.wav"
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, 48_000, 0, "NONE", ""))
        out.writeframes(np.tile(once, 5).tobytes())
    return path


async def gstreamer(url: str, folder: Path) -> None:
    python = python_with_gstreamer()
    assert python is not None, "no GStreamer"
    ask = [python, "-c", VERSION]
    asked = await asyncio.to_thread(subprocess.run, ask, capture_output=True, text=True)
    report = Report(asked.stdout.strip())
    command = [python, str(GSTREAMER), f"{url}/whip", str(repeated(folder)), str(TALK_S)]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1]) if done.stdout else {}
    async with report.step("connects"):
        assert result.get("posted") == 201 and result["state"] == "connected", done.stderr
    async with report.step("speech"):
        assert result["heard_s"] > 0.5, result
    async with report.step("hang-up"):
        assert result["deleted"] == 200, result


async def received(url: str) -> dict[str, dict[str, Any]]:
    """What of the only call has come, by kind."""
    async with aiohttp.ClientSession() as http, http.get(f"{url}/api/stats") as answer:
        stats: dict[str, Any] = await answer.json()
    rows = [row for call in stats["calls"] for row in call["stats"]]
    return {row["kind"]: row for row in rows if row.get("type") == "inbound-rtp"}


async def ffmpeg(url: str, folder: Path) -> None:
    library = av.library_versions["libavformat"]
    report = Report(f"libavformat {'.'.join(map(str, library))}")
    sending = asyncio.create_task(
        asyncio.to_thread(publish, f"{url}/whip", certificate(folder), 8.0)
    )
    packets = pictures = 0
    while not sending.done():
        rows = await received(url)
        packets = max(packets, rows.get("audio", {}).get("packetsReceived", 0))
        pictures = max(pictures, rows.get("video", {}).get("framesDecoded", 0))
        await asyncio.sleep(0.25)
    async with report.step("connects"):
        await sending
        assert packets
    async with report.step("speech"):
        assert packets > 100 and pictures > 3, (packets, pictures)
    # It deletes its session when the output is closed, which the bench checks.
    async with report.step("hang-up"):
        pass


if __name__ == "__main__":
    where, speech = arguments()
    asyncio.run((gstreamer if sys.argv[3] == "gstreamer" else ffmpeg)(where, speech))
