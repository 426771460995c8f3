"""Text from outside: halves of characters, bytes that are none, and what must stay as it is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from signaling.texts import MAX_DEPTH, decode_json, well_formed

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
        ("\ufeff[]", []),
        (b'\xef\xbb\xbf"\\ud83d"', "\ufffd"),
        (b'{"half \xf0\x9f": 1}', {"half \ufffd": 1}),
    ],
)
def test_what_json_does_not_allow_is_replaced_not_refused(data: bytes | str, right: Any) -> None:
    assert decode_json(data) == right


@pytest.mark.parametrize("data", ["", "{", '{"a": nope}', '"\\ud83', "\0", b"\xff\xfe", '"a'])
def test_what_is_no_json_is_still_refused(data: bytes | str) -> None:
    with pytest.raises(ValueError):
        decode_json(data)


@pytest.mark.parametrize("begin, end", [("[", "]"), ('{"a":', "}")])
def test_nested_values_are_bounded(begin: str, end: str) -> None:
    assert decode_json(begin * (MAX_DEPTH - 1) + "1" + end * (MAX_DEPTH - 1))
    for depth in (MAX_DEPTH, 10_000):
        with pytest.raises(ValueError, match="nested"):
            decode_json(begin * depth + "1" + end * depth)
