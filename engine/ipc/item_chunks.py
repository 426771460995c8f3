"""Items larger than a message of a link: cut into pieces, joined again.

Pieces let the sound of other sessions pass in between: a file of 30 MB in one message would keep a
media worker's loop busy for longer than a packet lasts.
"""

from __future__ import annotations

import msgspec

from engine.ipc.protocol import MAX_ITEM_BYTES, MAX_PIECE_BYTES, ItemIn, ItemPiece
from engine.ipc.transport import UNREADABLE, encode

_decoder = msgspec.msgpack.Decoder(ItemIn)


def cut(item: ItemIn) -> list[ItemPiece]:
    """Return the pieces of an item, at least one; raise `ValueError` if it is too large."""
    whole = memoryview(encode(item))
    if len(whole) > MAX_ITEM_BYTES:
        raise ValueError(f"an item of {len(whole)} bytes; at most {MAX_ITEM_BYTES} are taken")
    return [
        ItemPiece(
            item.session,
            bytes(whole[start : start + MAX_PIECE_BYTES]),
            first=start == 0,
            last=start + MAX_PIECE_BYTES >= len(whole),
        )
        for start in range(0, len(whole), MAX_PIECE_BYTES)
    ]


class Joiner:
    """Owns the pieces of one session's item under way, `MAX_ITEM_BYTES` at most."""

    def __init__(self) -> None:
        self._whole: bytearray | None = None

    def push(self, piece: ItemPiece) -> ItemIn | None:
        """Return the item with its last piece, else None; `ValueError` for malformed pieces."""
        if piece.first:
            self._whole = bytearray()
        if self._whole is None:
            raise ValueError("a piece of an item that never began")
        self._whole += piece.data
        if len(self._whole) > MAX_ITEM_BYTES:
            self._whole = None
            raise ValueError(f"an item of more than {MAX_ITEM_BYTES} bytes")
        if not piece.last:
            return None
        whole, self._whole = self._whole, None
        try:
            item = _decoder.decode(whole)
        except UNREADABLE as error:
            raise ValueError(f"pieces that make no item: {error}") from None
        if item.session != piece.session:
            raise ValueError("an item of another session")
        return item
