"""The echo engine: what it hears comes back, what it reads comes back, and it starts at once."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import AsyncIterator

import numpy as np
import pytest

from engine.echo import NOT_TRANSCRIBED, EchoEngine, to_output_rate
from engine.hearing.vad import rms_db
from engine.ipc.protocol import (
    AudioOut,
    CommitAudio,
    CreateResponse,
    InputTranscript,
    Interrupt,
    ItemIn,
    ResponseDone,
    SessionConfig,
    TextOut,
    TextPart,
    UpdateSession,
)
from tests import ROOT
from tests.engine.builtin.rig import SESSION, Caller, say, speech


@pytest.fixture
async def caller() -> AsyncIterator[Caller]:
    engine = EchoEngine(2)
    begun = time.monotonic()
    await engine.start(lambda text: None)
    assert time.monotonic() - begun < 2.0
    caller = Caller()
    session = engine.open(SESSION, 0, SessionConfig(), caller.receive)
    caller.connect(session)
    yield caller
    await session.close()
    await engine.close()


def sound(caller: Caller) -> np.ndarray:
    return np.frombuffer(b"".join(message.pcm for message in caller.all(AudioOut)), np.int16)


async def test_speech_comes_back(caller: Caller) -> None:
    await caller.hear(say("what_time"))
    assert (await caller.wait(ResponseDone)).status == "completed"
    heard = sound(caller).astype(float)
    said = to_output_rate(np.frombuffer(speech("what_time"), np.int16)).astype(float)
    size = 1 << 18
    product = np.fft.irfft(np.fft.rfft(heard, size) * np.conj(np.fft.rfft(said, size)))
    match = product.max() / np.sqrt((heard**2).sum() * (said**2).sum())
    assert match > 0.98
    assert caller.all(InputTranscript)[0].error == NOT_TRANSCRIBED


async def test_text_comes_back_with_a_tone(caller: Caller) -> None:
    item = ItemIn(SESSION, "i", "user", (TextPart("Hello, my  echo!"),))
    caller.session.handle(item)
    caller.session.handle(CreateResponse(SESSION))
    await caller.wait(ResponseDone)
    assert "".join(text.text for text in caller.all(TextOut)) == "Hello, my  echo!"
    assert caller.all(TextOut)[-1].last and caller.all(AudioOut)[-1].last
    assert len(sound(caller)) == 9_600 and rms_db(sound(caller).tobytes()) > -20


async def test_a_committed_turn_comes_back_on_request(caller: Caller) -> None:
    caller.session.handle(UpdateSession(SESSION, SessionConfig(mode="turn_based")))
    await caller.hear(say("what_time"))
    caller.session.handle(CommitAudio(SESSION))
    caller.session.handle(CreateResponse(SESSION))
    await caller.wait(ResponseDone)
    assert len(sound(caller)) > 24_000


async def test_it_is_interrupted_like_any_engine(caller: Caller) -> None:
    await caller.hear(say("tell_story"))
    await caller.wait(ResponseDone)
    await caller.hear(say("what_time"))
    assert (await caller.wait(Interrupt)).epoch == 1


async def test_nothing_to_echo_is_said(caller: Caller) -> None:
    caller.session.handle(CreateResponse(SESSION))
    await caller.wait(ResponseDone)
    assert "".join(text.text for text in caller.all(TextOut)) == "Nothing to echo."


@pytest.mark.loopback
def test_it_needs_neither_recogniser_nor_synthesiser() -> None:
    program = (
        "import sys, engine.echo; engine.echo.EchoEngine(2);"
        "print([m for m in ('pocketsphinx', 'espeakng_loader', 'torch') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"
