"""Which wishes for one response can be granted; the others are refused by name. Media worker."""

from collections.abc import Iterator
from typing import Any

from signaling.errors import ProtocolError
from signaling.realtime.client_events import ResponseOptions
from signaling.realtime.client_items import parse_input_item
from signaling.session.core import Abilities, ResponseWish
from signaling.session.items import InputItem
from signaling.settings import SessionSettings


def wish_of(
    options: ResponseOptions, settings: SessionSettings, abilities: Abilities | None
) -> ResponseWish:
    """Return what is asked of a response; raises `ProtocolError` for the first unusable field."""
    can = abilities or Abilities()
    _check(options, settings, can)
    limit = options.max_output_tokens
    return ResponseWish(
        instructions=options.instructions,
        modalities=options.output_modalities,
        metadata=options.metadata,
        max_output_tokens=limit if isinstance(limit, int) else None,
        tools=None if options.tools is None else tuple(options.tools),
        tool_choice=options.tool_choice,
        is_out_of_band=options.conversation == "none",
        input=None if options.input is None else tuple(_inputs(options.input)),
    )


def _inputs(given: list[dict[str, Any]]) -> Iterator[InputItem | str]:
    """Items, or the ids of items that are referred to."""
    for index, item in enumerate(given):
        if item.get("type") == "item_reference":
            reference = item.get("id")
            if not isinstance(reference, str):
                where = f"response.input.{index}.id"
                raise ProtocolError(f"{where}: the id of an item is needed.", param=where)
            yield reference
        else:
            yield parse_input_item(item, f"response.input.{index}")


def _check(options: ResponseOptions, settings: SessionSettings, can: Abilities) -> None:
    output = options.audio.output if options.audio is not None else None
    voice = output.voice if output is not None else None
    form = output.format if output is not None else None
    is_beside = options.conversation == "none"
    modalities = options.output_modalities or settings.output_modalities
    limit = options.max_output_tokens
    refusals = {
        "conversation": is_beside
        and not can.answers_out_of_band
        and "this engine makes no responses outside of the conversation",
        "output_modalities": is_beside
        and "audio" in modalities
        and 'outside of the conversation responses are written; allowed: ["text"]',
        "input": options.input is not None
        and not is_beside
        and 'a response is made from the conversation, unless conversation is "none"',
        "max_output_tokens": limit not in (None, settings.max_output_tokens)
        and "max_output_tokens" not in can.honours
        and "this engine counts no tokens",
        "audio.output.voice": voice not in (None, settings.audio.output.voice)
        and "the voice is set for the whole session, with session.update",
        "audio.output.format": form not in (None, settings.audio.output.format)
        and "the format is set for the whole session, with session.update",
        "tools": bool(options.tools) and not can.tool_modes and "no functions are called here",
        "tool_choice": options.tool_choice not in (None, "auto", "none")
        and not can.tool_modes
        and "no functions are called here",
        "parallel_tool_calls": options.parallel_tool_calls is False
        and "how many functions are called at once cannot be set here",
        "prompt": options.prompt is not None and "there are no stored prompts here",
        "reasoning": options.reasoning is not None and "this cannot be set here",
    }
    for member, why in refusals.items():
        if why:
            param = f"response.{member}"
            raise ProtocolError(f"{param}: {why}.", code="unsupported_parameter", param=param)
