"""Which tools and choices of tools clients may give, for a session or one response. Any process."""

from collections.abc import Mapping, Sequence
from typing import Any

from signaling.errors import ProtocolError


def unsupported(where: str, why: str) -> ProtocolError:
    """The error for something that is valid elsewhere and not done here."""
    return ProtocolError(f"{where}: {why}.", code="unsupported_value", param=where)


def check_tools(tools: Sequence[Mapping[str, Any]], where: str) -> None:
    """Raise ProtocolError for the first tool that is no function that can be called."""
    for index, tool in enumerate(tools):
        at = f"{where}.{index}"
        if tool.get("type", "function") != "function":
            kind = str(tool.get("type"))[:40]
            why = f'"{kind}" is not called from here; allowed: "function"'
            raise unsupported(f"{at}.type", why)
        name = tool.get("name")
        if not isinstance(name, str) or not 0 < len(name) <= 128:
            told = f"{at}.name: a name of 1 to 128 characters is needed."
            raise ProtocolError(told, param=f"{at}.name")


def check_choice(
    choice: str | Mapping[str, Any], tools: Sequence[Mapping[str, Any]], where: str
) -> None:
    """Raise ProtocolError for a choice that names no function there is."""
    if isinstance(choice, str):
        if choice not in ("auto", "none", "required"):
            told = f'{where}: allowed: "auto", "none", "required", or one function by its name.'
            raise ProtocolError(told, param=where)
        return
    if choice.get("type") != "function":
        raise unsupported(f"{where}.type", 'only functions are called; allowed: "function"')
    if choice.get("name") not in [tool.get("name") for tool in tools]:
        told = f"{where}.name: {str(choice.get('name'))[:80]!r} is none of the tools."
        raise ProtocolError(told, param=f"{where}.name")
