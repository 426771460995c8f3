"""The tokenizer: ids by name, foreign text, and streamed text that never splits a character."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.minicpmo.llm.merges import read_merges
from engine.minicpmo.llm.tokenizer import OmniTokenizer, TextStream
from engine.minicpmo.models.config_reader import ConfigError
from tests.tiny_tokenizer import write_tokenizer


@pytest.fixture(scope="module")
def tokens(tiny_checkpoint: Path) -> OmniTokenizer:
    return OmniTokenizer(tiny_checkpoint)


def test_special_strings_are_one_token_each(tokens: OmniTokenizer) -> None:
    assert tokens.encode("<unit><|listen|></unit>") == [
        tokens.unit_start,
        tokens.listen,
        tokens.unit_end,
    ]
    assert tokens.id("!") == 0
    assert tokens.unk == tokens.id("<unk>") and tokens.bpe_eos == tokens.unk - 1


def test_an_unknown_token_is_named(tokens: OmniTokenizer) -> None:
    with pytest.raises(ConfigError, match="<nothing>"):
        tokens.id("<nothing>")


@pytest.mark.parametrize("text", ["Hello world", "a<|im_end|>b", "<unit><unit>", "你好 <image>!"])
def test_foreign_text_makes_no_special_token(tokens: OmniTokenizer, text: str) -> None:
    ids = tokens.encode_literal(text)
    assert not set(ids) & set(tokens.special_ids)
    assert tokens.decode(ids) == text


def test_decoding_can_leave_special_tokens_out(tokens: OmniTokenizer) -> None:
    ids = tokens.encode("good<|turn_eos|> day<think>")
    assert tokens.decode(ids) == "good<|turn_eos|> day<think>"
    assert tokens.decode(ids, skip_special=True) == "good day<think>"


def test_ids_outside_the_vocabulary_spell_nothing(tokens: OmniTokenizer) -> None:
    assert tokens.decode([-1, 0, tokens.size + 5]) == "!"


def test_a_stream_holds_half_characters_back(tokens: OmniTokenizer) -> None:
    text = "see 好你 and 😀 now"
    ids = [token for char in text for token in byte_tokens(tokens, char)]
    stream = TextStream(tokens)
    pieces = [stream.push([token]) for token in ids]
    assert "".join(pieces) + stream.finish() == text
    assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_bytes_that_never_complete_come_at_the_end(tokens: OmniTokenizer) -> None:
    stream = TextStream(tokens)
    half = byte_tokens(tokens, "好")[:2]
    assert stream.push(tokens.encode("ok") + half) == "ok"
    assert stream.finish() == "\N{REPLACEMENT CHARACTER}"
    assert stream.push(tokens.encode("next")) == "next"


def test_forbidden_sets_follow_their_modes(tokens: OmniTokenizer) -> None:
    assert {tokens.tts_pad, tokens.chunk_eos} <= set(tokens.duplex_forbidden)
    assert tokens.unk in tokens.half_duplex_forbidden
    assert tokens.id("@") in tokens.half_duplex_forbidden
    assert tokens.chunk_eos not in tokens.half_duplex_forbidden


def byte_tokens(tokens: OmniTokenizer, text: str) -> list[int]:
    """One token per byte, which no encoder would choose."""
    of_byte = {tokens.bytes_of([token]): token for token in range(256)}
    return [of_byte[bytes([byte])] for byte in text.encode()]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A tokenizer's folder that a test may damage."""
    write_tokenizer(tmp_path)
    return tmp_path


def shorten(folder: Path, is_kept: Callable[[int, str], bool]) -> int:
    """Drop lines of `merges.txt`; returns how many are left out."""
    path = folder / "merges.txt"
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    kept = [line for place, line in enumerate(lines) if is_kept(place, line)]
    path.write_text("#version: 0.2\n" + "\n".join(kept) + "\n")
    return len(lines) - len(kept)


def test_merges_that_a_file_lacks_follow_from_the_vocabulary(
    files: Path, tokens: OmniTokenizer
) -> None:
    """The one that goes round lacks Chinese words, and no word of English."""
    lacking = shorten(files, lambda place, line: line.isascii() and place % 3 > 0)
    assert lacking > 20
    completed = OmniTokenizer(files)
    assert completed.derived_merges == lacking and tokens.derived_merges == 0
    for text in ("Hello world, what do you see?", "你好，世界。今天天气很好。", "no such words"):
        assert completed.encode(text) == tokens.encode(text)


def test_a_file_without_any_merge_is_completed(files: Path, tokens: OmniTokenizer) -> None:
    shorten(files, lambda place, line: False)
    assert OmniTokenizer(files).encode("Hello 你好") == tokens.encode("Hello 你好")


def test_merges_that_do_not_follow_from_the_ids_are_refused(files: Path) -> None:
    """Reversed ids: what would be derived is not what the file has."""
    shorten(files, lambda place, line: place % 2 > 0)
    vocabulary = json.loads((files / "vocab.json").read_text())
    long = sorted(rank for entry, rank in vocabulary.items() if len(entry) > 1)
    turned = dict(zip(long, reversed(long), strict=True))
    (files / "vocab.json").write_text(
        json.dumps({entry: turned.get(rank, rank) for entry, rank in vocabulary.items()})
    )
    with pytest.raises(ConfigError, match=r"merges\.txt has \d+ merges .* tokenizer\.json"):
        OmniTokenizer(files)


def test_a_file_that_makes_all_that_merges_can_make_is_taken_as_it_is(tmp_path: Path) -> None:
    """An entry that no two others make is no sign of a short file, whatever the others' order."""
    entries = ["a", "b", "c", "<", "s", ">", "ab", "bc", "abc", "<s>"]
    vocabulary, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
    vocabulary.write_text(json.dumps({entry: rank for rank, entry in enumerate(entries)}))
    merges.write_text("b c\na b\na bc\n")
    read = read_merges(vocabulary, merges, ())
    assert read.pairs == [("b", "c"), ("a", "b"), ("a", "bc")] and read.lacking == 0


def test_a_cut_tokenizer_file_is_named(files: Path) -> None:
    (files / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer\.json: EOF"):
        OmniTokenizer(files)


def test_a_merge_that_is_no_pair_is_named(files: Path) -> None:
    (files / "merges.txt").write_text("#version: 0.2\nh e l\n")
    with pytest.raises(ConfigError, match=r"merges\.txt, line 2"):
        OmniTokenizer(files)
