"""Text in pieces: what was cut between two of them is whole again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine.builtin.deltas import DeltaJoiner

SURROGATES = st.text(st.sampled_from("a\\u\ud83d\ude00\udc00\ud800é😀"))


@given(SURROGATES, st.lists(st.integers(0, 30)))
def test_pieces_of_a_text_make_what_the_whole_makes(text: str, cuts: list[int]) -> None:
    joiner, whole = DeltaJoiner(), DeltaJoiner()
    marks = [0, *sorted(cuts), len(text)]
    pieces = [joiner.push(text[a:b]) for a, b in zip(marks, marks[1:], strict=False)]
    for piece in pieces:
        piece.encode()
    assert "".join(pieces) + joiner.flush() == whole.push(text) + whole.flush()


def test_half_a_character_waits_for_the_other() -> None:
    joiner = DeltaJoiner()
    assert joiner.push("a\ud83d") == "a"
    assert joiner.push("\ude00b") == "😀b"
    assert joiner.push("\ud83d") == ""
    assert joiner.flush() == "\ufffd"
