"""Which wishes for one response can be granted; the others are refused by name. Media worker."""

from signaling.errors import ProtocolError
from signaling.realtime.client_events import ResponseOptions
from signaling.session.core import Abilities, ResponseWish
from signaling.settings import SessionSettings


def wish_of(
    options: ResponseOptions, settings: SessionSettings, abilities: Abilities | None
) -> ResponseWish:
    """What is asked of the session; raises `ProtocolError` for the first member without effect."""
    _check(options, settings)
    return ResponseWish(
        instructions=options.instructions,
        modalities=options.output_modalities,
        metadata=options.metadata,
    )


def _check(options: ResponseOptions, settings: SessionSettings) -> None:
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
