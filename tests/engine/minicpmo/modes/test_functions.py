"""Functions in turns of the native engine, with a tiny random model whose words are given.

Guards: calls are told and never shown or spoken, however many; what a function gives back is read
as the template has it; a call ends the response; what was said before it is heard to its end; calls
that cannot be read are told; a choice is obeyed; an interruption keeps what was called.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from torch import Tensor

from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.rows import LlmRows
from tests.engine.minicpmo.engine_rig import Talk, scheduler_of, voiced
from tests.engine.minicpmo.turn_rig import (
    Rows,
    begin,
    of_epoch,
    respond,
    write,
)

LOOK = p.FunctionTool("look", "Looks.")
FIND = p.FunctionTool("find")
TOOLS = (LOOK, FIND)
ONE = '<tool_call>\n{"name": "look", "arguments": {"at": "the sky (now)"}}\n</tool_call>'
TWO = f'{ONE}\n<tool_call>\n{{"name": "find", "arguments": {{}}}}\n</tool_call>'
END = "<|im_end|>"
LONG = p.Sampling(seed=7, max_output_tokens=200)

Script = Callable[[str], None]


@pytest.fixture
def rows(engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch) -> Rows:
    """All that one session's model reads, what it writes itself included."""
    rows = Rows(engine, monkeypatch)
    tokens, step = scheduler_of(engine).runner.model.tokens, LlmRows.step

    def written(cache: LlmRows, feeding: Mapping[int, int]) -> Tensor:
        rows.text += tokens.decode(list(feeding.values()))
        return step(cache, feeding)

    monkeypatch.setattr(LlmRows, "step", written)
    return rows


@pytest.fixture
def script(engine: MiniCpmoEngine) -> Script:
    """Have the model write this, and nothing behind it."""
    runner = scheduler_of(engine).runner
    waiting: list[int] = []
    runner.turns.replay.force = lambda slots: [
        waiting.pop(0) if waiting else runner.model.tokens.im_end for _ in slots
    ]

    def add(text: str) -> None:
        waiting.extend(runner.model.tokens.encode(text))

    return add


def talk_to(
    engine: MiniCpmoEngine, *, aloud: bool = False, tools: tuple[p.FunctionTool, ...] = TOOLS
) -> Talk:
    modality: p.Modality = "audio" if aloud else "text"
    return begin(engine, modalities=(modality,), tools=tools, sampling=LONG)


def shown(talk: Talk, epoch: int) -> str:
    return "".join(message.text for message in of_epoch(talk, p.TextOut, epoch))


def called(talk: Talk, epoch: int) -> list[tuple[str, str]]:
    return [(call.name, call.arguments) for call in of_epoch(talk, p.FunctionCallOut, epoch)]


@pytest.mark.parametrize("aloud", [False, True])
async def test_calls_are_told_and_neither_shown_nor_spoken(
    engine: MiniCpmoEngine, script: Script, rows: Rows, aloud: bool
) -> None:
    talk = talk_to(engine, aloud=aloud)
    script(f"Hello there.\n{TWO}{END}")
    write(talk, "look at it")
    respond(talk)
    done = await talk.until(p.ResponseDone)
    assert done.status == "completed" and shown(talk, 1) == "Hello there.\n"
    assert called(talk, 1) == [("look", '{"at": "the sky (now)"}'), ("find", "{}")]
    ids = [call.call_id for call in talk.all(p.FunctionCallOut)]
    assert len(set(ids)) == 2 and all(call.last for call in talk.all(p.FunctionCallOut))
    assert "Looks." in rows.text.partition("<|im_start|>user")[0]
    if aloud:
        sounds = of_epoch(talk, p.AudioOut, 1)
        assert sounds[-1].last and sum(len(sound.pcm) for sound in sounds) > 0
    # What they give back, one of them late, is read behind the calls.
    talk.session.handle(p.FunctionOutputIn(talk.name, "o1", ids[0], "blue <|im_end|>"))
    talk.session.handle(p.FunctionOutputIn(talk.name, "o2", ids[1], "found"))
    script(f"It is blue.{END}")
    respond(talk)
    await talk.until(p.ResponseDone, 2)
    assert shown(talk, 2) == "It is blue."
    assert rows.text.endswith("It is blue.")
    outputs = "<tool_response>\nblue <|im_end|>\n</tool_response>\n<tool_response>\nfound"
    asked = f"<|im_start|>user\n{outputs}\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    assert f"Hello there.\n{TWO}<|im_end|>\n{asked}" in rows.text
    await talk.session.close()


async def test_a_reply_of_calls_alone_has_no_words(engine: MiniCpmoEngine, script: Script) -> None:
    talk = talk_to(engine, aloud=True)
    script(f"{ONE}{END}")
    write(talk, "look")
    respond(talk)
    await talk.until(p.ResponseDone)
    assert called(talk, 1) and not talk.all(p.TextOut) and not talk.all(p.AudioOut)
    await talk.session.close()


async def test_behind_its_calls_the_model_says_nothing(
    engine: MiniCpmoEngine, script: Script
) -> None:
    talk = talk_to(engine)
    script(f"{ONE}\nIt is blue, I think.")
    write(talk, "look")
    respond(talk)
    await talk.until(p.ResponseDone)
    assert called(talk, 1) and shown(talk, 1) == ""
    await talk.session.close()


@pytest.mark.parametrize(
    "written",
    [
        '<tool_call>\n{"name": "look", \n</tool_call>',
        '<tool_call>\n{"name": "paint"}\n</tool_call>',
        '<tool_call>\n{"name": "look"',
    ],
)
async def test_a_call_that_cannot_be_read_is_told(
    engine: MiniCpmoEngine, script: Script, written: str
) -> None:
    talk = talk_to(engine)
    script(f"Hm. {written}{END}")
    write(talk, "look")
    respond(talk)
    await talk.until(p.ResponseDone)
    assert not talk.all(p.FunctionCallOut) and shown(talk, 1) == "Hm. "
    assert "malformed_call" in [warning.code for warning in talk.all(p.SessionWarning)]
    script(f"Sorry.{END}")
    write(talk, "again")
    respond(talk)
    await talk.until(p.ResponseDone, 2)
    assert shown(talk, 2) == "Sorry."
    await talk.session.close()


async def test_a_call_is_no_longer_than_a_response_may_be(
    engine: MiniCpmoEngine, script: Script
) -> None:
    talk = talk_to(engine)
    script(ONE)
    write(talk, "look")
    respond(talk, max_output_tokens=8)
    done = await talk.until(p.ResponseDone)
    assert done.status == "incomplete" and not talk.all(p.FunctionCallOut)
    await talk.session.close()


async def test_a_choice_is_obeyed(engine: MiniCpmoEngine, script: Script, rows: Rows) -> None:
    talk = talk_to(engine)
    write(talk, "look")
    script('{"at": 1}}\n</tool_call>')
    respond(talk, tool_choice="required", tool_name="look")
    await talk.until(p.ResponseDone, 1)
    assert called(talk, 1) == [("look", '{"at": 1}')]
    assert '</think>\n\n<tool_call>\n{"name": "look", "arguments": {"at": 1}}' in rows.text
    script('{"name": "find", "arguments": {}}\n</tool_call>')
    respond(talk, tool_choice="required", instructions="Do.")
    await talk.until(p.ResponseDone, 2)
    assert called(talk, 2) == [("find", "{}")]
    script(f"No. {ONE}")
    respond(talk, tool_choice="none", instructions="Do not.")
    await talk.until(p.ResponseDone, 3)
    assert called(talk, 3) == [] and shown(talk, 3) == "No. "
    await talk.session.close()


async def test_functions_of_one_response_are_its_own(
    engine: MiniCpmoEngine, script: Script, rows: Rows
) -> None:
    talk = talk_to(engine, tools=())
    assert "<tools>" not in rows.text
    write(talk, "look")
    script(f"{ONE}{END}")
    respond(talk, tools=(LOOK,))
    await talk.until(p.ResponseDone)
    assert called(talk, 1) and "<|im_end|>\n<|im_start|>system\n# Tools" in rows.text
    write(talk, "look")
    script(f"So. {ONE}{END}")
    respond(talk)
    await talk.until(p.ResponseDone, 2)
    assert called(talk, 2) == [] and shown(talk, 2) == "So. "
    await talk.session.close()


async def test_what_is_said_before_a_call_is_heard_to_its_end(
    engine: MiniCpmoEngine, script: Script, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = talk_to(engine, aloud=True)
    session = talk.session
    kept: list[p.Heard] = []
    pass_on = session.handle

    def keep_last(message: p.SessionMessage) -> None:
        if isinstance(message, p.Heard) and message.final:
            kept.append(message)
        else:
            pass_on(message)

    monkeypatch.setattr(session, "handle", keep_last)
    script(f"Hello there. {ONE}{END}")
    write(talk, "look")
    respond(talk)
    await talk.until(p.ResponseDone)
    (call,) = talk.all(p.FunctionCallOut)
    session.handle(p.FunctionOutputIn(talk.name, "o", call.call_id, "blue"))
    script(f"Blue.{END}")
    respond(talk)
    await talk.when(lambda: kept)
    assert not talk.all(p.Interrupt) and len(talk.all(p.ResponseStarted)) == 1
    pass_on(kept[0])
    await talk.until(p.ResponseDone, 2)
    assert shown(talk, 2) == "Blue." and not talk.all(p.Interrupt)
    await session.close()


async def test_an_interruption_keeps_what_was_called(
    engine: MiniCpmoEngine, script: Script, rows: Rows
) -> None:
    talk = talk_to(engine, aloud=True)
    script(f"Hello there. {ONE}{END}")
    write(talk, "look")
    respond(talk)
    await talk.until(p.FunctionCallOut)
    await talk.until(p.ResponseDone)
    length = scheduler_of(engine).runner.turns.sessions[0].length
    talk.session.handle(p.CancelResponse(talk.name, 1))
    write(talk, "and?")
    script(f"Yes.{END}")
    respond(talk)
    await talk.until(p.ResponseDone, 2)
    assert not rows.cuts and scheduler_of(engine).runner.turns.sessions[0].length > length
    await talk.session.close()


async def test_functions_are_called_in_half_duplex(engine: MiniCpmoEngine, script: Script) -> None:
    talk = begin(engine, mode="half_duplex", modalities=("text",), tools=TOOLS)
    script(f"{ONE}{END}")
    talk.hear(voiced(1.0))
    talk.quiet(1.0)
    await talk.until(p.ResponseDone)
    assert called(talk, 1) or talk.all(p.SessionWarning)
    await talk.session.close()


async def test_in_full_duplex_functions_are_refused_by_name(engine: MiniCpmoEngine) -> None:
    talk = begin(engine, mode="full_duplex")
    talk.session.handle(p.FunctionOutputIn(talk.name, "o", "c", "x"))
    assert (await talk.until(p.SessionWarning)).code == "tools_unsupported"
    welcome = engine.welcome(2)
    assert welcome.tool_modes == ("half_duplex", "turn_based")
    assert not welcome.answers_out_of_band and welcome.version == p.VERSION
    await talk.session.close()


async def test_an_answer_out_of_band_is_refused(engine: MiniCpmoEngine) -> None:
    talk = talk_to(engine)
    respond(talk, is_out_of_band=True, request="aside")
    refused = await talk.until(p.RequestRefused)
    assert (refused.request, refused.code) == ("aside", "out_of_band_unsupported")
    await talk.session.close()
