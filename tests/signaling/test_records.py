"""Datagrams are taken apart into DTLS records, or refused."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from signaling import records


def record(kind: int, body: bytes, epoch: int = 0, version: int = 0xFEFD) -> bytes:
    return struct.pack("!BHH6sH", kind, version, epoch, bytes(6), len(body)) + body


def test_records_are_told_apart_with_and_without_encryption() -> None:
    first, second = record(22, b"hello"), record(23, b"x" * 40, epoch=1)
    found = records.split(first + second)
    assert found is not None
    assert [(r.data, r.content_type, r.is_encrypted) for r in found] == [
        (first, 22, False),
        (second, 23, True),
    ]


def test_unified_headers_are_encrypted() -> None:
    sized = bytes([0x2E, 0, 1]) + struct.pack("!H", 20) + bytes(20)
    unsized = bytes([0x22, 1]) + bytes(17)
    found = records.split(sized + unsized)
    assert found is not None
    assert [(len(r.data), r.is_encrypted) for r in found] == [(25, True), (19, True)]


@pytest.mark.parametrize(
    "datagram",
    [
        b"",
        record(22, b""),
        record(22, b"hello")[:-1],
        record(22, b"hello") + b"\x16",
        record(22, b"hello", version=0x0303),
        record(19, b"hello"),
        record(22, b"x") * (records.MAX_RECORDS + 1),
        b"\x3f" + bytes(60),
        b"\x2e\0\1\xff\xff" + bytes(20),
        b"\x22\1" + bytes(5),
    ],
    ids=repr,
)
def test_anything_else_is_refused(datagram: bytes) -> None:
    assert records.split(datagram) is None


@given(st.binary(max_size=80))
def test_records_add_up_to_their_datagram(datagram: bytes) -> None:
    found = records.split(datagram)
    assert found is None or b"".join(r.data for r in found) == datagram
