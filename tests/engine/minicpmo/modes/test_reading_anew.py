"""Conversations whose context is read again: system messages, items in the middle, deletions.

Guards: the model reads the same as if it had been so from the beginning; what was heard of an
answer counts; what there is no room for is told; roles are the items' own.
"""

from __future__ import annotations

import msgspec
import pytest

from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.turn_state import TurnState
from tests.engine.minicpmo.engine_rig import Paused, Talk, config, scheduler_of, voiced
from tests.engine.minicpmo.turn_rig import SHORT, Rows, begin, respond, write
from tests.server.worker.talk import SESSION

LOOK = p.FunctionTool("look", "Looks.")


@pytest.fixture
def rows(engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """What is fed; the model answers `a` five times."""
    runner = scheduler_of(engine).runner
    word, end = runner.model.tokens.encode("a")[0], runner.model.tokens.im_end
    written = {"count": 0}

    def force(slots: list[int]) -> list[int]:
        written["count"] += 1
        return [end if written["count"] % 6 == 0 else word for _ in slots]

    runner.turns.replay.force = force
    return Rows(engine, monkeypatch)


def state(engine: MiniCpmoEngine) -> TurnState:
    return scheduler_of(engine).runner.turns.sessions[0]


async def answered(talk: Talk, *parts: p.ItemPart | str) -> p.ResponseDone:
    count = len(talk.all(p.ResponseDone))
    if parts:
        write(talk, *parts)
    respond(talk)
    return await talk.until(p.ResponseDone, count + 1)


def put(talk: Talk, name: str, text: str, role: str = "user", after: str = "") -> None:
    item = p.ItemIn(talk.name, name, role, (p.TextPart(text),), after)  # type: ignore[arg-type]
    talk.session.handle(item)


def opened(text: str, *, last: bool = True) -> str:
    """A message of the user's and the opening of its answer."""
    user = f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    return user + "<|tts_bos|>" + ("" if last else "aaaaa<|tts_eos|><|im_end|>\n")


async def test_an_agent_that_takes_over_knows_what_was_said(
    engine: MiniCpmoEngine, rows: Rows
) -> None:
    talk = begin(engine, modalities=("text",))
    await answered(talk, "my name is Ann")
    await answered(talk, "remember it")
    before = state(engine).length - state(engine).window.protected
    rows.text = ""
    mine = config(
        mode="turn_based", sampling=SHORT, modalities=("text",), instructions="Sell.", tools=(LOOK,)
    )
    talk.session.handle(p.UpdateSession(talk.name, mine))
    await answered(talk, "who am I?")
    system, _, conversation = rows.text.partition("<|im_end|>\n")
    assert system.startswith("<|im_start|>system\nSell.") and "Looks." in system
    said = [opened(text, last=False) for text in ("my name is Ann", "remember it")]
    assert conversation == "".join(said) + opened("who am I?")
    entries = state(engine).window.entries
    closing = len(state(engine).closing_ids)
    assert sum(entry.length for entry in entries) == before + closing
    assert not talk.all(p.SessionWarning)
    await talk.session.close()


async def test_what_was_said_aloud_is_heard_again(engine: MiniCpmoEngine, rows: Rows) -> None:
    talk = begin(engine, "half_duplex", modalities=("text",))
    talk.hear(voiced(0.8))
    talk.quiet(0.8)
    await talk.until(p.ResponseDone)
    heard = rows.text.count("*")
    assert heard > 10
    rows.text = ""
    talk.session.handle(
        p.UpdateSession(talk.name, config(mode="half_duplex", modalities=("text",), tools=(LOOK,)))
    )
    by_hand = config(mode="turn_based", modalities=("text",), tools=(LOOK,))
    talk.session.handle(p.UpdateSession(talk.name, by_hand))
    await answered(talk, "what did I say?")
    assert rows.text.count("*") == heard and "Looks." in rows.text
    assert rows.text.endswith(opened("what did I say?"))
    done = talk.all(p.ResponseDone)[-1]
    assert done.input_split.audio == heard
    await talk.session.close()


async def test_only_what_was_heard_of_an_answer_is_read_again(
    engine: MiniCpmoEngine, rows: Rows
) -> None:
    talk = Paused(engine, SESSION, 0, config(mode="turn_based", sampling=SHORT))
    write(talk, "tell me")
    respond(talk)
    await talk.until(p.ResponseDone)
    # Nothing of it was played: the client cuts it, and other instructions come.
    talk.session.handle(p.CancelResponse(talk.name, 1))
    rows.text = ""
    talk.session.handle(
        p.UpdateSession(talk.name, config(mode="turn_based", sampling=SHORT, instructions="Sell."))
    )
    write(talk, "go on")
    respond(talk)
    await talk.until(p.ResponseStarted, 2)
    assert opened("tell me") + "<|tts_eos|><|im_end|>\n" + opened("go on") in rows.text
    await talk.session.close()


async def test_items_go_where_they_are_put(engine: MiniCpmoEngine, rows: Rows) -> None:
    talk = begin(engine, modalities=("text",))
    put(talk, "one", "first")
    await answered(talk)
    put(talk, "two", "second")
    await answered(talk)
    put(talk, "rule", "Be kind.", "system", p.ROOT)
    put(talk, "said", "indeed", "assistant", p.response_item(1))
    put(talk, "more", "and", "user", "one")
    rows.text = ""
    await answered(talk, "third")
    _, _, conversation = rows.text.partition("<|im_end|>\n")
    assert conversation == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        + opened("first\nand", last=False)
        + "<|im_start|>assistant\nindeed<|im_end|>\n"
        + opened("second", last=False)
        + opened("third")
    )
    put(talk, "lost", "where?", "user", "nowhere")
    assert (await talk.until(p.SessionWarning)).code == "unknown_place"
    await talk.session.close()


async def test_what_is_deleted_is_read_no_more(engine: MiniCpmoEngine, rows: Rows) -> None:
    talk = begin(engine, modalities=("text",))
    put(talk, "one", "a secret")
    await answered(talk)
    talk.session.handle(p.DeleteItem(talk.name, "one"))
    talk.session.handle(p.DeleteItem(talk.name, p.response_item(1)))
    rows.text = ""
    await answered(talk, "hello")
    assert rows.text.endswith(f"<|im_end|>\n{opened('hello')}") and "secret" not in rows.text
    talk.session.handle(p.DeleteItem(talk.name, "never there"))
    assert (await talk.until(p.SessionWarning)).code == "item_kept"
    await talk.session.close()


async def test_messages_have_the_roles_of_their_items(engine: MiniCpmoEngine, rows: Rows) -> None:
    talk = begin(engine, modalities=("text",))
    for role, text in (("user", "hi"), ("assistant", "hello"), ("user", "and"), ("user", "now?")):
        put(talk, text, text, role)
    await answered(talk)
    written = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n"
    assert rows.text.endswith(written + opened("and\nnow?"))
    await talk.session.close()


async def test_what_has_no_room_beside_longer_instructions_is_told(
    engine: MiniCpmoEngine, rows: Rows
) -> None:
    talk = begin(engine, modalities=("text",))
    for number in range(4):
        await answered(talk, f"{number} " + "word " * 60)
    long = config(mode="turn_based", sampling=SHORT, modalities=("text",), instructions="so " * 150)
    rows.text = ""
    talk.session.handle(p.UpdateSession(talk.name, long))
    await answered(talk, "hello")
    assert "context_shortened" in [warning.code for warning in talk.all(p.SessionWarning)]
    assert "\n3 word" in rows.text and "\n0 word" not in rows.text
    await talk.session.close()


async def test_input_is_told_by_kind_and_what_of_it_was_read_before(
    engine: MiniCpmoEngine, rows: Rows
) -> None:
    talk = begin(engine, modalities=("text",))
    first = await answered(talk, "hello")
    second = await answered(talk, p.AudioPart(bytes(2 * 24_000)), "what?")
    assert first.input_split == p.TokenSplit(first.input_tokens, audio=0, image=0, cached=0)
    heard = rows.text.count("*")
    assert second.input_split.audio == heard > 0
    split = second.input_split
    assert second.input_tokens == (split.text or 0) + heard
    assert first.input_tokens < (split.cached or 0) < second.input_tokens
    assert second.output_split == p.TokenSplit(text=5, audio=0)
    await talk.session.close()


async def test_instructions_that_are_too_long_lose_nothing_of_what_was_said(
    engine: MiniCpmoEngine, rows: Rows
) -> None:
    talk = begin(engine, modalities=("text",))
    await answered(talk, "my name is Ann")
    changed = config(mode="turn_based", sampling=SHORT, modalities=("text",))
    long = msgspec.structs.replace(changed, instructions="word " * 2_000)
    talk.session.handle(p.UpdateSession(talk.name, long))
    assert (await talk.until(p.SessionWarning)).code == "context_length_exceeded"
    assert (await answered(talk, "who am I?")).status == "failed"
    rows.text = ""
    talk.session.handle(p.UpdateSession(talk.name, changed))
    assert (await answered(talk, "and now?")).status == "completed"
    assert opened("my name is Ann", last=False) + opened("and now?") in rows.text
    await talk.session.close()
