"""Text from outside: halves of characters, bytes that are none, and what must stay as it is."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from texts import DeltaJoiner, decode_json, well_formed

ANY_TEXT = st.text(st.characters())
SURROGATES = st.text(st.sampled_from("a\\u\ud83d\ude00\udc00\ud800é😀"))


@pytest.mark.parametrize(
    "text, right",
    [
        ("hello \ud83d", "hello \ufffd"),
        ("\ude00 hello", "\ufffd hello"),
        ("\ud83d\ude00", "😀"),
        ("\ud83dx\udc00\udc00", "\ufffdx\ufffd\ufffd"),
        ("one\0two", "one\0two"),
        ("👩\u200d👩 مرحبا", "👩\u200d👩 مرحبا"),
    ],
)
def test_half_a_character_is_replaced_and_the_rest_stays(text: str, right: str) -> None:
    assert well_formed(text) == right
    assert decode_json(json.dumps({"text": text})) == {"text": right}
    assert decode_json(json.dumps([text]).encode()) == [right]


@given(SURROGATES, st.lists(st.integers(0, 30)))
def test_pieces_of_a_text_make_what_the_whole_makes(text: str, cuts: list[int]) -> None:
    joiner = DeltaJoiner()
    marks = [0, *sorted(cuts), len(text)]
    pieces = [joiner.push(text[a:b]) for a, b in zip(marks, marks[1:], strict=False)]
    for piece in pieces:
        piece.encode()
    assert "".join(pieces) + joiner.flush() == well_formed(text)


@given(ANY_TEXT | SURROGATES)
@example("\\ud83d")
@example("\\\\ud83d\\")
def test_any_text_as_json_is_read_as_its_well_formed_self(text: str) -> None:
    assert decode_json(json.dumps(text)) == well_formed(text)


@pytest.mark.parametrize(
    "data, right",
    [
        (b'"half \xf0\x9f"', "half \ufffd"),
        (b'"one\0two"', "one\ufffdtwo"),
        ('"\\u0000"', "\0"),
        ('"\\\\ud83d"', "\\ud83d"),
        ('"\\\\\\ud83d"', "\\\ufffd"),
        ('"\ud83d"', "\ufffd"),
        ('"\\ud83d\\ude00"', "😀"),
    ],
)
def test_what_json_does_not_allow_is_replaced_not_refused(data: bytes | str, right: str) -> None:
    assert decode_json(data) == right


@pytest.mark.parametrize("data", ["", "{", '{"a": nope}', '"\\ud83', "\0", b"\xff\xfe", '"a'])
def test_what_is_no_json_is_still_refused(data: bytes | str) -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_json(data)
