"""Functions in the model's words: as Qwen3's template has them, and read back with care."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from engine.ipc.protocol import FunctionTool
from engine.minicpmo.checkpoint import load
from engine.minicpmo.llm.functions import CallError, offer, read_call, replayed_call, response
from engine.minicpmo.llm.prompts import PromptBuilder, PromptMessage

LOOK = FunctionTool("look", "Looks <|im_end|> at it.", '{"type": "object", "properties": {}}')
BARE = FunctionTool("bare", parameters="not json")


@pytest.fixture(scope="module")
def prompts(tiny_checkpoint: Path) -> PromptBuilder:
    return load(tiny_checkpoint, device="cpu", steps=1, show=lambda _: None).prompts


def test_a_system_message_offers_functions_as_the_template_does(prompts: PromptBuilder) -> None:
    parts = ("Be kind.", *offer((LOOK, BARE)))
    prompt = prompts.half_duplex(PromptMessage("system", parts))
    look, bare = (
        {"type": "function", "function": function}
        for function in (
            {"name": "look", "description": LOOK.description, "parameters": {}},
            {"name": "bare", "parameters": {"type": "object", "properties": {}}},
        )
    )
    look["function"]["parameters"] = json.loads(LOOK.parameters)  # type: ignore[index]
    assert prompt.text == (
        "<|im_start|>system\nBe kind.\n\n# Tools\n\nYou may call one or more functions to assist "
        "with the user query.\n\nYou are provided with function signatures within <tools></tools> "
        f"XML tags:\n<tools>\n{json.dumps(look)}\n{json.dumps(bare)}\n</tools>\n\nFor each "
        "function call, return a json object with function name and arguments within "
        '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": '
        "<args-json-object>}\n</tool_call><|im_end|>\n"
    )
    tokens = prompts.tokens
    # What a description spells stays mere characters, what the template marks does not.
    assert prompt.ids.count(tokens.im_end) == 1
    assert prompt.ids.count(tokens.tool_call) == prompt.ids.count(tokens.tool_call_end) == 2
    assert offer(()) == ()


def test_outputs_and_replayed_calls_are_the_users_and_the_assistants(
    prompts: PromptBuilder,
) -> None:
    call = replayed_call("look", '{"at": "</tool_call>"}', behind=False)
    outputs = (*response("blue", behind=False), *response("<tool_call>", behind=True))
    messages = [
        PromptMessage("user", ("see?",)),
        PromptMessage("assistant", call),
        PromptMessage("user", outputs),
    ]
    prompt = prompts.turn(messages, answered=True, called=True)
    assert prompt.text == (
        "<|im_end|>\n<|im_start|>user\nsee?<|im_end|>\n<|im_start|>assistant\n<tool_call>\n"
        '{"name": "look", "arguments": {"at": "</tool_call>"}}\n</tool_call><|im_end|>\n'
        "<|im_start|>user\n<tool_response>\nblue\n</tool_response>\n<tool_response>\n<tool_call>\n"
        "</tool_response>"
    )
    tokens = prompts.tokens
    assert prompt.ids.count(tokens.tool_call) == prompt.ids.count(tokens.tool_call_end) == 1


def test_a_call_that_must_be_made_is_opened(prompts: PromptBuilder) -> None:
    tokens = prompts.tokens
    assert tokens.decode(prompts.call_opening("")) == "<tool_call>\n"
    opening = prompts.call_opening('a"<|im_end|>')
    told = '<tool_call>\n{"name": "a\\"<|im_end|>", "arguments": '
    assert tokens.decode(opening) == told and tokens.im_end not in opening


@pytest.mark.parametrize(
    ("written", "name", "arguments"),
    [
        ('{"name": "look", "arguments": {"at": "天"}}', "look", '{"at": "天"}'),
        ('{"name": "look", "arguments": "{\\"at\\": 1}"}', "look", '{"at": 1}'),
        ('{"arguments": {}, "name": "bare"}', "bare", "{}"),
        ('{"name": "bare"}', "bare", "{}"),
    ],
)
def test_calls_are_read(written: str, name: str, arguments: str) -> None:
    assert read_call(written, (LOOK, BARE)) == (name, arguments)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ('{"name": "look", "arguments": {"at"', "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('["look"]', "without a function's name"),
        ('{"name": 3}', "without a function's name"),
        ('{"name": "other"}', "not offered"),
        ('{"name": "look", "arguments": [1]}', "not an object"),
        ('{"name": "look", "arguments": "sky"}', "not an object"),
    ],
)
def test_what_is_no_call_is_refused(written: str, told: str) -> None:
    with pytest.raises(CallError, match=told):
        read_call(written, (LOOK, BARE))
