"""From a msgspec validation error to one that names the client's field. Any process."""

import re
from typing import Any, TypeVar

import msgspec

from signaling.errors import ProtocolError

T = TypeVar("T")

_PATH = re.compile(r" - at `(?:key in )?\$(.*)`$")

# msgspec says that a value is none of the allowed ones, but not which these are.
_ALLOWED = {
    "turn_detection.type": '"server_vad", "semantic_vad", or null for turn-based sessions',
    "eagerness": '"low", "medium", "high", "auto"',
    "output_modalities": '"text", "audio"',
    "format.type": '"audio/pcm", "audio/pcmu", "audio/pcma"',
    "noise_reduction.type": '"near_field", "far_field"',
    "session.type": '"realtime", "transcription"',
    "max_output_tokens": 'an integer from 1 to 4096, or "inf"',
    "response_length": '"short", "balanced", "long", or null',
    "truncation": '"auto", "disabled", or an object of the type "retention_ratio"',
    "truncation.type": '"retention_ratio"',
    "response.conversation": '"auto", "none"',
    "tracing": '"auto", null, or an object',
    "detail": '"low", "auto", "high"',
    "item.type": '"message", "function_call", "function_call_output"',
    "item.role": '"user", "assistant", "system"',
}


def convert(value: Any, type: type[T], *, prefix: str = "", event_id: str | None = None) -> T:
    """Convert decoded JSON to a struct; numbers are not taken for strings nor the reverse.

    Raises ProtocolError whose `param` is the dotted path of the first invalid field, after
    `prefix`, and whose message says what is wrong, what was given and what is allowed.
    """
    try:
        return msgspec.convert(value, type)
    except msgspec.ValidationError as error:
        raise _named(str(error), value, prefix, event_id) from None
    except RecursionError:
        raise ProtocolError("The JSON is nested too deeply.", event_id=event_id) from None


def _named(text: str, value: Any, prefix: str, event_id: str | None) -> ProtocolError:
    match = _PATH.search(text)
    path = match[1] if match else ""
    problem = text[: match.start()] if match else text
    steps = re.findall(r"[^.\[\]]+", path)
    code = "invalid_value"
    if missing := re.search(r"missing required field `(.+)`", problem):
        code = "missing_required_parameter"
        steps.append(missing[1])
        problem = "this field is required"
    elif unknown := re.search(r"contains unknown field `(.+)`", problem):
        code = "unknown_parameter"
        steps.append(unknown[1])
        problem = "this field is not known here"
    param = ".".join([prefix, *steps] if prefix else steps) or None
    message = problem[:1].lower() + problem[1:] if param else problem
    if code == "invalid_value" and (given := _given(value, steps)) is not None:
        says_it = "got `" in message or given.strip('"') in message
        message += "" if says_it else f", got {given}"
    allowed = next((text for end, text in _ALLOWED.items() if (param or "").endswith(end)), None)
    if allowed is None and param and re.search(r"output_modalities\.", param):
        allowed = _ALLOWED["output_modalities"]
    if allowed is not None:
        message += f"; allowed: {allowed}"
    where = f"{param}: " if param else ""
    return ProtocolError(f"{where}{message}.", code=code, param=param, event_id=event_id)


def _given(value: Any, steps: list[str]) -> str | None:
    """Return the offending scalar as JSON, or None where a path step is an index or no scalar."""
    for step in steps:
        if not isinstance(value, dict) or step not in value:
            return None
        value = value[step]
    if isinstance(value, bool | int | float) or (isinstance(value, str) and len(value) <= 64):
        return msgspec.json.encode(value).decode()
    return None
