"""The tools of a chat request. Front."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from signaling.errors import ProtocolError
from signaling.fields import convert

MAX_TOOLS = 128
MAX_DESCRIPTION_CHARS = 16 * 1024
MAX_SCHEMA_CHARS = 128 * 1024


class WishedFunction(msgspec.Struct, frozen=True):
    """A function that may be called."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: Annotated[str, Meta(max_length=MAX_DESCRIPTION_CHARS)] | None = None
    parameters: dict[str, Any] | None = None
    """A JSON Schema."""
    strict: bool | None = None

    def schema(self) -> str:
        """The JSON Schema of its arguments, as text."""
        return msgspec.json.encode(self.parameters or {}).decode()


class _ListedTool(msgspec.Struct, frozen=True):
    type: str
    function: WishedFunction | None = None


class _ChosenFunction(msgspec.Struct, frozen=True):
    name: Annotated[str, Meta(min_length=1, max_length=128)]


class _ToolChoice(msgspec.Struct, frozen=True):
    type: str
    function: _ChosenFunction | None = None


class ToolWish(msgspec.Struct, frozen=True, kw_only=True):
    """Which functions may be called, and whether they must be."""

    functions: tuple[WishedFunction, ...] = ()
    choice: Literal["auto", "none", "required"] = "auto"
    name: str = ""
    """With `required`: the one that must be called; empty: any."""
    one_at_most: bool = False

    @property
    def has_strict(self) -> bool:
        """A schema is asked to be held to the letter, which nobody here sees to."""
        return any(function.strict for function in self.functions)

    @property
    def may_call(self) -> bool:
        return bool(self.functions) and self.choice != "none"


def read_tools(
    tools: list[dict[str, Any]] | None,
    choice: str | dict[str, Any] | None,
    is_parallel: bool | None,
) -> ToolWish:
    """Check the members `tools`, `tool_choice`, `parallel_tool_calls`; raises ProtocolError."""
    if len(tools or ()) > MAX_TOOLS:
        raise ProtocolError(f"tools: at most {MAX_TOOLS} are taken.", param="tools")
    functions = tuple(_function(tool, f"tools.{index}") for index, tool in enumerate(tools or ()))
    names = [function.name for function in functions]
    if len(set(names)) < len(names):
        raise ProtocolError("tools: two functions have the same name.", param="tools")
    chosen, name = _choice(choice)
    if name and name not in names:
        raise ProtocolError(
            f"tool_choice.function.name: there is no function {name[:64]!r} among the tools.",
            param="tool_choice.function.name",
        )
    if chosen == "required" and not functions:
        raise ProtocolError("tool_choice: there are no tools to choose from.", param="tool_choice")
    return ToolWish(functions=functions, choice=chosen, name=name, one_at_most=is_parallel is False)


def _function(tool: dict[str, Any], where: str) -> WishedFunction:
    listed = convert(tool, _ListedTool, prefix=where)
    if listed.type != "function":
        raise ProtocolError(
            f'{where}.type: only "function" is served, got "{listed.type[:64]}".',
            code="unsupported_value",
            param=f"{where}.type",
        )
    if listed.function is None:
        raise ProtocolError(
            f"{where}.function: this field is required.",
            code="missing_required_parameter",
            param=f"{where}.function",
        )
    if len(listed.function.schema()) > MAX_SCHEMA_CHARS:
        raise ProtocolError(
            f"{where}.function.parameters: at most {MAX_SCHEMA_CHARS} characters are taken.",
            param=f"{where}.function.parameters",
        )
    return listed.function


def _choice(
    choice: str | dict[str, Any] | None,
) -> tuple[Literal["auto", "none", "required"], str]:
    match choice:
        case None:
            return "auto", ""
        case "auto" | "none" | "required":
            return choice, ""
        case dict():
            chosen = convert(choice, _ToolChoice, prefix="tool_choice")
            if chosen.type == "function" and chosen.function is not None:
                return "required", chosen.function.name
    raise ProtocolError(
        'tool_choice: "auto", "none", "required", or an object that names a function is expected.',
        code="unsupported_value",
        param="tool_choice",
    )
