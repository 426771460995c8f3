"""The messages between the engine and a recogniser process, over their socket pair.

Both ends are the same version of this code, started together, so there is no handshake.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import msgspec
from msgspec import Struct

Doubt = Literal["", "unclear", "no_speech"]
"""Why there is no text: speech that cannot be made out, or none."""
LENGTH_BYTES = 4
TAKEN_BYTES = 6_400
"""0.2 s."""


class _Message(Struct, frozen=True, tag=True):
    """Base of what crosses the socket pair."""


class Begin(_Message, frozen=True):
    """A new utterance; any other is over."""

    utterance: int
    cepstral_mean: str
    """The speaker's, as the decoder last told it; empty: unknown."""
    commands: bool
    """Listen for the command grammar, too."""
    language: str = ""
    """As `en` or `zh`; empty: not known."""


class FeedAudio(_Message, frozen=True):
    pcm: bytes
    """16 kHz."""


class Finish(_Message, frozen=True):
    utterance: int


class Abandon(_Message, frozen=True):
    utterance: int


class Up(_Message, frozen=True):
    """First word of a recogniser process."""

    pid: int


class Taken(_Message, frozen=True):
    """The bytes of the utterance processed so far; sent every `TAKEN_BYTES`."""

    utterance: int
    num_bytes: int


class Partial(_Message, frozen=True):
    utterance: int
    text: str


class Result(_Message, frozen=True):
    utterance: int
    text: str
    cepstral_mean: str
    doubt: Doubt = ""


class Failed(_Message, frozen=True):
    utterance: int
    reason: str


ToRecogniser = Begin | FeedAudio | Finish | Abandon
FromRecogniser = Up | Taken | Partial | Result | Failed

_encoder = msgspec.msgpack.Encoder()
to_recogniser: msgspec.msgpack.Decoder[ToRecogniser] = msgspec.msgpack.Decoder(ToRecogniser)
from_recogniser: msgspec.msgpack.Decoder[FromRecogniser] = msgspec.msgpack.Decoder(FromRecogniser)


def pack(message: ToRecogniser | FromRecogniser) -> bytes:
    """The message as bytes on the socket, its length first."""
    body = _encoder.encode(message)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body


class Unpacker:
    """Cuts received bytes into message bodies."""

    def __init__(self) -> None:
        self._data = bytearray()

    def push(self, data: bytes) -> Iterator[bytes]:
        self._data += data
        while len(self._data) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(self._data[:LENGTH_BYTES], "little")
            if len(self._data) < end:
                return
            body = bytes(self._data[LENGTH_BYTES:end])
            del self._data[:end]
            yield body
