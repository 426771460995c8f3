"""HTTP bodies read within bounds. Front."""

from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

import msgspec
from aiohttp import BodyPartReader, web

from signaling.errors import ProtocolError
from signaling.sdp import MAX_OFFER_BYTES

MAX_SESSION_BYTES = 512 * 1024
MAX_PARTS = 16


async def read_offer(request: web.Request) -> tuple[str, dict[str, Any]]:
    """Return the offer and the partial session of a POST. Raises ProtocolError 400, 413, 415."""
    if request.content_type == "application/sdp":
        body = await read_bounded(request.content.iter_any(), MAX_OFFER_BYTES)
        return _text(body), {}
    if request.content_type == "multipart/form-data":
        return await _read_form(request)
    raise ProtocolError(
        f"Content-Type {request.content_type!r} is not taken: send application/sdp, or "
        "multipart/form-data with sdp and session.",
        code="unsupported_media_type",
        status=415,
    )


async def _read_form(request: web.Request) -> tuple[str, dict[str, Any]]:
    fields: dict[str, bytes] = {}
    limits = {"sdp": MAX_OFFER_BYTES, "session": MAX_SESSION_BYTES}
    try:
        reader = await request.multipart()
        for _ in range(MAX_PARTS):
            part = await reader.next()
            if part is None:
                break
            if not isinstance(part, BodyPartReader):
                raise ValueError("nested multipart")
            name = part.name or ""
            if name in limits and name not in fields:
                fields[name] = await read_bounded(_chunks(part), limits[name], name)
            else:
                await read_bounded(_chunks(part), MAX_SESSION_BYTES, name)
    except (ValueError, AssertionError) as error:
        raise ProtocolError(
            f"The multipart body is malformed ({error}).", code="invalid_multipart"
        ) from None
    if "sdp" not in fields:
        raise ProtocolError(
            "sdp: this field is required.", code="missing_required_parameter", param="sdp"
        )
    update = decode_json(fields.get("session") or b"{}", "session")
    if not isinstance(update, dict):
        raise ProtocolError("session: a JSON object is expected.", param="session")
    return _text(fields["sdp"]), update


async def _chunks(part: BodyPartReader) -> AsyncIterator[bytes]:
    # Iterating the part itself would read all of it at once.
    while not part.at_eof():
        yield await part.read_chunk()


async def read_bounded(
    chunks: AsyncIterable[bytes], limit: int, param: str | None = "sdp"
) -> bytes:
    """Join the chunks of a body or a part; past `limit` bytes nothing more is read (413)."""
    body = bytearray()
    async for chunk in chunks:
        body += chunk
        if len(body) > limit:
            raise ProtocolError(
                f"At most {limit} bytes are allowed.", code="too_large", param=param, status=413
            )
    return bytes(body)


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise ProtocolError("The offer is not UTF-8 text.", param="sdp") from None


def decode_json(body: bytes, param: str) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise ProtocolError(
            f"{param}: this is not JSON: {error}.", code="invalid_json", param=param
        ) from None
