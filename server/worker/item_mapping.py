"""An item of the client in its two other shapes: as the engine gets it, as events show it."""

from __future__ import annotations

from typing import assert_never

from engine.ipc import protocol as p
from signaling import client_items as c
from signaling import server_events as ev
from signaling.errors import ProtocolError


def as_message(create: c.ItemCreate) -> c.Message:
    """The message that is to be added; raises `ProtocolError` for any other item."""
    if not isinstance(create.item, c.Message):
        raise ProtocolError(
            "item.type: this engine calls no functions; allowed: message.",
            code="unsupported_item",
            param="item.type",
        )
    return create.item


def for_engine(session: str, item_id: str, message: c.Message) -> p.ItemIn:
    return p.ItemIn(session, item_id, message.role, tuple(map(_engine_part, message.parts)))


def as_shown(item_id: str, message: c.Message) -> ev.MessageItem:
    """Without the files, which may be megabytes."""
    content = tuple(_shown_part(part, message.role) for part in message.parts)
    return ev.MessageItem(id=item_id, role=message.role, status="completed", content=content)


def _engine_part(part: c.Part) -> p.ItemPart:
    match part:
        case c.TextPart():
            return p.TextPart(part.text)
        case c.ImagePart():
            return p.ImagePart(part.data)
        case c.AudioPart():
            return p.AudioPart(part.pcm)
        case c.VideoPart():
            return p.VideoPart(part.data)
        case _:
            assert_never(part)


def _shown_part(part: c.Part, role: str) -> ev.Part:
    match part:
        case c.ImagePart():
            return ev.Part(type="input_image")
        case c.AudioPart():
            return ev.Part(type="input_audio", transcript=part.transcript)
        case c.VideoPart():
            return ev.Part(type="input_video")
        case c.TextPart() if role == "assistant":
            return ev.Part(type="output_text", text=part.text)
        case c.TextPart():
            return ev.Part(type="input_text", text=part.text)
        case _:
            assert_never(part)
