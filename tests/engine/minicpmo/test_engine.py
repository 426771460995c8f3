"""The native engine behind its interface, with a tiny random model on the CPU: the flow is real.

Guards: units come out second by second with their figures; the first units only listen; barge-in
and forced listening silence the model and leave it able to go on; modes switch in a session; the
context limit is announced before it is reached and then ends or slides; a session's words and
sound do not depend on who else is served; what cannot be served is refused by name.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from engine.base import EngineError, EngineSession
from engine.config import MiniCpmoConfig
from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.duplex_state import UnitResult
from engine.minicpmo.modes import thinning
from engine.minicpmo.modes.half_duplex import MAX_WAITING_TURNS
from engine.minicpmo.speech.worker import SpeechRequest
from tests.waiting import until

Wanted = TypeVar("Wanted", bound=p.Message)

SECOND = 16_000
SPEAK_AT_ONCE = {"force_listen_count": 0}
WAIT_S = 30.0


class Talk:
    """A session and all that its engine said."""

    def __init__(self, engine: MiniCpmoEngine, name: str, slot: int, config: p.SessionConfig):
        self.name = name
        self.said: list[p.FromEngine] = []
        self._pts = 0
        self._changed = asyncio.Event()
        self.session: EngineSession = engine.open(name, slot, config, self._take)

    def _take(self, message: p.FromEngine) -> None:
        self.said.append(message)
        self._changed.set()
        if isinstance(message, p.AudioOut):
            # Played at once.
            heard = message.pts + len(message.pcm) // 2
            self.session.handle(p.Heard(self.name, message.epoch, heard, final=message.last))

    def all(self, kind: type[Wanted]) -> list[Wanted]:
        return [message for message in self.said if isinstance(message, kind)]

    async def until(self, kind: type[Wanted], count: int = 1) -> Wanted:
        """Wait for the `count`th message of a kind."""
        return (await self.when(lambda: self.all(kind)[count - 1 :]))[0]

    async def when(self, found: Callable[[], list[Wanted]]) -> list[Wanted]:
        async with asyncio.timeout(WAIT_S):
            while not (result := found()):
                self._changed.clear()
                await self._changed.wait()
        return result

    def hear(self, samples: np.ndarray) -> None:
        """16 kHz sound, int16."""
        for start in range(0, len(samples), 320):
            piece = samples[start : start + 320]
            self.session.handle(p.AudioIn(self.name, self._pts, piece.tobytes()))
            self._pts += len(piece)

    def quiet(self, seconds: float) -> None:
        self.hear(np.zeros(int(seconds * SECOND), np.int16))

    async def units(self, count: int) -> list[p.UnitDone]:
        """Let `count` more seconds of silence pass, one by one."""
        done = len(self.all(p.UnitDone))
        for index in range(count):
            self.quiet(1.0)
            await self.until(p.UnitDone, done + index + 1)
        return self.all(p.UnitDone)[done:]


def voiced(seconds: float) -> np.ndarray:
    """What a voice detector takes for speech: a buzz with the bands of a vowel."""
    at_s = np.arange(int(seconds * SECOND)) / SECOND
    buzz = sum(np.sin(2 * np.pi * 140 * k * at_s) / k for k in range(1, 20))
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * 4 * at_s)
    pcm: np.ndarray = (6000 * buzz * swell / np.abs(buzz).max()).astype(np.int16)
    return pcm


def config(**changes: Any) -> p.SessionConfig:
    """A session that may speak from its first unit on, with a seed."""
    options = SPEAK_AT_ONCE | changes.pop("options", {})
    sampling = changes.pop("sampling", p.Sampling(seed=7))
    return p.SessionConfig(options=options, sampling=sampling, **changes)


@pytest.fixture
async def engine(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[MiniCpmoEngine]:
    # However slow this machine is, every picture is looked at.
    monkeypatch.setattr(thinning, "RAISE_MS", float("inf"))
    made = MiniCpmoEngine(str(tiny_checkpoint), 4, MiniCpmoConfig(device="cpu", max_context=400))
    await made.start(lambda text: None)
    yield made
    await made.close()


async def test_units_come_second_by_second_with_their_figures(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, config())
    units = await talk.units(4)
    assert [unit.unit for unit in units] == [1, 2, 3, 4]
    lengths = [unit.kv_tokens for unit in units]
    assert lengths == sorted(lengths) and lengths[0] > 10
    assert all({"encode", "prefill", "unit"} <= set(unit.stages_ms) for unit in units)
    await talk.session.close()


async def test_sound_that_comes_too_fast_is_skipped_by_units_and_told_once(
    engine: MiniCpmoEngine,
) -> None:
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


async def speaking(talk: Talk) -> p.AudioOut:
    """Let units pass until the random model speaks; its first sound."""
    for _ in range(12):
        await talk.units(1)
        if talk.all(p.AudioOut):
            return talk.all(p.AudioOut)[0]
    pytest.fail("the random model never spoke")


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
    await talk.units(6)
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


@pytest.mark.parametrize("policy", ["end", "slide"])
async def test_context_limit_is_announced_and_kept(engine: MiniCpmoEngine, policy: Any) -> None:
    talk = Talk(engine, "one", 0, config(context_policy=policy))
    for _ in range(60):
        before = len(talk.all(p.UnitDone))
        talk.quiet(1.0)
        await talk.when(partial(_units_or_end, talk, before))
        if talk.all(p.SessionEnded):
            break
    warnings = [w for w in talk.all(p.SessionWarning) if w.code == "context_near_limit"]
    assert warnings and warnings[0].limit == 400
    assert max(unit.kv_tokens for unit in talk.all(p.UnitDone)) <= 400
    if policy == "end":
        ended = talk.all(p.SessionEnded)[0]
        assert ended.reason == "context_limit"
        assert talk.said.index(warnings[0]) < talk.said.index(ended)
    else:
        assert not talk.all(p.SessionEnded)
        assert len(talk.all(p.UnitDone)) == 60
    await talk.session.close()


def _units_or_end(talk: Talk, since: int) -> list[p.Message]:
    return [*talk.all(p.UnitDone)[since:], *talk.all(p.SessionEnded)]


async def test_modes_switch_within_a_session(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, config())
    await talk.units(2)
    short = p.Sampling(seed=7, max_output_tokens=10)
    talk.session.handle(p.UpdateSession("one", config(mode="turn_based", sampling=short)))
    text = p.TextPart("hello there")
    talk.session.handle(p.ItemIn("one", "i1", "user", (text,)))
    talk.session.handle(p.CreateResponse("one"))
    typed = await talk.when(
        lambda: [m for m in talk.all(p.ResponseStarted) if m.trigger == "request"]
    )
    done = await talk.when(
        lambda: [m for m in talk.all(p.ResponseDone) if m.epoch == typed[0].epoch]
    )
    assert done[0].status in ("completed", "incomplete")
    talk.session.handle(p.UpdateSession("one", config(mode="half_duplex", sampling=short)))
    talk.hear(voiced(0.8))
    talk.quiet(0.8)
    spoken = await talk.when(
        lambda: [m for m in talk.all(p.ResponseStarted) if m.trigger == "speech"]
    )
    assert spoken[0].utterance == talk.all(p.SpeechStopped)[-1].utterance
    talk.session.handle(p.UpdateSession("one", config()))
    await talk.units(2)
    restarts = [w for w in talk.all(p.SessionWarning) if w.code == "context_restarted"]
    assert len(restarts) == 3
    await talk.session.close()


async def test_neighbours_change_nothing(engine: MiniCpmoEngine) -> None:
    async def alone(slot: int) -> list[tuple[str, Any]]:
        talk = Talk(engine, f"s{slot}", slot, config())
        await talk.units(6)
        await talk.session.close()
        return _content(talk)

    expected = await alone(0)
    talks = [
        Talk(engine, f"n{slot}", slot, config(sampling=p.Sampling(seed=7 if slot == 2 else slot)))
        for slot in range(4)
    ]
    await asyncio.gather(*(talk.units(6) for talk in talks))
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
    scheduler = engine._scheduler
    assert scheduler is not None
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
    say, apply = scheduler._speech.submit, scheduler._duplex._finish

    def note(order: SpeechRequest) -> None:
        said.append(order.others_follow)
        say(order)

    def note_group(results: dict[int, UnitResult]) -> None:
        said.clear()
        apply(results)
        groups.append(list(said))

    monkeypatch.setattr(scheduler.runner.duplex.replay, "force", choose)
    monkeypatch.setattr(scheduler._speech, "submit", note)
    monkeypatch.setattr(scheduler._duplex, "_finish", note_group)
    talks = [Talk(engine, f"t{slot}", slot, config()) for slot in range(3)]
    for _ in range(5):
        await asyncio.gather(*(talk.units(1) for talk in talks))
    spoken = [group for group in groups if group]
    assert max(map(len, spoken)) > 1
    assert all(all(group[:-1]) for group in spoken)
    for talk in talks:
        await talk.session.close()


async def test_settings_that_cannot_be_end_the_session_by_name(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, config(options={"window": "sideways"}))
    ended = await talk.until(p.SessionEnded)
    assert ended.reason == "failed" and "sideways" in ended.message
    other = Talk(engine, "two", 1, config(options={"colour": "red"}))
    warning = await other.until(p.SessionWarning)
    assert warning.code == "unknown_option" and "colour" in warning.message
    await talk.session.close()
    await other.session.close()


@pytest.mark.parametrize("mode", ["full_duplex", "turn_based"])
async def test_instructions_that_do_not_fit_are_refused(engine: MiniCpmoEngine, mode: Any) -> None:
    # Fewer than one piece of a prompt, and more: neither is begun.
    for slot, words in enumerate((450, 2000)):
        talk = Talk(engine, f"s{slot}", slot, config(mode=mode, instructions="word " * words))
        ended = await talk.until(p.SessionEnded)
        assert ended.reason == "failed" and "instructions take" in ended.message
        await talk.session.close()


async def test_missing_checkpoint_says_how_to_get_it(tmp_path: Path) -> None:
    engine = MiniCpmoEngine(str(tmp_path / "nothing"), 1, MiniCpmoConfig(device="cpu"))
    with pytest.raises(EngineError, match="not a folder"):
        await engine.start(lambda text: None)
    await engine.close()


async def test_unknown_default_voice_is_refused(tiny_checkpoint: Path) -> None:
    engine = MiniCpmoEngine(str(tiny_checkpoint), 1, MiniCpmoConfig(device="cpu", voice="nobody"))
    with pytest.raises(EngineError, match="nobody"):
        await engine.start(lambda text: None)
    await engine.close()


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
    monkeypatch.setattr(thinning, "RAISE_MS", 0.0)
    monkeypatch.setattr(thinning, "RAISE_S", 0.0)
    talk = Talk(engine, "one", 0, config(options={"force_listen_count": 99}))
    picture = p.ImageIn("one", 0, 160, 120, bytes(160 * 120 * 3))
    talk.session.handle(picture)
    before = (await talk.units(thinning.MOST + 1))[-1].kv_tokens
    talk.session.handle(picture)
    assert (await talk.units(1))[-1].kv_tokens - before < 66
    told = [w for w in talk.all(p.SessionWarning) if w.code == "pictures_thinned"]
    assert told[-1].message == "the engine is busy: none of your pictures is looked at"
    await talk.session.close()


async def test_after_a_reply_was_cut_off_the_next_one_comes(engine: MiniCpmoEngine) -> None:
    long = p.Sampling(seed=7, max_output_tokens=200)
    talk = Talk(engine, "one", 0, config(mode="turn_based", sampling=long))
    for count in (1, 2, 3):
        item = p.ItemIn("one", f"i{count}", "user", (p.TextPart("tell me"),))
        talk.session.handle(item)
        talk.session.handle(p.CreateResponse("one"))
        started = await talk.until(p.ResponseStarted, count)
        assert started.epoch == count
        if count < 3:
            talk.session.handle(p.CancelResponse("one", count))
            done = await talk.until(p.ResponseDone, count)
            assert (done.epoch, done.status) == (count, "cancelled")
    heard = await talk.when(lambda: [m for m in talk.all(p.AudioOut) if m.epoch == 3])
    assert heard[0].pts == 0
    await talk.session.close()


async def test_speech_waits_for_a_client_that_asks_itself(engine: MiniCpmoEngine) -> None:
    short = p.Sampling(seed=7, max_output_tokens=10)
    by_client = p.TurnDetection(create_response=False)
    settings = config(mode="half_duplex", sampling=short, turn_detection=by_client)
    talk = Talk(engine, "one", 0, settings)
    talk.hear(voiced(0.8))
    talk.quiet(0.8)
    await talk.until(p.SpeechStopped)
    talk.session.handle(p.CreateResponse("one"))
    assert (await talk.until(p.ResponseStarted)).trigger == "request"
    await talk.session.close()


async def test_a_cancellation_of_an_earlier_response_leaves_the_newest(
    engine: MiniCpmoEngine,
) -> None:
    short = p.Sampling(seed=7, max_output_tokens=10)
    talk = Talk(engine, "one", 0, config(mode="turn_based", sampling=short))
    talk.session.handle(p.ItemIn("one", "i1", "user", (p.TextPart("tell me"),)))
    talk.session.handle(p.CreateResponse("one"))
    await talk.until(p.ResponseStarted)
    talk.session.handle(p.CancelResponse("one", 0))
    assert (await talk.until(p.ResponseDone)).status != "cancelled"
    await talk.session.close()


async def test_of_more_requests_than_may_wait_the_oldest_is_refused(
    engine: MiniCpmoEngine,
) -> None:
    talk = Talk(engine, "one", 0, config(mode="turn_based"))
    # Nothing is answered meanwhile, so all of them wait.
    talk.session.handle(p.ForceListen("one", True))
    for count in range(MAX_WAITING_TURNS + 1):
        talk.session.handle(p.ItemIn("one", f"i{count}", "user", (p.TextPart("tell me"),)))
        talk.session.handle(p.CreateResponse("one", request=f"r{count}"))
    refused = await talk.until(p.RequestRefused)
    assert (refused.request, refused.code) == ("r0", "overloaded")
    assert not talk.all(p.ResponseStarted)
    await talk.session.close()


class Paused(Talk):
    """A client that has not played anything yet."""

    def _take(self, message: p.FromEngine) -> None:
        self.said.append(message)
        self._changed.set()


async def test_what_was_not_heard_of_a_finished_reply_is_forgotten(engine: MiniCpmoEngine) -> None:
    assert engine._scheduler is not None
    turns = engine._scheduler.runner.turns
    short = p.Sampling(seed=7, max_output_tokens=10)
    talk = Paused(engine, "one", 0, config(mode="turn_based", sampling=short))
    talk.session.handle(p.ItemIn("one", "i1", "user", (p.TextPart("tell me"),)))
    talk.session.handle(p.CreateResponse("one"))
    await talk.until(p.AudioOut)
    await until(lambda: not turns.sessions[0].is_replying)
    whole = turns.sessions[0].length
    talk.session.handle(p.CancelResponse("one", 1))
    await until(lambda: turns.sessions[0].length < whole)
    await talk.session.close()


async def test_what_fails_for_one_session_ends_only_that_one(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = engine._scheduler
    assert scheduler is not None
    other = Talk(engine, "two", 1, config())
    await other.units(1)

    def broken(pictures: object) -> None:
        raise RuntimeError("a strange picture")

    monkeypatch.setattr(scheduler.runner, "look", broken)
    short = p.Sampling(seed=7, max_output_tokens=10)
    talk = Talk(engine, "one", 0, config(mode="turn_based", sampling=short))
    black = np.zeros((28, 28, 3), np.uint8).tobytes()
    talk.session.handle(p.ImageIn("one", 0, 28, 28, black))
    talk.session.handle(p.CreateResponse("one"))
    assert (await talk.until(p.SessionEnded)).reason == "failed"
    await other.units(2)
    assert not other.all(p.SessionEnded)
    await talk.session.close()
    await other.session.close()


async def test_an_engine_that_cannot_go_on_says_so(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = engine._scheduler
    assert scheduler is not None

    def broken(*given: object) -> None:
        raise RuntimeError("the GPU has fallen off the bus")

    monkeypatch.setattr(scheduler.runner, "hear", broken)
    monkeypatch.setattr(scheduler.runner, "clear", broken)
    talk = Talk(engine, "one", 0, config())
    talk.quiet(1.0)
    await until(lambda: scheduler.is_broken)
    with pytest.raises(EngineError, match="ended by an error"):
        engine.pending_ms()
    # Nobody is left who could clear its slot.
    async with asyncio.timeout(1):
        await talk.session.close()
