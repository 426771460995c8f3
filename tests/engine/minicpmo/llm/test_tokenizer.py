"""The tokenizer: ids by name, foreign text, and streamed text that never splits a character."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.minicpmo.llm.tokenizer import OmniTokenizer, TextStream
from engine.minicpmo.models.config import ConfigError


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
