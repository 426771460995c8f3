"""What somebody types in a Live session that has a text model: a message among its items."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.session.items import InputMessage, InputTextPart, Role

MAX_MESSAGE_CHARS = 32_768
MAX_MESSAGE_PARTS = 64


class TypedText(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["input_text"]
    text: str


TypedTexts = Annotated[tuple[TypedText, ...], Meta(min_length=1, max_length=MAX_MESSAGE_PARTS)]


class TypedMessage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | TypedTexts
    type: Literal["message"] | None = None


def read_message(item: dict[str, Any]) -> InputMessage:
    """Read the item of a `response.item.create` that is a message; raises `ProtocolError`."""
    message = convert(item, TypedMessage, prefix="item")
    content = message.content
    texts = [content] if isinstance(content, str) else [part.text for part in content]
    if not any(text.strip() for text in texts):
        raise ProtocolError("item.content: there are no words in it.", param="item.content")
    if sum(map(len, texts)) > MAX_MESSAGE_CHARS:
        raise ProtocolError(
            f"item.content: at most {MAX_MESSAGE_CHARS} characters are taken.",
            code="content_too_long",
            param="item.content",
        )
    role: Role = "system" if message.role == "developer" else message.role
    return InputMessage(role=role, parts=tuple(map(InputTextPart, texts)))
