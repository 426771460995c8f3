"""Changes of bytes and texts that know no grammar, and values at the edges of types."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

EDGE_INTEGERS = (
    *(0, 1, -1, 2, 7, 8, 127, 128, 255, 256, 1023, 32_767, 32_768, 65_535, 65_536),
    *(2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**31)),
)
EDGE_TEXTS = (
    *("", " ", "\t", "0", "-1", "null", "NaN", "a" * 300, "\N{PILE OF POO}" * 20, "\u202e", "\x7f"),
    *("../../etc/passwd", "%00", "%n%s", "{}", "[]", "'\"<>&", "\N{KELVIN SIGN}", "\ufeff", "٣"),
)


def bytes_of(rng: Random, count: int) -> bytes:
    return rng.randbytes(count)


def _flip(rng: Random, data: bytearray, other: bytes) -> None:
    for _ in range(rng.choice((1, 1, 2, 8))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _edge_byte(rng: Random, data: bytearray, other: bytes) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 0x20, 0x7F, 0x80, 0xFE, 0xFF))


def _edge_integer(rng: Random, data: bytearray, other: bytes) -> None:
    size = rng.choice((2, 4, 8))
    value = rng.choice(EDGE_INTEGERS) % (1 << (8 * size))
    at = rng.randrange(len(data))
    data[at : at + size] = value.to_bytes(size, rng.choice(("big", "little")))


def _cut(rng: Random, data: bytearray, other: bytes) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice((1, 2, 4, 16, len(data)))]


def _repeat(rng: Random, data: bytearray, other: bytes) -> None:
    at = rng.randrange(len(data))
    piece = data[at : at + rng.choice((1, 4, 16, 64))]
    data[at:at] = piece * rng.choice((1, 2, 16))


def _insert(rng: Random, data: bytearray, other: bytes) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 32)))


def _splice(rng: Random, data: bytearray, other: bytes) -> None:
    if other:
        at, start = rng.randrange(len(data)), rng.randrange(len(other))
        data[at:] = other[start : start + rng.choice((8, 64, len(other)))]


_CHANGES: tuple[Callable[[Random, bytearray, bytes], None], ...] = (
    *(_flip, _edge_byte, _edge_integer, _cut, _repeat, _insert, _splice),
)


def mutate_bytes(rng: Random, data: bytes, other: bytes = b"", *, limit: int = 1 << 20) -> bytes:
    """One to four changes; `other` is what may be spliced in."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        if not changed:
            changed += rng.randbytes(rng.choice((1, 4, 20)))
        rng.choice(_CHANGES)(rng, changed, other)
    return bytes(changed[:limit])


def edge_text(rng: Random) -> str:
    """A text or a number written out, as no sensible client sends it."""
    return rng.choice((rng.choice(EDGE_TEXTS), str(rng.choice(EDGE_INTEGERS))))
