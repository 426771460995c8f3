"""multipart/form-data (RFC 7578) of a body that is there as a whole. Front.

Strict where a lenient reading could differ from the sender's, and bounded in parts and headers.
"""

import re

from signaling.errors import ProtocolError

MAX_PARTS = 16
MAX_HEADER_BYTES = 1024
MAX_BOUNDARY_CHARS = 70
"""RFC 2046, section 5.1.1."""

_BLANK_LINE = re.compile(rb"\r?\n\r?\n")
_PARAMETER = re.compile(r';\s*([\w!#$%&*+.^`|~-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')
_IDENTITY = ("", "7bit", "8bit", "binary")


def parse_form(body: bytes, content_type: str) -> list[tuple[str, bytes]]:
    """Names and contents of the parts, in order. Raises ProtocolError 400, 415."""
    boundary = _parameter(content_type[:MAX_HEADER_BYTES], "boundary")
    if not boundary or len(boundary) > MAX_BOUNDARY_CHARS or not boundary.isascii():
        raise _malformed("no usable boundary in Content-Type")
    delimiter = re.compile(
        rb"(?:\A|\r?\n)--" + re.escape(boundary.encode()) + rb"(--)?[ \t]*(?=\r?\n|\Z)"
    )
    parts: list[tuple[str, bytes]] = []
    start: int | None = None
    for found in delimiter.finditer(body):
        if start is not None:
            if len(parts) == MAX_PARTS:
                raise _malformed(f"more than {MAX_PARTS} parts")
            parts.append(_part(body[start : found.start()]))
        if found[1] is not None:
            return parts
        start = found.end()
    raise _malformed("it does not end with its boundary")


def _part(text: bytes) -> tuple[str, bytes]:
    """A part from behind its delimiter line on: the line's end, headers, a blank line, content."""
    blank = _BLANK_LINE.search(text, 0, MAX_HEADER_BYTES)
    if blank is None:
        raise _malformed(f"a part without a blank line within {MAX_HEADER_BYTES} bytes")
    headers = _headers(text[: blank.start()].strip(b"\r\n"))
    if headers.get("content-transfer-encoding", "").lower() not in _IDENTITY or (
        headers.get("content-encoding", "identity").lower() != "identity"
    ):
        raise ProtocolError(
            "Encoded parts are not supported.", code="unsupported_media_type", status=415
        )
    kind, _, parameters = headers.get("content-disposition", "").partition(";")
    if kind.strip().lower() != "form-data":
        raise _malformed("a part without Content-Disposition: form-data")
    return _parameter(";" + parameters, "name") or "", text[blank.end() :]


def _headers(block: bytes) -> dict[str, str]:
    headers: dict[str, str] = {}
    try:
        lines = block.decode().replace("\r\n", "\n").split("\n")
    except UnicodeDecodeError:
        raise _malformed("part headers that are not UTF-8") from None
    for line in lines:
        name, colon, value = line.partition(":")
        name = name.lower()
        if not colon or not name or name != name.strip():
            raise _malformed("a part header without a name")
        if name in headers:
            raise _malformed("a part header that is there twice")
        headers[name] = value.strip()
    return headers


def _parameter(header: str, name: str) -> str | None:
    for found in _PARAMETER.finditer(header):
        if found[1].lower() == name:
            quoted: str | None = found[2]
            return found[3] if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
    return None


def _malformed(what: str) -> ProtocolError:
    return ProtocolError(f"The multipart body is malformed: {what}.", code="invalid_multipart")
