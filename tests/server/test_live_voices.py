"""A voice from the upload to the call, in a running server with the native engine.

Guards: it is prepared without a restart and used by its id; deleted it is nobody's any more.
"""

from __future__ import annotations

import asyncio
import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.caller import Caller
from tests.recordings import packed, talk
from tests.serving import Serving

pytest.importorskip("torch", reason="the native engine needs torch: the test extra has it")

pytestmark = pytest.mark.loopback

WAIT_S = 60.0


def ask(server: Serving, method: str, path: str, body: bytes | None = None) -> Any:
    url = server.url.rstrip("/") + path
    request = urllib.request.Request(url, body, {"Content-Type": "audio/wav"}, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read() or b"null")


async def prepared(server: Serving, voice_id: str) -> dict[str, Any]:
    """The voice once an engine has judged it."""
    async with asyncio.timeout(WAIT_S):
        while True:
            listed = await asyncio.to_thread(ask, server, "GET", "/api/voices")
            voice: dict[str, Any] = next(v for v in listed["voices"] if v["id"] == voice_id)
            if voice["state"] != "waiting":
                return voice
            await asyncio.sleep(0.1)


def codes(caller: Caller) -> list[str]:
    """Of the warnings so far."""
    return [event["code"] for event in caller.events if event["type"] == "session.warning"]


async def warned(caller: Caller, code: str) -> None:
    """Wait for a warning."""
    while code not in codes(caller):
        count = len(codes(caller)) + 1
        await caller.hears("session.warning", count=count, timeout_s=WAIT_S)


async def test_uploaded_voice_speaks_and_goes(tmp_path: Path) -> None:
    from tests.speech_assets import write_campplus
    from tests.tiny_checkpoint import write_checkpoint

    model = write_checkpoint(tmp_path / "tiny", seed=3)
    settings = ("minicpmo.device=cpu", "minicpmo.max_context=600", f"data.dir={tmp_path / 'data'}")
    options = ["--engine", "minicpmo", "--model", str(model)]
    for setting in (*settings, "minicpmo.voice_seconds=3", "minicpmo.flow_steps=2"):
        options += ["--set", setting]
    recording = packed(talk(4.0), kind="mp3", codec="libmp3lame")
    if not write_campplus(model / "assets" / "token2wav" / "campplus.onnx"):
        pytest.skip("onnx is not installed")
    session: dict[str, Any] = {
        "audio": {"output": {}},
        # It speaks in its first unit, a second at a time.
        "engine": {"prompt_voice": "default", "listen_bias": -100.0, "force_listen_count": 0},
    }
    with Serving(*options) as server:
        made = await asyncio.to_thread(ask, server, "POST", "/api/voices?name=Anna", recording)
        assert (await prepared(server, made["id"]))["state"] == "ready"
        session["audio"]["output"]["voice"] = {"id": made["id"]}
        async with Caller(server.url, session=session) as caller:
            created = await caller.hears("session.created", timeout_s=WAIT_S)
            assert created["session"]["audio"]["output"]["voice"] == {"id": made["id"]}
            await caller.hears("output_audio_buffer.started", timeout_s=WAIT_S)
            assert "voice_unknown" not in codes(caller)
        await asyncio.to_thread(ask, server, "DELETE", f"/api/voices/{made['id']}")
        async with Caller(server.url, session=session) as caller:
            await warned(caller, "voice_unknown")
