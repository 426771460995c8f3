"""Which wishes for one response can be granted; the others are refused by name."""

from __future__ import annotations

from signaling.client_events import ResponseOptions
from signaling.errors import ProtocolError
from signaling.settings import SessionSettings


def check(options: ResponseOptions, settings: SessionSettings) -> None:
    """Raise `ProtocolError` for the first member that would have no effect."""
    output = options.audio.output if options.audio is not None else None
    voice = output.voice if output is not None else None
    limit = options.max_output_tokens
    refusals = {
        "conversation": options.conversation == "none"
        and "responses outside of the conversation are not made here",
        "input": options.input is not None
        and "a response is made from the conversation; create items in it",
        "max_output_tokens": limit not in (None, settings.max_output_tokens)
        and "this is set for the whole session, with session.update",
        "audio.output.voice": voice not in (None, settings.audio.output.voice)
        and "the voice is set for the whole session, with session.update",
        "tools": bool(options.tools) and "no functions are called here",
        "tool_choice": options.tool_choice not in (None, "auto", "none")
        and "no functions are called here",
        "prompt": options.prompt is not None and "there are no stored prompts here",
        "reasoning": options.reasoning is not None and "this cannot be set here",
    }
    for member, why in refusals.items():
        if why:
            param = f"response.{member}"
            raise ProtocolError(f"{param}: {why}.", code="unsupported_parameter", param=param)
