"""WHIP with clients as they are: GStreamer, FFmpeg, and a plain peer, over loopback."""

from __future__ import annotations

import asyncio
import datetime
import json
import shutil
import subprocess
import time
import wave
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import aiohttp
import av
import numpy as np
import pytest
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests import ROOT
from tests.caller import Caller
from tests.serving import Serving
from tests.speech import DATA, read_wav
from tests.waiting import until

pytestmark = pytest.mark.loopback

GSTREAMER = ROOT / "tests" / "interop" / "gstreamer_whip.py"
NEEDS = (
    "import gi; gi.require_version('Gst', '1.0'); gi.require_version('GstWebRTC', '1.0'); "
    "from gi.repository import Gst, GstWebRTC; Gst.init(None); "
    "assert all(map(Gst.ElementFactory.find, ('webrtcbin', 'nicesrc', 'opusenc', 'dtlsdec')))"
)
FRAME = 960


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with Serving("--engine", "echo") as serving:
        yield serving


def python_with_gstreamer() -> str | None:
    """A Python whose `gi` has webrtcbin: rarely that of the tests."""
    for name in ("/usr/bin/python3", shutil.which("python3")):
        if name and subprocess.run([name, "-c", NEEDS], capture_output=True).returncode == 0:
            return name
    return None


async def over(server: Serving, limit_s: float = 20.0) -> None:
    """Wait until the server has no call."""
    await until(lambda: server.get("/api/stats")[1]["calls"] == [], limit_s)


async def request(method: str, url: str, **kwargs: Any) -> tuple[int, Any, str]:
    async with aiohttp.ClientSession() as http:
        async with http.request(method, url, **kwargs) as answer:
            return answer.status, answer.headers, await answer.text()


def repeated(path: Path) -> Path:
    """A greeting again and again: what is said before the connection is there, nobody hears."""
    rate, samples = read_wav(DATA / "hello.wav")
    once = np.concatenate([samples, np.zeros(2 * rate, samples.dtype)])
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, rate, 0, "NONE", ""))
        out.writeframes((np.tile(once, 8) * 32767).astype(np.int16).tobytes())
    return path


async def test_gstreamer_trickles_and_hears_the_answer(server: Serving, tmp_path: Path) -> None:
    """Its certificate is RSA, its offer has no candidates, and it takes our candidates only."""
    python = python_with_gstreamer()
    if python is None:
        pytest.skip("GStreamer's webrtcbin is missing: gir1.2-gst-plugins-bad-1.0 and others")
    said = repeated(tmp_path / "said.wav")
    command = [python, str(GSTREAMER), f"{server.url}whip", str(said), "40"]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["posted"] == 201 and result["state"] == "connected", result
    assert result["patched"] and set(result["patched"]) == {204}
    assert result["heard_s"] > 0.5
    assert result["deleted"] == 200
    await over(server)


def certificate(folder: Path) -> dict[str, str]:
    """FFmpeg built with GnuTLS makes one of secp224r1, which OpenSSL takes from nobody."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "whip")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=30))
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(built.public_bytes(pem))
    traditional = serialization.PrivateFormat.TraditionalOpenSSL
    (folder / "key.pem").write_bytes(
        key.private_bytes(pem, traditional, serialization.NoEncryption())
    )
    return {"cert_file": str(folder / "cert.pem"), "key_file": str(folder / "key.pem")}


def publish(url: str, options: dict[str, str], seconds: float) -> None:
    """Send speech and pictures as `ffmpeg -f whip` does, in real time."""
    _, samples = read_wav(DATA / "hello.wav")
    pcm = np.repeat((samples * 32767).astype(np.int16), 3)
    with av.open(url, "w", format="whip", options=options) as out:
        sound = out.add_stream("libopus", rate=48_000, layout="stereo")
        film = out.add_stream("libx264", rate=10, width=320, height=240, pix_fmt="yuv420p")
        film.options = {"profile": "baseline", "preset": "ultrafast", "g": "10"}
        began = time.monotonic()
        for number in range(int(seconds * 50)):
            piece = pcm[number * FRAME : (number + 1) * FRAME]
            piece = np.pad(piece, (0, FRAME - len(piece)))
            frame = av.AudioFrame.from_ndarray(np.repeat(piece, 2)[None], "s16", "stereo")
            frame.sample_rate, frame.pts = 48_000, number * FRAME
            out.mux(sound.encode(frame))
            if number % 5 == 0:
                grey = np.full((240, 320, 3), number % 256, np.uint8)
                picture = av.VideoFrame.from_ndarray(grey, format="rgb24")
                picture.pts, picture.time_base = number // 5, Fraction(1, 10)
                out.mux(film.encode(picture))
            time.sleep(max(0.0, began + number / 50 - time.monotonic()))


def received(server: Serving) -> dict[str, dict[str, Any]]:
    """What of the only call has come, by kind."""
    calls = server.get("/api/stats")[1]["calls"]
    rows = calls[0]["stats"] if calls else []
    return {row["kind"]: row for row in rows if row.get("type") == "inbound-rtp"}


async def test_ffmpeg_sends_sound_and_pictures(server: Serving, tmp_path: Path) -> None:
    if "whip" not in av.formats_available:
        pytest.skip("the FFmpeg of this PyAV has no WHIP muxer")
    seen: list[dict[str, dict[str, Any]]] = []
    sending = asyncio.create_task(
        asyncio.to_thread(publish, f"{server.url}whip", certificate(tmp_path), 6.0)
    )
    while not sending.done():
        seen.append(await asyncio.to_thread(received, server))
        await asyncio.sleep(0.25)
    await sending
    assert max(rows.get("audio", {}).get("packetsReceived", 0) for rows in seen) > 100
    assert max(rows.get("video", {}).get("framesDecoded", 0) for rows in seen) > 3
    await over(server)


async def test_a_peer_speaks_and_hears_until_it_deletes_the_session(server: Serving) -> None:
    async with Caller(server.url, door="/whip") as caller:
        session = server.url.rstrip("/") + caller.location
        assert caller.location.startswith("/whip/rtc_")
        await caller.hears("session.created")
        caller.voice.say("hello")
        await until(lambda: caller.loud_samples > 4_800)
        candidate = "m=audio 9 X 0\r\na=mid:0\r\na=candidate:1 1 udp 1 192.0.2.1 9 typ host\r\n"
        kind = {"Content-Type": "application/trickle-ice-sdpfrag"}
        status, *_ = await request("PATCH", session, data=candidate, headers=kind)
        assert status == 428
        restart = "a=ice-ufrag:abcdefgh\r\na=ice-pwd:abcdefghabcdefghabcdefgh\r\n"
        any_tag = kind | {"If-Match": "*"}
        status, headers, body = await request("PATCH", session, data=restart, headers=any_tag)
        assert status == 200 and "a=candidate:" in body and headers["ETag"]
        known = kind | {"If-Match": headers["ETag"]}
        status, _, body = await request("PATCH", session, data=candidate, headers=known)
        assert (status, body) == (204, "")
        # It never follows, and is served as before.
        before = caller.loud_samples
        caller.voice.say("hello")
        await until(lambda: caller.loud_samples > before + 4_800)
        assert (await request("DELETE", session))[0] == 200
        await caller.is_over()
    await over(server)
    assert (await request("PATCH", session, data=candidate, headers=known))[0] == 410
    assert (await request("DELETE", session))[0] == 410


@pytest.mark.parametrize("door", ["/whip", "/v1/realtime/calls"])
async def test_who_offers_a_channel_alone_types_and_reads(server: Serving, door: str) -> None:
    pc = RTCPeerConnection(RTCConfiguration(iceServers=[]))
    channel = pc.createDataChannel("oai-events")
    events: list[dict[str, Any]] = []
    channel.on("message", lambda text: events.append(json.loads(text)))
    await pc.setLocalDescription(await pc.createOffer())
    kind = {"Content-Type": "application/sdp"}
    url = server.url.rstrip("/") + door
    status, _, answer = await request("POST", url, data=pc.localDescription.sdp, headers=kind)
    assert status == 201
    await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
    await until(lambda: "session.created" in [e["type"] for e in events])
    assert events[0]["session"]["output_modalities"] == ["text"]
    content = [{"type": "input_text", "text": "good morning"}]
    item = {"type": "message", "role": "user", "content": content}
    channel.send(json.dumps({"type": "conversation.item.create", "item": item}))
    channel.send(json.dumps({"type": "response.create"}))
    await until(lambda: "response.output_text.done" in [e["type"] for e in events])
    (done,) = [e for e in events if e["type"] == "response.output_text.done"]
    assert "good morning" in done["text"]
    await pc.close()
    await over(server)
