"""Full duplex of the native engine, with a tiny random model: the flow is real.

Guards: units come out one by one with their figures; the first units only listen; barge-in and
forced listening silence the model and leave it able to go on; a session's words and sound do not
depend on who else is served; pictures enter the next unit, and fewer of them under load.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
import pytest

from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.duplex_unit import UnitResult
from engine.minicpmo.modes import thinning
from engine.minicpmo.modes.thinning import MOST, Thinning
from engine.minicpmo.session import audio_input
from engine.minicpmo.speech.worker import SpeechRequest
from tests.engine.minicpmo.engine_rig import Talk, config, scheduler_of, speaking, voiced
from tests.waiting import until


async def test_units_come_one_by_one_with_their_figures(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, config())
    units = await talk.units(4)
    assert [unit.unit for unit in units] == [1, 2, 3, 4]
    lengths = [unit.kv_tokens for unit in units]
    assert lengths == sorted(lengths) and lengths[0] > 10
    assert all({"encode", "prefill", "unit"} <= set(unit.stages_ms) for unit in units)
    await talk.session.close()


async def test_sound_that_comes_too_fast_is_skipped_by_units_and_told_once(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow this machine is, it is not yet time to tell it again.
    monkeypatch.setattr(audio_input, "WARN_EVERY_S", float("inf"))
    talk = Talk(engine, "one", 0, config())
    await talk.units(1)
    talk.quiet(20.0)
    await talk.until(p.UnitDone, 3)
    warning = await talk.until(p.SessionWarning)
    assert warning.code == "audio_skipped"
    assert engine.pending_ms() <= 2000
    await talk.units(1)

    def dropped_ms() -> int:
        return sum(unit.dropped_ms for unit in talk.all(p.UnitDone))

    def heard_ms() -> float:
        return 1000 * len(talk.all(p.UnitDone)) + engine.pending_ms()

    await until(lambda: dropped_ms() + heard_ms() == 22_000)
    assert dropped_ms() > 0 and dropped_ms() % 1000 == 0
    assert len(talk.all(p.SessionWarning)) == 1
    await talk.session.close()


async def test_first_units_only_listen(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, config(options={"force_listen_count": 3}))
    units = await talk.units(3)
    assert [unit.decision for unit in units] == ["listen"] * 3
    assert not talk.all(p.AudioOut)
    await talk.session.close()


async def test_answer_is_told_in_order(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, config())
    first = await speaking(talk)
    await talk.units(3)
    own = [m for m in talk.said if getattr(m, "epoch", 0) == first.epoch]
    assert isinstance(own[0], p.ResponseStarted)
    sounds = [m for m in own if isinstance(m, p.AudioOut)]
    ends = [m.pts + len(m.pcm) // 2 for m in sounds]
    assert [m.pts for m in sounds] == [0, *ends[:-1]]
    await talk.session.close()


async def test_no_response_is_empty(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, config())
    first = await speaking(talk)
    assert first.epoch == 1 == len(talk.all(p.ResponseStarted))
    await talk.units(4)
    spoken = {m.epoch for m in talk.all(p.AudioOut)}
    done = {m.epoch for m in talk.all(p.ResponseDone) if m.status == "completed"}
    assert done <= spoken
    await talk.session.close()


async def test_speaking_over_the_answer_silences_it(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, config())
    while len(talk.all(p.ResponseDone)) == len(talk.all(p.ResponseStarted)):
        await talk.units(1)
    started = talk.all(p.ResponseStarted)[-1]
    talk.hear(voiced(0.6))
    cut = await talk.until(p.Interrupt)
    assert cut.epoch == started.epoch
    done = (await talk.when(lambda: [m for m in talk.all(p.ResponseDone) if m.epoch == cut.epoch]))[
        0
    ]
    assert (done.status, done.reason) == ("cancelled", "turn_detected")
    talk.quiet(0.4)
    unit = (await talk.units(1))[-1]
    assert unit.kv_tokens > 0
    await talk.units(2)
    await talk.session.close()


async def test_forced_listening_is_obeyed_until_released(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, config())
    talk.session.handle(p.ForceListen("one", True))
    assert {unit.decision for unit in await talk.units(3)} == {"listen"}
    talk.session.handle(p.ForceListen("one", False))
    await speaking(talk)
    await talk.session.close()


async def test_neighbours_change_nothing(engine: MiniCpmoEngine) -> None:
    async def alone(slot: int) -> list[tuple[str, Any]]:
        talk = Talk(engine, f"s{slot}", slot, config())
        await talk.units(3)
        await talk.session.close()
        return _content(talk)

    expected = await alone(0)
    assert {kind for kind, _ in expected} == {"text", "sound"}
    talks = [
        Talk(engine, f"n{slot}", slot, config(sampling=p.Sampling(seed=7 if slot == 2 else slot)))
        for slot in range(3)
    ]
    await asyncio.gather(*(talk.units(3) for talk in talks))
    for talk in talks:
        await talk.session.close()
    assert _content(talks[2]) == expected
    assert await alone(0) == expected, "a slot that was used before is as good as new"


def _content(talk: Talk) -> list[tuple[str, Any]]:
    texts = [("text", (m.epoch, m.pts, m.text)) for m in talk.all(p.TextOut)]
    # Sums over the batch may differ in the last bit, and with it a sample by one step.
    sounds = [("sound", (m.epoch, m.pts, len(m.pcm))) for m in talk.all(p.AudioOut)]
    return texts + sounds


async def test_of_two_callers_one_is_put_between_the_units_of_the_other(
    engine: MiniCpmoEngine,
) -> None:
    unseeded = p.Sampling()
    one = Talk(engine, "one", 0, config(sampling=unseeded))
    other = Talk(engine, "other", 1, config(sampling=unseeded))
    seeded = Talk(engine, "seeded", 2, config())
    for talk in (one, other, seeded):
        talk.quiet(0.7)
    # Half a second of silence is in front of it.
    await other.until(p.UnitDone)
    assert not one.all(p.UnitDone) and not seeded.all(p.UnitDone)
    for talk in (one, seeded):
        talk.quiet(0.3)
        await talk.until(p.UnitDone)
    for talk in (one, other, seeded):
        await talk.session.close()


async def test_of_units_that_are_decided_together_all_but_the_last_say_that_others_follow(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(engine)
    tokens = scheduler.runner.model.tokens
    words = (tokens.speak, tokens.encode("a")[0], tokens.chunk_eos)
    steps = [0] * 4

    def choose(slots: list[int]) -> list[int]:
        chosen = [words[steps[slot] % 3] for slot in slots]
        for slot in slots:
            steps[slot] += 1
        return chosen

    said: list[bool] = []
    groups: list[list[bool]] = []
    say, apply = scheduler._speech.submit, scheduler._modes.duplex.finish

    def note(order: Any) -> None:
        # Voices and ends of sessions go the same way.
        if isinstance(order, SpeechRequest):
            said.append(order.others_follow)
        say(order)

    def note_group(results: dict[int, UnitResult]) -> None:
        said.clear()
        apply(results)
        groups.append(list(said))

    monkeypatch.setattr(scheduler.runner.duplex.replay, "force", choose)
    monkeypatch.setattr(scheduler._speech, "submit", note)
    monkeypatch.setattr(scheduler._modes.duplex, "finish", note_group)
    talks = [Talk(engine, f"t{slot}", slot, config()) for slot in range(3)]
    for _ in range(3):
        await asyncio.gather(*(talk.units(1) for talk in talks))
    spoken = [group for group in groups if group]
    assert max(map(len, spoken)) > 1
    assert all(all(group[:-1]) for group in spoken)
    for talk in talks:
        await talk.session.close()


async def test_the_newest_picture_goes_into_the_next_unit(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, config(options={"force_listen_count": 99}))
    without = (await talk.units(2))[-1].kv_tokens
    for shade in (0, 255):
        picture = np.full((120, 160, 3), shade, np.uint8)
        talk.session.handle(p.ImageIn("one", 0, 160, 120, picture.tobytes()))
    seen = (await talk.units(1))[-1].kv_tokens - without
    talk.session.handle(p.ImageIn("one", 0, 160, 120, picture.tobytes()))
    talk.session.handle(p.ImageIn("one", 0, 0, 0, b""))
    blind = (await talk.units(1))[-1].kv_tokens - without - seen
    # A picture is 64 embeddings between two marks; with the camera off there is none.
    assert seen - blind == 66
    await talk.session.close()


async def test_while_units_come_late_pictures_are_left_out_and_the_client_is_told(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thinning, "RAISE_AT", 0.0)
    monkeypatch.setattr(thinning, "RAISE_S", 0.0)
    monkeypatch.setattr(scheduler_of(engine)._modes.duplex, "_thinning", Thinning(1_000))
    talk = Talk(engine, "one", 0, config(options={"force_listen_count": 99}))
    picture = p.ImageIn("one", 0, 160, 120, bytes(160 * 120 * 3))
    talk.session.handle(picture)
    before = (await talk.units(MOST + 1))[-1].kv_tokens
    talk.session.handle(picture)
    assert (await talk.units(1))[-1].kv_tokens - before < 66
    told = [w for w in talk.all(p.SessionWarning) if w.code == "pictures_thinned"]
    assert told[-1].message == "the engine is busy: none of your pictures is looked at"
    await talk.session.close()
