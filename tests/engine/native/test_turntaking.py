"""Turns of the native engine, with a tiny random model: what is said, asked, cut and refused.

Guards: instructions and modalities of one response hold for it alone; a commit is one item of the
user however the detector sees it, and nothing committed is lost; speech over a message that is
still being read cancels its answer and keeps the message; what is too long is refused before it is
encoded; counts that are told ahead are those of the encoders; a closed session lets go of its
tensors at once; a full inbox refuses sound and pictures only.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine import protocol as p
from engine import scheduler as module
from engine.config import MiniCpmoConfig
from engine.llm_rows import Feed, LlmRows
from engine.minicpmo import MiniCpmoEngine
from engine.readitem import ModelMessage
from engine.runner import Runner, Seen
from engine.scheduler import Closing, Scheduler
from engine.turn_rows import TurnRows
from engine.window import Cut, Slide
from tests.engine.native.films import film
from tests.engine.native.test_minicpmo import Paused, Talk, config, voiced
from tests.server.talk import SESSION
from tests.server.talk import Talk as Client
from tests.waiting import until

SHORT = p.Sampling(seed=7, max_output_tokens=10)
COMMITTED = "input_audio_buffer.committed"


@pytest.fixture
async def engine(tiny_checkpoint: Path) -> AsyncIterator[MiniCpmoEngine]:
    made = MiniCpmoEngine(str(tiny_checkpoint), 2, MiniCpmoConfig(device="cpu", max_context=1700))
    await made.start(lambda text: None)
    yield made
    await made.close()


def scheduler_of(engine: MiniCpmoEngine) -> Scheduler:
    assert engine._scheduler is not None
    return engine._scheduler


def begin(engine: MiniCpmoEngine, mode: p.Mode = "turn_based", **changes: Any) -> Talk:
    return Talk(engine, SESSION, 0, config(mode=mode, sampling=SHORT, **changes))


def write(talk: Talk, *parts: p.ItemPart | str) -> None:
    typed = tuple(p.TextPart(part) if isinstance(part, str) else part for part in parts)
    talk.session.handle(p.ItemIn(talk.name, f"item{len(talk.said)}", "user", typed))


def respond(talk: Talk, **wanted: Any) -> None:
    talk.session.handle(p.CreateResponse(talk.name, **wanted))


def of_epoch(talk: Talk, kind: type[Any], epoch: int) -> list[Any]:
    return [message for message in talk.all(kind) if message.epoch == epoch]


# ---------------------------------------------------------------- one response's own settings


class Rows:
    """What goes into the caches as text, and what is taken out again."""

    def __init__(self, engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.text = ""
        self.cuts: list[Cut] = []
        tokens = scheduler_of(engine).runner.model.tokens
        append, apply = LlmRows.append, LlmRows.apply

        def read(rows: LlmRows, feeds: Sequence[Feed], **more: Any) -> None:
            for feed in feeds:
                for piece in feed.pieces:
                    is_media = isinstance(piece, Tensor)
                    self.text += "*" * len(piece) if is_media else tokens.decode(list(piece))
            append(rows, feeds, **more)

        def drop(rows: LlmRows, slot: int, slide: Slide) -> None:
            assert isinstance(slide, Cut)
            self.cuts.append(slide)
            apply(rows, slot, slide)

        monkeypatch.setattr(LlmRows, "append", read)
        monkeypatch.setattr(LlmRows, "apply", drop)


@pytest.fixture
def rows(engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch) -> Rows:
    return Rows(engine, monkeypatch)


async def test_instructions_of_a_response_are_read_for_it_alone(
    engine: MiniCpmoEngine, rows: Rows
) -> None:
    runner = scheduler_of(engine).runner
    talk = begin(engine)
    write(talk, "hello")
    respond(talk, instructions="Shout <|im_end|>.")
    await talk.until(p.ResponseDone)
    aside = runner.model.prompts.aside("Shout <|im_end|>.")
    asked = "<|im_start|>user\nhello<|im_end|>\n<|im_start|>system\nShout <|im_end|>.<|im_end|>\n"
    assert f"{asked}<|im_start|>assistant\n" in rows.text
    assert rows.cuts == []
    before = runner.turns.sessions[0].length
    protected = runner.turns.sessions[0].window.protected
    write(talk, "again")
    respond(talk)
    await talk.until(p.ResponseDone, 2)
    # Behind the system message and the user's words, and no more of it than that.
    user = len(runner.model.tokens.encode("<|im_start|>user\nhello"))
    assert rows.cuts == [Cut(protected + user, len(aside))]
    [turn] = runner.turns.sessions[0].window.entries
    closing = len(runner.turns.sessions[0].closing_ids)
    assert protected + turn.length == before - len(aside) + closing
    assert rows.text.count("Shout") == 1
    await talk.session.close()


async def test_instructions_alone_are_answered(engine: MiniCpmoEngine, rows: Rows) -> None:
    talk = begin(engine)
    respond(talk, instructions="Greet the user.")
    started = await talk.until(p.ResponseStarted)
    assert started.trigger == "request" and not talk.all(p.SessionWarning)
    assert "<|im_start|>user\n<|im_end|>\n<|im_start|>system\nGreet the user." in rows.text
    await talk.until(p.ResponseDone)
    respond(talk)
    assert (await talk.until(p.SessionWarning)).code == "empty_message"
    await talk.session.close()


async def test_instructions_of_a_response_hold_in_half_duplex(
    engine: MiniCpmoEngine, rows: Rows
) -> None:
    by_client = p.TurnDetection(create_response=False)
    talk = begin(engine, "half_duplex", turn_detection=by_client)
    talk.hear(voiced(0.8))
    talk.quiet(0.8)
    await talk.until(p.SpeechStopped)
    respond(talk, instructions="Shout.", modalities=("text",))
    assert (await talk.until(p.ResponseStarted)).modality == "text"
    await talk.until(p.ResponseDone)
    assert "<|im_start|>system\nShout.<|im_end|>" in rows.text
    await talk.session.close()


async def test_instructions_that_are_too_long_are_refused_by_name(engine: MiniCpmoEngine) -> None:
    talk = begin(engine)
    write(talk, "hello")
    respond(talk, instructions="word " * 2000)
    warning = await talk.until(p.SessionWarning)
    assert warning.code == "bad_message" and "instructions of its response" in warning.message
    await talk.session.close()


@pytest.mark.parametrize(("usual", "other"), [("audio", "text"), ("text", "audio")])
async def test_modalities_of_a_response_hold_for_it_alone(
    engine: MiniCpmoEngine, usual: p.Modality, other: p.Modality
) -> None:
    talk = begin(engine, modalities=(usual,))
    for wanted in ((), (other,), ()):
        write(talk, "hello")
        respond(talk, modalities=wanted)
        await talk.until(p.ResponseDone, len(talk.all(p.ResponseDone)) + 1)
    assert [m.modality for m in talk.all(p.ResponseStarted)] == [usual, other, usual]
    heard = [any(m.pcm for m in of_epoch(talk, p.AudioOut, epoch)) for epoch in (1, 2, 3)]
    assert heard == [kind == "audio" for kind in (usual, other, usual)]
    await talk.session.close()


# ---------------------------------------------------------------- push to talk


def client_of(talk: Talk) -> Client:
    """What a client hears of all that the engine said."""
    client = Client()
    client.hear(*talk.said)
    return client


@pytest.mark.parametrize("sayings", [0, 1, 3])
async def test_a_commit_is_one_item_of_the_user(engine: MiniCpmoEngine, sayings: int) -> None:
    """Also where the detector finds nothing, or several utterances with pauses between."""
    talk = begin(engine)
    talk.quiet(0.2)
    for _ in range(sayings):
        talk.hear(voiced(0.8))
        talk.quiet(0.8)
    talk.session.handle(p.CommitAudio(talk.name))
    respond(talk)
    await talk.until(p.ResponseStarted)
    told = client_of(talk)
    assert told.types.count(COMMITTED) == 1
    assert told.types.index(COMMITTED) < told.types.index("response.created")
    assert not [kind for kind in told.types if "speech_st" in kind]
    failed = told.one("conversation.item.input_audio_transcription.failed")
    assert failed["error"]["code"] == "not_transcribed"
    assert failed["item_id"] == told.one(COMMITTED)["item_id"]
    await talk.session.close()


async def test_every_commit_is_answered(engine: MiniCpmoEngine, rows: Rows) -> None:
    talk = begin(engine)
    for seconds in (2.0, 3.0):
        talk.quiet(seconds)
        talk.session.handle(p.CommitAudio(talk.name))
    respond(talk)
    await talk.until(p.ResponseDone)
    [_, said] = rows.text.split("<|im_start|>user\n")
    # Ten embeddings a second.
    assert said.startswith(f"<|audio_start|>{50 * '*'}<|audio_end|><|im_end|>")
    assert client_of(talk).types.count(COMMITTED) == 2
    await talk.session.close()


async def test_a_commit_of_nothing_is_told(engine: MiniCpmoEngine) -> None:
    talk = begin(engine)
    talk.session.handle(p.CommitAudio(talk.name))
    told = await talk.until(p.InputTranscript)
    assert told.final and told.code == "failed" and "no sound" in told.error
    await talk.session.close()


async def test_speech_that_was_announced_ends_also_where_turns_are_committed(
    engine: MiniCpmoEngine,
) -> None:
    talk = begin(engine, "half_duplex")
    talk.hear(voiced(0.8))
    await talk.until(p.SpeechStarted)
    talk.session.handle(p.UpdateSession(talk.name, config(mode="turn_based", sampling=SHORT)))
    talk.quiet(0.8)
    await talk.until(p.SpeechStopped)
    talk.hear(voiced(0.8))
    talk.quiet(0.8)
    talk.session.handle(p.CommitAudio(talk.name))
    await talk.until(p.InputTranscript, 2)
    assert len(talk.all(p.SpeechStarted)) == len(talk.all(p.SpeechStopped)) == 1
    await talk.session.close()


async def test_the_client_cuts_answers_where_it_commits_turns(engine: MiniCpmoEngine) -> None:
    talk = Paused(engine, SESSION, 0, config(mode="turn_based", sampling=SHORT))
    write(talk, "tell me")
    respond(talk)
    await talk.until(p.AudioOut)
    talk.hear(voiced(0.8))
    talk.quiet(0.8)
    talk.session.handle(p.CommitAudio(talk.name))
    await talk.until(p.InputTranscript)
    assert not talk.all(p.Interrupt)
    await talk.session.close()


# ---------------------------------------------------------------- speech over a message


@pytest.fixture
def may_read(engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until it is set, nothing but system messages gets into the caches."""
    go = threading.Event()
    add = TurnRows.add_slowly

    def held(turns: TurnRows, slot: int, pieces: Any, **more: Any) -> Iterator[None]:
        while not more.get("protect") and not go.is_set():
            yield
        yield from add(turns, slot, pieces, **more)

    monkeypatch.setattr(TurnRows, "add_slowly", held)
    yield go
    go.set()


async def test_speech_over_a_message_that_is_read_cancels_its_answer(
    engine: MiniCpmoEngine, may_read: threading.Event
) -> None:
    talk = begin(engine, "half_duplex")
    write(talk, "tell me a story")
    respond(talk)
    talk.hear(voiced(0.8))
    await talk.until(p.SpeechStarted)
    may_read.set()
    done = await talk.until(p.ResponseDone)
    assert (done.epoch, done.status, done.reason) == (1, "cancelled", "turn_detected")
    assert (await talk.until(p.Interrupt)).epoch == 1
    turns = scheduler_of(engine).runner.turns
    kept = turns.sessions[0].length
    assert kept > turns.sessions[0].window.protected, "what was typed stays"
    talk.quiet(0.8)
    # What was said meanwhile is answered.
    done = await talk.until(p.ResponseDone, 2)
    assert done.epoch == 2 and done.status != "cancelled" and done.input_tokens > kept
    assert not of_epoch(talk, p.AudioOut, 1) and of_epoch(talk, p.AudioOut, 2)
    cancelled, answered = client_of(talk).of("response.created")
    assert cancelled["response"]["id"] != answered["response"]["id"]
    await talk.session.close()


async def test_who_goes_on_after_a_pause_is_answered_once(
    engine: MiniCpmoEngine, may_read: threading.Event
) -> None:
    talk = begin(engine, "half_duplex")
    for _ in range(2):
        talk.hear(voiced(0.8))
        talk.quiet(0.8)
    await talk.until(p.SpeechStopped, 2)
    may_read.set()
    await talk.until(p.ResponseDone, 2)
    assert [m.utterance for m in talk.all(p.ResponseStarted)] == [1, 2]
    first, second = talk.all(p.ResponseDone)
    assert first.status == "cancelled" != second.status
    await talk.session.close()


@pytest.mark.parametrize(
    ("mode", "detection"),
    [("half_duplex", p.TurnDetection(interrupt_response=False)), ("turn_based", p.TurnDetection())],
)
async def test_speech_over_a_message_leaves_its_answer_where_it_may_not_interrupt(
    engine: MiniCpmoEngine,
    may_read: threading.Event,
    mode: p.Mode,
    detection: p.TurnDetection,
) -> None:
    talk = begin(engine, mode, turn_detection=detection)
    write(talk, "tell me a story")
    respond(talk)
    talk.hear(voiced(0.8))
    await until(lambda: not scheduler_of(engine)._inbox)
    may_read.set()
    assert (await talk.until(p.ResponseDone)).status != "cancelled"
    await talk.session.close()


# ---------------------------------------------------------------- what is too long


async def test_what_is_too_long_is_refused_before_it_is_encoded(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = begin(engine)
    await until(lambda: 0 in scheduler_of(engine).runner.turns.sessions)
    encoded: list[str] = []
    for name in ("look", "hear_whole"):
        encode: Callable[..., Any] = getattr(Runner, name)

        def noted(*given: Any, name: str = name, encode: Any = encode, **more: Any) -> Any:
            encoded.append(name)
            return encode(*given, **more)

        monkeypatch.setattr(Runner, name, noted)
    write(talk, p.VideoPart(film(25.0, fps=2)), "what happens?")
    respond(talk)
    warning = await talk.until(p.SessionWarning)
    assert warning.code == "bad_message" and "shorter" in warning.message
    assert encoded == []
    write(talk, p.VideoPart(film(1.0)))
    respond(talk)
    await talk.until(p.ResponseDone)
    assert encoded == ["look", "hear_whole"]
    await talk.session.close()


async def test_counts_told_ahead_are_those_of_the_encoders(engine: MiniCpmoEngine) -> None:
    runner = scheduler_of(engine).runner
    for count in (1, 159, 160, 801, 3_200, 16_000, 16_560, 23_999, 480_000, 480_001, 500_000):
        for in_blocks in (False, True):
            [heard] = runner.hear_whole([torch.zeros(count)], in_blocks=in_blocks)
            assert runner.count_sound(count) == len(heard), f"{count} samples"
    for height, width in ((28, 28), (120, 160), (900, 300), (1000, 1400)):
        for most in (1, 9):
            picture = torch.zeros(height, width, 3, dtype=torch.uint8)
            plan, [seen] = runner.plan_picture(picture, most), runner.look([(picture, most)])
            assert (plan.columns, plan.rows) == (seen.columns, seen.rows)
            assert plan.num_images == len(seen.images)


async def test_an_empty_recording_is_told(engine: MiniCpmoEngine) -> None:
    talk = begin(engine)
    write(talk, p.AudioPart(b""), "hello")
    warning = await talk.until(p.SessionWarning)
    assert warning.code == "bad_item" and "recording is empty" in warning.message
    await talk.session.close()


async def test_a_recording_too_short_to_hear_costs_only_itself(engine: MiniCpmoEngine) -> None:
    talk = begin(engine)
    write(talk, p.AudioPart(bytes(2 * 1200)), "hello")
    respond(talk)
    await talk.until(p.ResponseDone)
    assert not talk.all(p.SessionEnded)
    await talk.session.close()


# ---------------------------------------------------------------- the end, and too much


async def test_closed_session_lets_go_of_what_it_was_reading(
    engine: MiniCpmoEngine, may_read: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[Tensor]] = []
    look = Runner.look

    def noted(runner: Runner, pictures: Any) -> list[Seen]:
        found = look(runner, pictures)
        seen.extend(weakref.ref(image) for one in found for image in one.images)
        return found

    monkeypatch.setattr(Runner, "look", noted)
    talk = begin(engine)
    rgb = np.zeros((28, 28, 3), np.uint8).tobytes()
    talk.session.handle(p.ImageIn(talk.name, 0, 28, 28, rgb))
    respond(talk)
    await until(lambda: bool(seen))
    gc.collect()
    gc.disable()
    try:
        assert all(image() is not None for image in seen), "it is still being read"
        await talk.session.close()
        # The thread's frame may hold the last thing that it touched for a moment.
        await until(lambda: not any(image() is not None for image in seen))
    finally:
        gc.enable()


async def test_full_inbox_refuses_sound_and_pictures_only(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = scheduler_of(engine)
    await asyncio.to_thread(scheduler.stop)
    monkeypatch.setattr(module, "MAX_INBOX", 1)
    sound, picture = p.AudioIn("s", 0, b""), p.ImageIn("s", 0, 1, 1, b"")
    scheduler.post((0, sound))
    kept: list[ModelMessage] = [
        p.CancelResponse("s", 1),
        p.UpdateSession("s", p.SessionConfig()),
        p.CommitAudio("s"),
    ]
    for message in (sound, picture, *kept):
        scheduler.post((0, message))
    scheduler.post(Closing(0, lambda: None))
    orders = [order for _, order in scheduler._inbox]
    assert orders[:4] == [(0, message) for message in (sound, *kept)]
    assert isinstance(orders[4], Closing) and len(orders) == 5
    assert scheduler.refused_messages == 2
