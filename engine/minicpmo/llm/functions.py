"""Functions in the model's words: how they are told of, called, and answered.

Source: the checkpoint's chat template, which is Qwen3's.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from engine.ipc.protocol import FunctionTool
from engine.minicpmo.llm.prompts import PromptMarkup, PromptPart

_BEFORE = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_AFTER = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments "
    'within <tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, '
    '"arguments": <args-json-object>}\n</tool_call>'
)
EMPTY_SCHEMA = {"type": "object", "properties": {}}


class CallError(ValueError):
    """What the model wrote is no call of a function that it was offered."""


def offer(tools: Sequence[FunctionTool], *, behind: bool = True) -> tuple[PromptPart, ...]:
    """What a system message says of functions; `behind` other text of it."""
    if not tools:
        return ()
    parts: list[PromptPart] = [PromptMarkup("\n\n" * behind + _BEFORE)]
    for tool in tools:
        parts += [PromptMarkup("\n"), json.dumps(_signature(tool), ensure_ascii=False)]
    return (*parts, PromptMarkup(_AFTER))


def replayed_call(name: str, arguments: str, *, behind: bool) -> tuple[PromptPart, ...]:
    """A call of the assistant's, as its words; `behind` others of them."""
    return (
        PromptMarkup("\n" * behind + '<tool_call>\n{"name": '),
        json.dumps(name, ensure_ascii=False),
        PromptMarkup(', "arguments": '),
        arguments or "{}",
        PromptMarkup("}\n</tool_call>"),
    )


def response(output: str, *, behind: bool) -> tuple[PromptPart, ...]:
    """What a function gave back, as the user's words; `behind` others of them."""
    before = "\n" * behind + "<tool_response>\n"
    return PromptMarkup(before), output, PromptMarkup("\n</tool_response>")


def read_call(text: str, offered: Sequence[FunctionTool]) -> tuple[str, str]:
    """Name and arguments (JSON) of a call as the model wrote it; raises `CallError`."""
    try:
        call = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CallError("a call that is not JSON") from error
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        raise CallError("a call without a function's name")
    if call["name"] not in {tool.name for tool in offered}:
        raise CallError("a function that is not offered")
    arguments = call.get("arguments", {})
    if isinstance(arguments, str):
        arguments = _parsed(arguments)
    if not isinstance(arguments, dict):
        raise CallError("arguments that are not an object")
    return call["name"], json.dumps(arguments, ensure_ascii=False)


def _signature(tool: FunctionTool) -> dict[str, Any]:
    schema = _parsed(tool.parameters)
    function: dict[str, Any] = {"name": tool.name}
    if tool.description:
        function["description"] = tool.description
    function["parameters"] = schema if isinstance(schema, dict) and schema else EMPTY_SCHEMA
    return {"type": "function", "function": function}


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
