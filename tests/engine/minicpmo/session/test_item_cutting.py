"""Where a long message is cut, so that no word of it is lost."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.minicpmo.session.item_cutting import cut_item
from engine.minicpmo.session.item_decoding import DecodedItem, DecodedPart, DecodedPicture

PICTURE = DecodedPicture(torch.zeros(1, 1, 1, dtype=torch.uint8))
LARGE = DecodedPicture(torch.zeros(3, 3, 1, dtype=torch.uint8))
FITTING = 8


def size(item: DecodedItem) -> int:
    """A position for each character and byte of a picture."""
    return item.num_bytes + sum(len(part) for part in item.parts if isinstance(part, str))


def cut(*parts: DecodedPart) -> list[tuple[DecodedPart, ...]]:
    """All pieces of a message."""
    rest, pieces = DecodedItem("s", "i", "user", parts), []
    while size(rest) > FITTING:
        found = cut_item(rest, lambda item: size(item) <= FITTING)
        if found is None:
            break
        pieces.append(found[0].parts)
        assert found[0].item == found[1].item == "i"
        rest = found[1]
    return [*pieces, rest.parts]


@pytest.mark.parametrize(
    ("parts", "pieces"),
    [
        (("one. two three",), [("one. ",), ("two ",), ("three",)]),
        (("ab cd\nef gh ij",), [("ab cd\n",), ("ef gh ij",)]),
        (("abcdefghijkl",), [("abcdef",), ("ghijkl",)]),
        ((PICTURE, "one two three"), [(PICTURE,), ("one ",), ("two ",), ("three",)]),
        ((PICTURE, PICTURE, "12345", "6789"), [(PICTURE, PICTURE), ("12345",), ("6789",)]),
        ((LARGE, "hi"), [(LARGE,), ("hi",)]),
        ((LARGE,), [(LARGE,)]),
    ],
)
def test_it_is_cut_between_parts_lines_sentences_and_words(
    parts: tuple[DecodedPart, ...], pieces: list[tuple[DecodedPart, ...]]
) -> None:
    assert cut(*parts) == pieces


@given(st.text(max_size=200))
def test_no_character_is_lost_and_each_piece_fits(text: str) -> None:
    pieces = cut(text)
    assert "".join(str(part) for piece in pieces for part in piece) == text
    assert all(len("".join(map(str, piece))) <= FITTING for piece in pieces)
