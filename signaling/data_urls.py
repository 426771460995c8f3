"""Files in JSON: base64 and data URLs, decoded. Any process. Megabytes: not for an event loop."""

import base64
import binascii
import re

from signaling.errors import ProtocolError

UNTYPED = "application/octet-stream"
"""What browsers call files that they do not know, such as HEIC."""

# Recorders name their codecs in the type: video/webm;codecs=vp8.
_DATA_URL = re.compile(
    r"data:([a-z]+/[a-z0-9.+-]{1,64})(?:;[a-z]+=[\w\", .-]{1,64})?;base64,", re.IGNORECASE
)


def decode_data_url(url: str, kind: str, where: str) -> tuple[str, bytes]:
    """The media type and the bytes; raises ProtocolError whose `param` is `where`.

    Types are often wrong: what a file is, its bytes say.
    """
    match = _DATA_URL.match(url)
    media_type = match[1].lower() if match is not None else ""
    if match is None or not media_type.startswith((f"{kind}/", UNTYPED)):
        raise ProtocolError(
            f"{where}: a data URL data:{kind}/<type>;base64,... is expected; nothing is fetched "
            "from the network.",
            param=where,
        )
    return media_type, decode_base64(url[match.end() :], where)


def decode_base64(text: str, where: str) -> bytes:
    """The bytes, at least one; raises ProtocolError whose `param` is `where`."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ProtocolError(f"{where}: the base64 is invalid ({error}).", param=where) from None
    if not data:
        raise ProtocolError(f"{where}: the file is empty.", param=where)
    return data
