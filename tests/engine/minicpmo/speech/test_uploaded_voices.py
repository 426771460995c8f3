"""Uploaded voices in the native engine, from the recording to the sound, with a tiny model."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import MiniCpmoConfig
from engine.ipc import protocol as p
from engine.ipc.supervision import VoiceReport
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.speech import talker
from engine.minicpmo.speech import voices as library
from engine.minicpmo.speech.voices import VoiceLibrary
from tests.engine.minicpmo.conftest import GROUP_CODES
from tests.engine.minicpmo.engine_rig import Talk, config, scheduler_of
from tests.recordings import packed, talk
from tests.speech_assets import write_campplus
from tests.tiny_checkpoint import write_checkpoint

ANNA, BO = "voice_anna-anna-anna-anna-a", "voice_bo-bo-bo-bo-bo-bo-bo-b"


@pytest.fixture(scope="module")
def cloning_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("cloning"), seed=3)
    if not write_campplus(folder / "assets" / "token2wav" / "campplus.onnx"):
        pytest.skip("onnx is not installed")
    return folder


@pytest.fixture(scope="module")
def cloning_engine(cloning_checkpoint: Path) -> Iterator[MiniCpmoEngine]:
    settings = MiniCpmoConfig(device="cpu", max_context=400, flow_steps=2, voice_seconds=3)
    cache = cloning_checkpoint / "kept"
    made = MiniCpmoEngine(str(cloning_checkpoint), 2, settings, voice_cache=str(cache))
    asyncio.run(made.start(lambda text: None))
    yield made
    asyncio.run(made.close())


@pytest.fixture
def engine(
    cloning_engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MiniCpmoEngine]:
    """Knows no uploaded voice."""
    monkeypatch.setattr(talker, "MAX_GROUP_CODES", GROUP_CODES)
    yield cloning_engine
    voices = cloning_engine._voices
    assert voices is not None
    voices._uploaded.clear()
    voices._recent.clear()
    voices._dropped.clear()


async def keep(engine: MiniCpmoEngine, voice: str, file: bytes) -> VoiceReport:
    told: asyncio.Future[VoiceReport] = asyncio.get_running_loop().create_future()
    engine.keep_voice(voice, file, told.set_result)
    async with asyncio.timeout(60):
        return await told


async def said(engine: MiniCpmoEngine, name: str, **changes: object) -> tuple[bytes, list[str]]:
    """The sound of an answer, always of the same words, and the codes of warnings."""
    options = changes.pop("options", {})
    settings = config(
        mode="turn_based",
        sampling=p.Sampling(seed=7, greedy=True, max_output_tokens=4),
        options=options,
        **changes,
    )
    talk = Talk(engine, name, 0, settings)
    talk.session.handle(p.ItemIn(name, "item", "user", (p.TextPart("hello"),)))
    talk.session.handle(p.CreateResponse(name))
    await talk.until(p.ResponseDone)
    await talk.session.close()
    sound = b"".join(message.pcm for message in talk.all(p.AudioOut))
    return sound, [message.code for message in talk.all(p.SessionWarning)]


async def test_recording_becomes_a_voice_that_is_heard(
    engine: MiniCpmoEngine, cloning_checkpoint: Path
) -> None:
    assert engine.welcome(2).takes_voices and engine.welcome(2).voices_lack == ""
    early, warned = await said(engine, "early", voice=ANNA)
    assert warned == ["voice_unknown"], "not yet prepared"
    assert await keep(engine, ANNA, packed(talk(4.0))) == VoiceReport(ANNA, "ready")
    assert len(list((cloning_checkpoint / "kept").glob("*.safetensors"))) == 1
    plain, warned = await said(engine, "plain")
    assert plain == early and warned == []
    anna, warned = await said(engine, "anna", voice=ANNA)
    assert len(anna) > 0 and anna != plain and warned == []
    # Who names none gets the preferred one.
    engine.default_voice(ANNA)
    assert await said(engine, "preferred") == (anna, [])
    engine.default_voice("")
    engine.drop_voice(ANNA)
    assert await said(engine, "dropped", voice=ANNA) == (plain, ["voice_unknown"])


async def test_voice_of_the_prompt_may_be_another_one(engine: MiniCpmoEngine) -> None:
    await keep(engine, ANNA, packed(talk(4.0)))
    await keep(engine, BO, packed(talk(5.0, noise=0.01)))
    voices = engine._voices
    assert voices is not None
    anna, bo = voices.choose(ANNA)[0], voices.choose(BO)[0]
    both, problem = voices.choose(ANNA, BO)
    assert both.base is anna.base and both.embeddings is bo.embeddings and problem == ""
    assert anna.embeddings is not None and bo.embeddings is not None
    assert len(bo.embeddings) > len(anna.embeddings), "the model hears all of a recording"
    spoken, warned = await said(engine, "both", voice=ANNA, options={"prompt_voice": BO})
    assert spoken and warned == []
    _, warned = await said(engine, "unknown", options={"prompt_voice": "voice_nobody"})
    assert warned == ["voice_unknown"]


async def test_bad_recording_is_told_with_its_reason(engine: MiniCpmoEngine) -> None:
    report = await keep(engine, ANNA, packed(talk(1.0)))
    assert report.state == "failed" and "at least 3 s" in report.reason


async def test_few_voices_are_on_the_device_at_once(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "MAX_PLACED", 1)
    await keep(engine, ANNA, packed(talk(4.0)))
    await keep(engine, BO, packed(talk(5.0, noise=0.01)))
    voices = engine._voices
    assert isinstance(voices, VoiceLibrary)
    anna, problem = voices.choose(ANNA)
    assert problem == "" and anna.base is not None
    instead, problem = voices.choose(BO)
    assert "all that fit" in problem and instead.base is voices.choose("")[0].base
    del anna
    assert voices.choose(BO)[1] == "", "nobody speaks with the other one any more"


def test_what_is_missing_is_named_with_where_it_comes_from(tiny_checkpoint: Path) -> None:
    from engine.minicpmo.checkpoint import load

    lacks = VoiceLibrary(load(tiny_checkpoint, device="cpu", show=lambda text: None), "").lacks
    assert "campplus.onnx" in lacks and "token2wav" in lacks and "MiniCPM-o 4.5" in lacks


async def test_another_voice_in_the_call_keeps_the_conversation(engine: MiniCpmoEngine) -> None:
    await keep(engine, ANNA, packed(talk(4.0)))
    short = p.Sampling(seed=7, greedy=True, max_output_tokens=4)
    call = Talk(engine, "call", 0, config(mode="turn_based", sampling=short))
    heard = []
    for turn, voice in enumerate(("", ANNA)):
        settings = config(mode="turn_based", sampling=short, voice=voice)
        call.session.handle(p.UpdateSession("call", settings))
        call.session.handle(p.ItemIn("call", f"item-{turn}", "user", (p.TextPart("hello"),)))
        call.session.handle(p.CreateResponse("call"))
        done = await call.until(p.ResponseDone, turn + 1)
        heard.append(done.input_tokens)
    assert heard[1] > heard[0], "the first turn is still there"
    assert call.all(p.SessionWarning) == []
    voices = engine._voices
    assert voices is not None and next(iter(scheduler_of(engine).sessions)).voice.base is not None
    assert next(iter(scheduler_of(engine).sessions)).voice.base is voices.choose(ANNA)[0].base
    assert scheduler_of(engine).sessions.voices._due == {}
    await call.session.close()
