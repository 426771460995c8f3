"""The whole engine at its interface: recorded speech in; transcript, answer and sound out."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import numpy as np
import pytest
import pytest_asyncio

from engine.base import EngineError
from engine.builtin.engine import BuiltinEngine
from engine.config import BuiltinConfig
from engine.ipc.protocol import (
    AudioOut,
    CreateResponse,
    InputTranscript,
    Interrupt,
    ItemIn,
    PartLeftOut,
    ResponseDone,
    SessionConfig,
    SessionEnded,
    TextOut,
    TextPart,
    UnitDone,
    VideoPart,
)
from tests.engine.builtin.rig import SESSION, Caller, say

pytestmark = [pytest.mark.loopback, pytest.mark.asyncio(loop_scope="module")]
NOW = datetime(2026, 11, 23, 15, 5, tzinfo=UTC)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def engine() -> AsyncIterator[BuiltinEngine]:
    engine = BuiltinEngine(BuiltinConfig(speech="basic"), 2, clock=lambda: NOW)
    steps: list[str] = []
    await engine.start(steps.append)
    assert steps
    yield engine
    await engine.close()


@pytest_asyncio.fixture(loop_scope="module")
async def caller(engine: BuiltinEngine) -> AsyncIterator[Caller]:
    caller = Caller()
    caller.listens = True
    session = engine.open(SESSION, 0, SessionConfig(), caller.receive)
    caller.connect(session)
    yield caller
    await session.close()


def answer(caller: Caller) -> str:
    return "".join(text.text for text in caller.all(TextOut))


@pytest.mark.parametrize(
    "name, transcript, start",
    [
        ("hello", "hello there", "Hello. I am the built-in demo engine."),
        ("what_time", "what time is it", "It is 3:05 PM."),
        ("date", "what is the date today", "It is Monday, November 23, 2026."),
        ("seven_times_eight", "what is seven times eight", "7 times 8 is 56."),
        ("count_to_ten", "count to ten", "1, 2, 3, 4, 5, 6, 7, 8, 9, 10."),
        ("repeat", "repeat after me the weather is nice", "the weather is nice"),
        ("what_see", "what do you see", "I see nothing, because the camera is off."),
        ("help", "what can you do", "I understand about a dozen commands."),
        ("thanks", "thank you very much", "You are welcome."),
        ("stop", "stop", "Okay."),
    ],
)
async def test_a_spoken_command_is_understood_and_answered(
    caller: Caller, name: str, transcript: str, start: str
) -> None:
    await caller.hear(say(name))
    final = await caller.wait(InputTranscript, where=lambda message: message.final)
    assert final.text == transcript
    assert (await caller.wait(ResponseDone)).status == "completed"
    assert answer(caller).startswith(start)
    sound = np.frombuffer(b"".join(m.pcm for m in caller.all(AudioOut)), np.int16)
    assert np.abs(sound.astype(int)).max() > 8_000
    stages = caller.all(UnitDone)[0].stages_ms
    assert set(stages) == {"endpoint", "asr", "respond", "tts", "first_audio"}


async def test_something_else_is_quoted(caller: Caller) -> None:
    await caller.hear(say("open"))
    await caller.wait(ResponseDone)
    assert "bridge" in caller.all(InputTranscript)[-1].text
    assert answer(caller).startswith("I think you said: ")


async def test_a_story_is_interrupted_by_the_next_command(caller: Caller) -> None:
    caller.listens = False
    await caller.hear(say("tell_story"))
    await caller.wait(AudioOut)
    caller.heard(1, 24 * 2_000, final=False)
    await caller.hear(say("what_time"))
    assert (await caller.wait(Interrupt)).epoch == 1
    caller.heard(1, 24 * 2_200, final=True, interrupted=True)
    await caller.wait(ResponseDone, 2)
    assert [done.status for done in caller.all(ResponseDone)] == ["cancelled", "completed"]
    last = "".join(text.text for text in caller.all(TextOut) if text.epoch == 2)
    assert last == "It is 3:05 PM."


async def test_a_story_told_to_its_end_takes_20_to_35_seconds(caller: Caller) -> None:
    caller.session.handle(ItemIn(SESSION, "i", "user", (TextPart("tell me a story"),)))
    caller.session.handle(CreateResponse(SESSION))
    await caller.wait(ResponseDone)
    samples = sum(len(message.pcm) // 2 for message in caller.all(AudioOut))
    assert 20 < samples / 24_000 < 35


async def test_video_is_honestly_declined(caller: Caller) -> None:
    parts = (VideoPart(b"a film"), TextPart("what happens?"))
    caller.session.handle(ItemIn(SESSION, "i", "user", parts))
    caller.session.handle(CreateResponse(SESSION))
    await caller.wait(ResponseDone)
    [left_out] = caller.all(PartLeftOut)
    assert left_out.part == 0 and "videos" in left_out.reason
    assert "cannot take in videos" in answer(caller)


async def test_goodbye_ends_the_call(caller: Caller) -> None:
    await caller.hear(say("goodbye"))
    await caller.wait(ResponseDone)
    assert caller.all(SessionEnded) == []
    caller.heard(1, 10**7, final=True)
    assert (await caller.wait(SessionEnded)).reason == "goodbye"


async def test_a_recogniser_killed_in_the_middle_costs_one_utterance(
    engine: BuiltinEngine, caller: Caller
) -> None:
    pcm = say("what_time")
    await caller.hear(pcm[:30_000])
    for pid in engine.recognisers.pids:
        os.kill(pid, signal.SIGKILL)
    await caller.hear(pcm[30_000:])
    final = await caller.wait(InputTranscript, where=lambda message: message.final)
    assert final.error == "the speech recogniser stopped"
    await caller.wait(ResponseDone)
    assert answer(caller) == "Sorry, my speech recogniser failed. Please say that again."
    caller.heard(1, 10**7, final=True)
    await caller.hear(say("what_time"))
    await caller.wait(ResponseDone, 2)
    assert answer(caller).endswith("It is 3:05 PM.")


async def test_sessions_do_not_disturb_each_other(engine: BuiltinEngine) -> None:
    names = ["what_time", "seven_times_eight", "count_to_ten", "thanks"]
    callers = [Caller() for _ in names]
    for index, caller in enumerate(callers):
        caller.listens = True
        caller.connect(engine.open(SESSION, index, SessionConfig(), caller.receive))
    await asyncio.gather(
        *(caller.hear(say(name)) for caller, name in zip(callers, names, strict=True))
    )
    for caller in callers:
        await caller.wait(ResponseDone)
    assert [answer(caller)[:8] for caller in callers] == [
        "It is 3:",
        "7 times ",
        "1, 2, 3,",
        "You are ",
    ]
    await asyncio.gather(*(caller.session.close() for caller in callers))


async def test_it_says_honestly_what_it_is(engine: BuiltinEngine) -> None:
    welcome = engine.welcome(8)
    assert (welcome.kind, welcome.label, welcome.slots) == ("builtin", "Built-in demo engine", 8)
    assert welcome.modes == ("full_duplex", "half_duplex", "turn_based")
    assert welcome.languages == ("en",) and welcome.video
    assert "no neural model" in welcome.description and "robotic" in welcome.description
    assert {"en-us", "en-gb", "cmn"} <= set(welcome.voices)


async def test_an_engine_that_cannot_start_says_why_and_leaves_nothing() -> None:
    engine = BuiltinEngine(BuiltinConfig(speech="basic", voice="klingon"), 2)
    with pytest.raises(EngineError, match="klingon"):
        await engine.start(lambda text: None)
