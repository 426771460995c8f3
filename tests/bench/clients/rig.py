"""The servers that the clients call, and what is said to them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
from msgspec import Struct

from tests.chat_server import serving_chat
from tests.serving import Serving
from tests.speech import DATA, read_wav, resample

RATES = (16_000, 24_000, 48_000)
SAID = ("what_time", "tell_story")


class Rig(Struct, frozen=True):
    """The built-in engine with a chat endpoint that calls functions, in the open and under TLS."""

    plain: Serving
    secure: Serving
    certificate: Path
    folder: Path
    """`NAME.RATE.pcm` for each utterance."""

    async def is_free(self, limit_s: float = 20.0) -> bool:
        """Whether no call is left, after a while at most."""
        for _ in range(int(limit_s / 0.5)):
            if not await asyncio.to_thread(_calls, self.plain):
                return True
            await asyncio.sleep(0.5)
        return False


def _calls(serving: Serving) -> list[object]:
    calls: list[object] = serving.get("/api/stats")[1]["calls"]
    return calls


def address(serving: Serving) -> str:
    """Where it answers, without a key or a slash."""
    return serving.url.partition("?")[0].rstrip("/")


def write_speech(folder: Path) -> None:
    """The utterances as raw 16 bit sound with silence around them."""
    for name in SAID:
        rate, samples = read_wav(DATA / f"{name}.wav")
        for hz in RATES:
            pcm = (resample(samples, rate, hz) * 32767).astype(np.int16)
            silence = np.zeros(hz // 2, np.int16)
            sound = np.concatenate([silence, pcm, silence])
            (folder / f"{name}.{hz}.pcm").write_bytes(sound.tobytes())


@contextlib.asynccontextmanager
async def servers(folder: Path, ports: tuple[str, str] = ("0", "0")) -> AsyncIterator[Rig]:
    """Both servers; everything they write is below `folder`."""
    write_speech(folder)
    certificate = folder / "certs" / "omnicall.crt"
    async with serving_chat() as (_, chat_url), contextlib.AsyncExitStack() as stack:
        started: list[Serving] = []
        tls = ("--tls", "--set", f"tls.dir={certificate.parent}")
        more: tuple[str, ...]
        for name, port, more in (("plain", ports[0], ()), ("secure", ports[1], tls)):
            chat = ("--set", f"builtin.chat.url={chat_url}")
            log = folder / f"{name}.log"
            serving = Serving(*chat, *more, "--port", port, cwd=folder, log=log)
            await asyncio.to_thread(serving.__enter__)
            stack.push_async_callback(asyncio.to_thread, serving.stop)
            started.append(serving)
        yield Rig(started[0], started[1], certificate, folder)
