"""An item of the client in its two other shapes: as the engine gets it, as events show it."""

from __future__ import annotations

from typing import assert_never

from engine.ipc import protocol as p
from signaling import client_items as c
from signaling import server_events as ev
from signaling.errors import ProtocolError


def as_message(create: c.ItemCreate) -> c.InputMessage:
    """The message that is to be added; raises `ProtocolError` for any other item."""
    if not isinstance(create.item, c.InputMessage):
        raise ProtocolError(
            "item.type: this engine calls no functions; allowed: message.",
            code="unsupported_item",
            param="item.type",
        )
    return create.item


def for_engine(session: str, item_id: str, message: c.InputMessage) -> p.ItemIn:
    return p.ItemIn(session, item_id, message.role, tuple(map(_engine_part, message.parts)))


def as_shown(item_id: str, message: c.InputMessage) -> ev.MessageItem:
    """Without the files, which may be megabytes."""
    content = tuple(_shown_part(part, message.role) for part in message.parts)
    return ev.MessageItem(id=item_id, role=message.role, status="completed", content=content)


def _engine_part(part: c.Part) -> p.ItemPart:
    match part:
        case c.InputTextPart():
            return p.TextPart(part.text)
        case c.InputImagePart():
            return p.ImagePart(part.data)
        case c.InputAudioPart():
            return p.AudioPart(part.pcm)
        case c.InputVideoPart():
            return p.VideoPart(part.data)
        case _:
            assert_never(part)


def _shown_part(part: c.Part, role: str) -> ev.Part:
    match part:
        case c.InputImagePart():
            return ev.Part(type="input_image")
        case c.InputAudioPart():
            return ev.Part(type="input_audio", transcript=part.transcript)
        case c.InputVideoPart():
            return ev.Part(type="input_video")
        case c.InputTextPart() if role == "assistant":
            return ev.Part(type="output_text", text=part.text)
        case c.InputTextPart():
            return ev.Part(type="input_text", text=part.text)
        case _:
            assert_never(part)
