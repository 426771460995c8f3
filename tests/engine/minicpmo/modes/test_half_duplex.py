"""Turns of the native engine, with a tiny random model: asked for, spoken over, given up.

Guards: instructions and modalities of one response hold for it alone; speech over a message that is
still being read cancels its answer and keeps the message; text comes as it is decided, and waits
for the speech of units; a closed session lets go of its tensors
at once; a full inbox refuses sound and pictures only.
"""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from engine.ipc import protocol as p
from engine.minicpmo.encoders.vision import EncodedPicture
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.context_window import Cut
from engine.minicpmo.runner import Runner
from engine.minicpmo.serving import scheduler as module
from engine.minicpmo.serving.orders import Closing
from engine.minicpmo.serving.scheduler import Scheduler
from engine.minicpmo.session.item_decoding import ModelMessage
from tests.engine.minicpmo.engine_rig import scheduler_of, voiced
from tests.engine.minicpmo.turn_rig import (
    Rows,
    begin,
    client_of,
    hold_reading,
    of_epoch,
    respond,
    write,
)
from tests.waiting import until


@pytest.fixture
def may_read(engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    go = hold_reading(monkeypatch)
    yield go
    go.set()


async def test_what_is_only_read_comes_token_by_token(engine: MiniCpmoEngine) -> None:
    runner = scheduler_of(engine).runner
    word = runner.model.tokens.encode("a")[0]
    runner.turns.replay.force = lambda slots: [word] * len(slots)
    talk = begin(engine)
    texts: list[list[str]] = []
    for wanted in ("text", "audio"):
        write(talk, "hello")
        respond(talk, modalities=(wanted,))
        done = await talk.until(p.ResponseDone, len(texts) + 1)
        texts.append([m.text for m in of_epoch(talk, p.TextOut, done.epoch) if m.text])
    read, spoken = texts
    # The last two come together: a token waits for its state, at the end nothing does.
    assert read == [*["a"] * 9, "aa"]
    assert 0 < len(spoken) <= 2
    await talk.session.close()


async def test_a_reply_waits_for_the_speech_of_units(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaking = True
    monkeypatch.setattr(scheduler_of(engine)._modes.duplex, "is_speaking", lambda: speaking)
    talk = begin(engine, modalities=("text",))
    write(talk, "hello")
    respond(talk)
    # It is read all the same, after some patience.
    await talk.until(p.ResponseStarted)
    await asyncio.sleep(0.3)
    assert not talk.all(p.TextOut) and not talk.all(p.ResponseDone)
    speaking = False
    await talk.until(p.ResponseDone)
    await talk.session.close()


# ---------------------------------------------------------------- one response's own settings


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
    assert (
        warning.code == "context_length_exceeded"
        and "instructions of its response" in warning.message
    )
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


# ---------------------------------------------------------------- speech over a message


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


# ---------------------------------------------------------------- the end, and too much


async def test_closed_session_lets_go_of_what_it_was_reading(
    engine: MiniCpmoEngine, may_read: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[weakref.ref[Tensor]] = []
    look = Runner.look

    def noted(runner: Runner, pictures: Any) -> list[EncodedPicture]:
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
    served = scheduler_of(engine)
    scheduler = Scheduler(served.runner, served.pipeline, served._voices._library)
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
