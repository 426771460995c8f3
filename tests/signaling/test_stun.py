"""STUN is judged before aioice's parser: what passes never makes that one raise."""

import random
import struct

import aioice.stun
import pytest
from aioice.stun import Class, Method
from hypothesis import given
from hypothesis import strategies as st

from signaling import stun

KEY = b"the password of this side"


def request(**attributes: object) -> aioice.stun.Message:
    message = aioice.stun.Message(Method.BINDING, Class.REQUEST)
    message.attributes.update({"USERNAME": "ours:theirs", "PRIORITY": 7, "ICE-CONTROLLED": 9})
    message.attributes.update(attributes)
    return message


def signed(key: bytes = KEY) -> bytes:
    message = request()
    message.add_message_integrity(key)
    return bytes(message)


def header(kind: int, body: bytes, cookie: int = stun.COOKIE) -> bytes:
    return struct.pack("!HHI12s", kind, len(body), cookie, bytes(12)) + body


def attribute(kind: int, value: bytes, size: int | None = None) -> bytes:
    size = len(value) if size is None else size
    return struct.pack("!HH", kind, size) + value + bytes(-len(value) % 4)


def test_a_check_of_aioice_is_read_and_its_signature_verified() -> None:
    data = signed()
    message = stun.read(data)
    assert message is not None
    assert message.kind == stun.BINDING_REQUEST
    assert (message.username, message.has_priority) == (b"ours:theirs", True)
    assert stun.is_signed(data, message, KEY)
    assert not stun.is_signed(data, message, b"another")
    forged = signed(b"another")
    message = stun.read(forged)
    assert message is not None and not stun.is_signed(forged, message, KEY)


def test_a_changed_byte_breaks_the_signature() -> None:
    data = bytearray(signed())
    at = data.index(b"ours")
    data[at] ^= 1
    # Without the checksum, which would be wrong as well.
    data = data[:-8]
    data[2:4] = struct.pack("!H", len(data) - 20)
    message = stun.read(bytes(data))
    assert message is not None and not stun.is_signed(bytes(data), message, KEY)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0\1",
        header(1, b"")[:19],
        header(1, b"", cookie=7),
        header(1, b"\0\0\0\0") + b"more",
        header(0x8001, b""),
        header(0x0005, b""),
        header(1, attribute(0x0024, b"")),
        header(1, attribute(0x0024, b"1234", size=400)),
        header(1, attribute(0x802A, b"1234")),
        header(1, attribute(0x0020, b"\0\1\0\0")),
        header(1, attribute(0x0001, b"")),
        header(1, attribute(0x0006, b"\xff\xfe\xfd\xfc")),
        header(1, attribute(0x0009, b"\0\0")),
        header(1, attribute(0x0008, b"short")),
        header(1, attribute(0x8028, b"1234")),
    ],
    ids=repr,
)
def test_malformed_messages_are_refused(data: bytes) -> None:
    assert stun.read(data) is None


SEEDS = [signed(), bytes(request()), bytes(request(**{"XOR-MAPPED-ADDRESS": ("::1", 9)}))]
KINDS = st.sampled_from([1, 0x101, 0x111, 0x11, 3, 0x103])
ATTRIBUTES = st.sampled_from([*aioice.stun.ATTRIBUTES_BY_TYPE, 0x7777])
BODIES = st.lists(
    st.builds(attribute, ATTRIBUTES, st.binary(max_size=24), st.none() | st.integers(0, 40))
).map(b"".join)


@given(st.builds(header, KINDS, BODIES) | st.binary(max_size=64))
def test_what_is_read_aioice_parses(data: bytes) -> None:
    if stun.read(data) is not None:
        aioice.stun.parse_message(data)


@given(st.sampled_from(SEEDS), st.randoms(use_true_random=False))
def test_what_is_read_of_mutated_messages_aioice_parses(seed: bytes, chance: random.Random) -> None:
    data = bytearray(seed)
    for _ in range(chance.randrange(1, 4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    if stun.read(bytes(data)) is not None:
        aioice.stun.parse_message(bytes(data))
