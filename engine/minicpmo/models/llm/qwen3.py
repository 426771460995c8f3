"""The language model (Qwen3), for ragged batches of rows over a slot cache.

Source: MiniCPM-o 4.5 inference code; Qwen3 technical report (arXiv 2505.09388).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.gpu.blocks.decoder import AttentionShape, DecoderStack
from engine.gpu.kv.cache import CacheSpec, KvPlan, SlotCache
from engine.gpu.layers.rope import Rope
from engine.minicpmo.models.config import LlmConfig


class Qwen3Decoder(DecoderStack):
    """Embedding table, layers and final norm."""

    def __init__(self, config: LlmConfig) -> None:
        shape = AttentionShape(
            hidden_size=config.hidden_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            qk_norm_eps=config.rms_norm_eps,
        )
        super().__init__(shape, config.intermediate_size, config.rms_norm_eps, config.num_layers)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)


class Qwen3(nn.Module):
    """Weights under `llm.` of the checkpoint. Holds no state of any session."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.config = config
        self.model = Qwen3Decoder(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.rope = Rope(config.head_dim, config.rope_theta)
        self.finish_loading()

    def finish_loading(self) -> None:
        """Share the table with the head where the configuration says so."""
        if self.config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.model.embed_tokens.weight.dtype

    def cache_spec(self, max_len: int) -> CacheSpec:
        """A slot of at most `max_len` positions."""
        config = self.config
        if max_len > config.max_position_embeddings:
            raise ValueError(
                f"max_len {max_len} exceeds the model's {config.max_position_embeddings} positions"
            )
        return CacheSpec(
            config.num_layers,
            max_len,
            config.num_kv_heads,
            config.head_dim,
            self.device,
            self.dtype,
        )

    def embed(self, ids: Tensor) -> Tensor:
        """Embeddings [N, C] of ids [N]."""
        out: Tensor = self.model.embed_tokens(ids)
        return out

    def forward(self, embeds: Tensor, kv: SlotCache, plan: KvPlan) -> Tensor:
        """Hidden states [N, C] after the final norm, one for each of the plan's tokens.

        Writes their keys and values; counting them is the caller's (`SlotCache.advance`).
        """
        assert embeds.shape == (plan.num_tokens, self.config.hidden_size), (
            f"embeddings {tuple(embeds.shape)} for {plan.num_tokens} tokens "
            f"of width {self.config.hidden_size}"
        )
        out: Tensor = self.model(embeds, self.rope.frequencies(self.device), kv, plan)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Raw logits [M, V] of hidden states [M, C]."""
        out: Tensor = self.lm_head(hidden)
        return out
