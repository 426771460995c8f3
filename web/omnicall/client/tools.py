"""Functions of the program that the model may call: how it is told of them, and the call."""

from __future__ import annotations

import asyncio
import inspect
import json
import logging
from collections.abc import Callable, Sequence
from typing import Any, get_type_hints

import msgspec

from omnicall.client.errors import ClientError

logger = logging.getLogger(__name__)

MAX_OUTPUT_CHARS = 32 * 1024
"""As long as the server takes."""


class Function:
    """A callable, and how the model is told of it.

    Its name, docstring and annotated parameters are what the model reads. It may be a coroutine
    function; any other runs in a thread of its own. What it returns is sent as text or as JSON.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = function.__name__
        self._function = function
        hints = get_type_hints(function)
        fields: list[Any] = []
        for parameter in inspect.signature(function).parameters.values():
            if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                raise ClientError(f"{self.name}: parameters with * cannot be told to a model")
            kind = hints.get(parameter.name, str)
            default = () if parameter.default is parameter.empty else (parameter.default,)
            fields.append((parameter.name, kind, *default))
        self._arguments = msgspec.defstruct(
            "arguments", fields, kw_only=True, forbid_unknown_fields=True
        )

    @property
    def definition(self) -> dict[str, Any]:
        """As `session.tools` takes it."""
        (_,), components = msgspec.json.schema_components([self._arguments])
        parameters = components.pop("arguments")
        parameters.pop("title", None)
        if components:
            parameters["$defs"] = components
        told = {"type": "function", "name": self.name, "parameters": parameters}
        description = inspect.getdoc(self._function)
        return told | ({"description": description} if description else {})

    async def run(self, arguments: str) -> str:
        """Return the output for the model; errors, too, are told to it."""
        try:
            given = msgspec.json.decode(arguments or "{}", type=self._arguments)
        except msgspec.DecodeError as error:
            return json.dumps({"error": f"The arguments do not fit: {error}"})
        named = {name: getattr(given, name) for name in given.__struct_fields__}
        try:
            if inspect.iscoroutinefunction(self._function):
                output = await self._function(**named)
            else:
                output = await asyncio.to_thread(self._function, **named)
        except Exception as error:  # noqa: BLE001
            # The model may have a way around.
            logger.warning("the function %s failed", self.name, exc_info=True)
            return json.dumps({"error": f"{type(error).__name__}: {error}"})
        text = output if isinstance(output, str) else json.dumps(output, default=str)
        return text[:MAX_OUTPUT_CHARS]


class Toolbox:
    """The functions of a call, by name."""

    def __init__(self, functions: Sequence[Callable[..., Any]]) -> None:
        made = [Function(function) for function in functions]
        self._functions = {function.name: function for function in made}
        if len(self._functions) != len(made):
            raise ClientError("tools: each needs a name of its own")

    @property
    def definitions(self) -> list[dict[str, Any]]:
        return [function.definition for function in self._functions.values()]

    def __contains__(self, name: object) -> bool:
        return name in self._functions

    def called_by(self, event: dict[str, Any]) -> list[dict[str, Any]]:
        """The calls of these functions in a response that is done."""
        if event.get("type") != "response.done":
            return []
        output = event["response"].get("output", [])
        calls = (item for item in output if item.get("type") == "function_call")
        return [i for i in calls if i.get("status") == "completed" and i["name"] in self]

    async def run(self, item: dict[str, Any]) -> dict[str, Any]:
        """Answer a `function_call` item with a `function_call_output` item."""
        output = await self._functions[item["name"]].run(item.get("arguments", ""))
        return {"type": "function_call_output", "call_id": item["call_id"], "output": output}
