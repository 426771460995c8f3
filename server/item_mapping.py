"""An item of the client as the engine gets it."""

from __future__ import annotations

from typing import assert_never

from engine.ipc import protocol as p
from signaling.session.items import (
    FunctionCall,
    FunctionCallOutput,
    InputAudioPart,
    InputImagePart,
    InputItem,
    InputMessage,
    InputPart,
    InputTextPart,
    InputVideoPart,
)

PICTURE_SLICES = {"low": 1, "high": 9, "original": 9}
"""In how many a picture may be cut by its detail; otherwise as the session says."""


def for_engine(
    session: str, item_id: str, item: InputItem, after: str = ""
) -> p.ItemIn | p.FunctionCallIn | p.FunctionOutputIn:
    """The message that puts it into the engine's conversation; `after` is empty for the end."""
    match item:
        case InputMessage():
            return message_for_engine(session, item_id, item, after)
        case FunctionCall():
            return p.FunctionCallIn(
                session, item_id, item.call_id, item.name, item.arguments, after
            )
        case FunctionCallOutput():
            return p.FunctionOutputIn(session, item_id, item.call_id, item.output, after)
        case _:
            assert_never(item)


def message_for_engine(
    session: str, item_id: str, message: InputMessage, after: str = ""
) -> p.ItemIn:
    parts = tuple(map(_engine_part, message.parts))
    return p.ItemIn(session, item_id, message.role, parts, after)


def _engine_part(part: InputPart) -> p.ItemPart:
    match part:
        case InputTextPart():
            return p.TextPart(part.text)
        case InputImagePart():
            return p.ImagePart(part.data, PICTURE_SLICES.get(part.detail, 0))
        case InputAudioPart():
            return p.AudioPart(part.pcm)
        case InputVideoPart():
            return p.VideoPart(part.data)
        case _:
            assert_never(part)
