"""Words are told in small pieces that cover the sound they belong to."""

import pytest

from signaling.live.fragments import Captions, Fragment, split

SENTENCE = "Well, the weather today is mostly sunny with a light breeze."


@pytest.mark.parametrize(
    "text", [SENTENCE, "今天天气很好，我们去公园吧。", "Hm", " One two", "trailing space "]
)
@pytest.mark.parametrize("length_ms", [1000, 4000, 300])
def test_nothing_is_lost_and_no_time_is_left_out(text: str, length_ms: int) -> None:
    pieces = split(text, 500, 500 + length_ms)
    assert "".join(piece.text for piece in pieces) == text
    assert pieces[0].start_ms == 500 and pieces[-1].end_ms == 500 + length_ms
    for one, next_one in zip(pieces, pieces[1:], strict=False):
        assert one.end_ms == next_one.start_ms


@pytest.mark.parametrize("text", [SENTENCE, "今天天气很好，我们去公园吧。"])
def test_a_second_of_speech_becomes_pieces_of_less_than_half_a_second(text: str) -> None:
    for length_ms in (1000, 3000):
        pieces = split(text, 0, length_ms)
        assert all(0 < piece.end_ms - piece.start_ms <= 500 for piece in pieces), pieces
        assert len(pieces) >= 3


def test_a_number_that_takes_long_is_told_in_parts() -> None:
    pieces = split(" 9:04", 0, 1_000)
    assert "".join(piece.text for piece in pieces) == " 9:04" and len(pieces) >= 2
    assert max(piece.end_ms - piece.start_ms for piece in pieces) <= 600


def test_words_whose_end_is_unknown_last_as_long_as_they_take() -> None:
    [piece] = split("Hello", 100, 100)
    assert piece == Fragment("Hello", 100, 425)


def test_no_words_make_no_piece() -> None:
    assert split("", 0, 100) == split("  ", 0, 100) == []


def test_words_are_told_as_they_are_heard() -> None:
    captions = Captions()
    captions.add("one two three", 1000, 1900, now=10.0)
    assert captions.due(10.0) == [Fragment("one", 1000, 1207)]
    assert captions.due(10.1) == []
    assert [piece.text for piece in captions.due(10.3)] == [" two"]
    assert [piece.text for piece in captions.flush()] == [" three"]
    assert captions.flush() == []


def test_what_was_cut_is_not_told() -> None:
    captions = Captions()
    captions.add("one two three", 0, 900, now=0.0)
    captions.due(0.0)
    captions.drop()
    assert captions.due(9.0) == []


def test_spans_never_go_back() -> None:
    captions = Captions()
    captions.add("Hello", 0, 0, now=0.0)
    captions.add(" there", 200, 600, now=0.2)
    first, second = captions.due(0.2)
    assert first == Fragment("Hello", 0, 325) and second == Fragment(" there", 325, 600)
