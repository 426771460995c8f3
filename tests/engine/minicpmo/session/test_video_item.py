"""Items with files in turn-based mode of the native engine, with a tiny random model.

Guards: a video is answered; its seconds become picture and sound by turns, with nothing between
them, image ids that count on and no slices; recordings; a file that is no video; a message that is
larger than the model's memory costs the message and not the call.
"""

from __future__ import annotations

import io
from typing import Any

import pytest
from PIL import Image

from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.prompts import AUDIO_SLOT, IMAGE_SLOT, Prompt, PromptBuilder
from tests.engine.minicpmo.engine_rig import Talk
from tests.engine.minicpmo.videos import film

pytestmark = pytest.mark.loopback
SHORT = p.Sampling(seed=7, max_output_tokens=10)


def turn_based(**changes: Any) -> p.SessionConfig:
    return p.SessionConfig(mode="turn_based", sampling=SHORT, **changes)


@pytest.fixture
def prompts(monkeypatch: pytest.MonkeyPatch) -> list[Prompt]:
    """The users' messages as the model gets them."""
    made: list[Prompt] = []
    render = PromptBuilder.turn

    def note(self: PromptBuilder, messages: Any, **more: Any) -> Prompt:
        made.append(render(self, messages, **more))
        return made[-1]

    monkeypatch.setattr(PromptBuilder, "turn", note)
    return made


def ask(talk: Talk, *parts: p.ItemPart, item: str = "i1") -> None:
    talk.session.handle(p.ItemIn(talk.name, item, "user", parts))
    talk.session.handle(p.CreateResponse(talk.name))


async def test_video_is_answered(engine: MiniCpmoEngine, prompts: list[Prompt]) -> None:
    talk = Talk(engine, "one", 0, turn_based())
    ask(talk, p.VideoPart(film(3.0)), p.TextPart("what happens?"))
    done = await talk.until(p.ResponseDone)
    assert done.status in ("completed", "incomplete") and not talk.all(p.SessionWarning)
    [prompt] = prompts
    second = IMAGE_SLOT + AUDIO_SLOT
    assert prompt.text == f"<|im_start|>user\n{3 * second}what happens?"
    # One image and ten rows of sound per second, by turns.
    images, sounds = prompt.image_bounds, prompt.audio_bounds
    assert len(images) == len(sounds) == 3
    assert all(end - start == 10 for start, end in sounds)
    starts = sorted([*images, *sounds])
    assert starts[0::2] == images and starts[1::2] == sounds
    assert done.input_tokens > sounds[-1][1]
    ask(talk, p.VideoPart(film(1.0, sound_s=0)), item="i2")
    await talk.until(p.ResponseDone, 2)
    assert prompts[1].text.endswith(f"<|im_start|>user\n{IMAGE_SLOT}")
    await talk.session.close()


async def test_many_seconds_are_encoded_in_batches(
    engine: MiniCpmoEngine, prompts: list[Prompt]
) -> None:
    talk = Talk(engine, "one", 0, turn_based())
    ask(talk, p.VideoPart(film(17.0, fps=2)))
    await talk.until(p.ResponseDone)
    assert len(prompts[0].image_bounds) == len(prompts[0].audio_bounds) == 17
    await talk.session.close()


async def test_recording_is_answered(engine: MiniCpmoEngine, prompts: list[Prompt]) -> None:
    talk = Talk(engine, "one", 0, turn_based())
    ask(talk, p.AudioPart(bytes(2 * 24_000 * 2)), p.TextPart("what was that?"))
    await talk.until(p.ResponseDone)
    [(start, end)] = prompts[0].audio_bounds
    assert end - start == 20
    await talk.session.close()


async def test_file_that_is_no_video_is_told(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, turn_based())
    ask(talk, p.VideoPart(b"no video"))
    done = await talk.until(p.ResponseDone)
    [bad] = talk.all(p.PartLeftOut)
    assert (bad.item, bad.part) == ("i1", 0) and "no MP4" in bad.reason
    assert (await talk.until(p.SessionWarning)).code == "empty_message"
    assert done.status == "failed" and "nothing to answer" in done.reason
    await talk.session.close()


async def test_one_bad_part_takes_nothing_else_with_it(
    engine: MiniCpmoEngine, prompts: list[Prompt]
) -> None:
    talk = Talk(engine, "one", 0, turn_based())
    good = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(good, "PNG")
    broken = p.ImagePart(b"\xff\xd8\xff\xe0broken")
    ask(talk, broken, p.TextPart("what is two plus two?"), p.ImagePart(good.getvalue()), broken)
    done = await talk.until(p.ResponseDone)
    assert done.status in ("completed", "incomplete")
    assert [told.part for told in talk.all(p.PartLeftOut)] == [0, 3]
    assert prompts[0].text.startswith("<|im_start|>user\nwhat is two plus two?")
    assert len(prompts[0].image_bounds) == 1
    await talk.session.close()


async def test_message_beyond_the_models_memory_costs_only_itself(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, turn_based())
    ask(talk, p.VideoPart(film(25.0, fps=2)))
    warning = await talk.until(p.SessionWarning)
    assert warning.code == "context_length_exceeded" and "shorter" in warning.message
    assert (await talk.until(p.ResponseDone)).status == "failed"
    ask(talk, p.TextPart("hello"), item="i2")
    assert (await talk.until(p.ResponseDone, 2)).status != "failed"
    assert not talk.all(p.SessionEnded)
    await talk.session.close()


async def test_each_picture_is_read_in_the_detail_that_it_asks_for(
    engine: MiniCpmoEngine, prompts: list[Prompt]
) -> None:
    file = io.BytesIO()
    Image.new("RGB", (640, 480), "teal").save(file, "PNG")
    talk = Talk(engine, "one", 0, turn_based())
    ask(talk, p.ImagePart(file.getvalue()), p.ImagePart(file.getvalue(), 1))
    await talk.until(p.ResponseDone)
    [prompt] = prompts
    assert prompt.text.endswith(2 * IMAGE_SLOT)
    whole = len(prompt.image_bounds)
    assert whole > 2, "the first one is cut into slices"
    ask(talk, p.ImagePart(file.getvalue(), 1), item="i2")
    await talk.until(p.ResponseDone, 2)
    assert len(prompts[1].image_bounds) == 1
    ask(talk, p.ImagePart(file.getvalue(), 9), item="i3")
    await talk.until(p.ResponseDone, 3)
    assert len(prompts[2].image_bounds) > 2, "one picture in detail, whatever the session says"
