"""A tiny random language model and a vocabulary of a few words, for tests of what drives them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from engine.minicpmo.llm.rows import LlmRows
from engine.minicpmo.llm.tokenizer import OmniTokenizer
from engine.minicpmo.models.config import LlmConfig
from engine.minicpmo.models.llm.qwen3 import Qwen3

SPECIALS = (
    "im_end unit_start unit_end image_start image_end slice_start slice_end "
    "tts_bos tts_eos tts_pad listen speak turn_eos chunk_eos chunk_tts_eos bpe_eos "
    "tool_call tool_call_end"
).split()
WORDS: dict[int, bytes] = {
    32: b"Hello",
    33: b" world",
    34: b",",
    35: b"a",
    36: "\N{CJK UNIFIED IDEOGRAPH-4F60}".encode()[:1],
    37: "\N{CJK UNIFIED IDEOGRAPH-4F60}".encode()[1:],
    38: b"\n",
    39: b"previous: ",
}
HELLO, WORLD, COMMA, LETTER, HALF, OTHER_HALF = 32, 33, 34, 35, 36, 37
VOCAB = 64


class WordTokens:
    """What the automata use of `OmniTokenizer`; special ids are 1 to 20, those from 40 letters."""

    def __init__(self) -> None:
        for place, name in enumerate(SPECIALS):
            setattr(self, name, place + 1)
        self.special_ids = frozenset(range(1, self.id("bpe_eos")))
        self.duplex_forbidden = (self.id("tts_pad"), self.id("chunk_eos"), 40)
        self.half_duplex_forbidden = (41,)
        self.half_duplex_terminators = tuple(map(self.id, ("tts_eos", "im_end", "bpe_eos")))

    def id(self, name: str) -> int:
        return SPECIALS.index(name) + 1

    def encode(self, text: str) -> list[int]:
        """38 for a line end, 39 for everything up to the next one."""
        return [38 if part == "\n" else 39 for part in re.findall(r"\n|[^\n]+", text)]

    def bytes_of(self, ids: Sequence[int], *, skip_special: bool = False) -> bytes:
        spelled = b""
        for token in ids:
            if token in WORDS:
                spelled += WORDS[token]
            elif token >= 40:
                spelled += bytes([ord("a") + token % 26])
            elif not (skip_special and token in self.special_ids):
                spelled += f"<{token}>".encode()
        return spelled

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        return self.bytes_of(ids, skip_special=skip_special).decode("utf-8", "replace")


def word_tokens() -> OmniTokenizer:
    return cast(OmniTokenizer, WordTokens())


def llm_config(heads: int = 4, kv_heads: int = 2, layers: int = 2, tie: bool = False) -> LlmConfig:
    return LlmConfig(
        hidden_size=24,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=8,
        intermediate_size=40,
        vocab_size=VOCAB,
        rms_norm_eps=1e-6,
        rope_theta=1_000_000.0,
        max_position_embeddings=4096,
        tie_word_embeddings=tie,
    )


def tiny_llm(config: LlmConfig | None = None, seed: int = 0) -> Qwen3:
    """Weights large enough that positions and neighbours matter."""
    torch.manual_seed(seed)
    model = Qwen3(config or llm_config())
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0.0, 0.3)
            else:
                weight.uniform_(0.5, 1.5)
    return model.requires_grad_(False).eval()


def tiny_rows(slots: int = 3, max_len: int = 256, model: Qwen3 | None = None) -> LlmRows:
    return LlmRows(model or tiny_llm(), slots, max_len)


def rows_of(count: int, seed: int, width: int = 24) -> Tensor:
    """Embeddings [count, width] as an encoder might give them."""
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def ids_of(count: int, seed: int) -> list[int]:
    drawn = torch.randint(0, VOCAB, (count,), generator=torch.Generator().manual_seed(seed))
    ids: list[int] = drawn.tolist()
    return ids
