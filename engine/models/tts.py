"""The speech decoder: text and hidden states of the language model to audio codes at 25 Hz.

A small Llama over slot rows, conditioned by prefixed rows. Holds no state of any session.
Source: MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.kvcache import SlotKV
from engine.layers.fused import add_norm, turn_store
from engine.layers.linear import GatedMlp, pack
from engine.layers.norms import RMSNorm
from engine.layers.rope import Rope
from engine.layers.varlen import VarlenLayout, varlen_attention
from engine.layers.weight_norm import NEW, OLD, fold
from engine.models.config import ConfigError, TtsConfig
from engine.weights import Checkpoint, empty

UNUSED = ("projector_spk.*", "model.embed_tokens.weight")
"""Stored, but read by no path of the model."""

HEAD = "head_code.0"


class Pair(nn.Module):
    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.original0 = nn.Parameter(torch.ones(rows, 1))
        self.original1 = nn.Parameter(torch.empty(rows, size).normal_())


class CodeHead(nn.Module):
    """A linear head stored with a weight norm, which is folded once when it is loaded."""

    def __init__(self, size: int, codes: int) -> None:
        super().__init__()
        self.parametrizations = nn.ModuleDict({"weight": Pair(codes, size)})

    def finish_loading(self) -> None:
        pair = self.parametrizations["weight"]
        assert isinstance(pair, Pair)
        folded = fold(pair.original0, pair.original1).to(pair.original1.dtype)
        del self.parametrizations
        self.weight = nn.Parameter(folded, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Projector(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear1 = nn.Linear(inputs, outputs)
        self.linear2 = nn.Linear(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear2(F.relu(self.linear1(x)))
        return out


@dataclass(frozen=True)
class TokenPlan:
    """Where the N tokens of one forward go and what they see, all as tensors."""

    positions: Tensor
    """[N] of the rotary embedding, int32."""
    cells: Tensor
    """[N] where their keys go, among the cache's positions laid end to end, int32."""
    layout: VarlenLayout


class Attention(nn.Module):
    def __init__(self, config: TtsConfig) -> None:
        super().__init__()
        self.heads = config.num_heads
        inner = config.num_heads * config.head_dim
        kv_inner = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, inner, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, kv_inner, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, kv_inner, bias=False)
        self.o_proj = nn.Linear(inner, config.hidden_size, bias=False)

    def finish_loading(self) -> None:
        """Lay the three input weights together."""
        self.packed = pack(self.q_proj, self.k_proj, self.v_proj)

    def forward(self, x: Tensor, rates: Tensor, kv: SlotKV, layer: int, plan: TokenPlan) -> Tensor:
        keys, values = kv.keys[layer], kv.values[layer]
        packed = F.linear(x, self.packed)
        query = turn_store(
            packed, None, rates, plan.positions, plan.cells, keys, values, self.heads
        )
        mixed = varlen_attention(query, keys, values, plan.layout, causal=True)
        out: Tensor = self.o_proj(mixed.flatten(1))
        return out


class DecoderLayer(nn.Module):
    def __init__(self, config: TtsConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = GatedMlp(config.hidden_size, config.intermediate_size)

    def forward(
        self,
        x: Tensor,
        delta: Tensor | None,
        rates: Tensor,
        kv: SlotKV,
        layer: int,
        plan: TokenPlan,
    ) -> tuple[Tensor, Tensor]:
        """The stream x and what is still to be added to it, in and out."""
        x, normed = add_norm(x, delta, self.input_layernorm)
        attended = self.self_attn(normed, rates, kv, layer, plan)
        x, normed = add_norm(x, attended, self.post_attention_layernorm)
        return x, self.mlp(normed)


class Llama(nn.Module):
    def __init__(self, config: TtsConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)


class SpeechDecoder(nn.Module):
    """Weights under `tts.` of the checkpoint."""

    def __init__(self, config: TtsConfig) -> None:
        super().__init__()
        if config.num_vq != 1:
            raise ConfigError(f"tts_config: num_vq = {config.num_vq} is not supported, only 1")
        self.config = config
        self.emb_text = nn.Embedding(config.num_text_tokens, config.hidden_size)
        self.emb_code = nn.ModuleList([nn.Embedding(config.num_audio_tokens, config.hidden_size)])
        self.head_code = nn.ModuleList([CodeHead(config.hidden_size, config.num_audio_tokens)])
        self.projector_semantic = Projector(config.llm_dim, config.hidden_size)
        self.model = Llama(config)
        self.rope = Rope(config.head_dim, config.rope_theta)

    @property
    def end_code(self) -> int:
        """The last audio token: no sound, the end of a turn or group."""
        return self.config.num_audio_tokens - 1

    @property
    def device(self) -> torch.device:
        return self.emb_text.weight.device

    def bytes_per_slot(self, max_len: int | None = None) -> int:
        """Memory of one slot of `make_cache(..., max_len)`."""
        config = self.config
        most = config.max_position_embeddings
        cells = min(max_len or most, most) + 1
        size = config.num_kv_heads * config.head_dim * self.emb_text.weight.element_size()
        return 2 * config.num_layers * cells * size

    def make_cache(self, num_slots: int, max_len: int | None = None) -> SlotKV:
        """A cache for `num_slots` turns of at most `max_len` condition rows and codes each."""
        config = self.config
        most = config.max_position_embeddings
        return SlotKV(
            config.num_layers,
            num_slots,
            most if max_len is None else min(max_len, most),
            config.num_kv_heads,
            config.head_dim,
            device=self.device,
            dtype=self.emb_text.weight.dtype,
        )

    def condition(
        self, ids: Tensor, hidden: Tensor, *, normalize: bool, text_ends: bool = False
    ) -> Tensor:
        """Condition rows [T + 1 or 2, C] of spoken tokens and what the language model made of them.

        Args:
            ids: token ids [T]; T may be 0.
            hidden: states after the final norm, at the positions where these tokens were fed
                [T, llm_dim].
            normalize: scale the projected states to length 1.
            text_ends: put the end-of-text row before the begin-of-audio row.
        """
        config = self.config
        assert hidden.shape == (len(ids), config.llm_dim), (
            f"hidden states {tuple(hidden.shape)} for {len(ids)} tokens of width {config.llm_dim}"
        )
        marks = [config.text_eos_token_id] if text_ends else []
        marks.append(config.audio_bos_token_id)
        rows = self.emb_text(torch.tensor(marks, device=self.device))
        if not len(ids):
            out: Tensor = rows
            return out
        projected = self.projector_semantic(hidden.to(rows))
        if normalize:
            projected = F.normalize(projected, dim=-1)
        return torch.cat([self.emb_text(ids.to(self.device)) + projected, rows])

    def embed_codes(self, codes: Tensor) -> Tensor:
        """[N] -> [N, C]."""
        out: Tensor = self.emb_code[0](codes)
        return out

    def condition_tokens(self, ids: Tensor, is_word: Tensor, hidden: Tensor) -> Tensor:
        """Condition rows [N, C] of words and marks in one; `hidden` [N, llm_dim] counts at words.

        Projected states have length 1.
        """
        rows: Tensor = self.emb_text(ids)
        projected = F.normalize(self.projector_semantic(hidden), dim=-1)
        return rows + projected.masked_fill(~is_word[:, None], 0)

    def forward(self, x: Tensor, kv: SlotKV, plan: TokenPlan) -> Tensor:
        """Hidden states [N, C] after the final norm of the plan's tokens x [N, C].

        Writes their keys and values; counting them is the caller's (`SlotKV.advance`).
        """
        rates = self.rope.frequencies(self.device)
        delta: Tensor | None = None
        for index, layer in enumerate(self.model.layers):
            x, delta = layer(x, delta, rates, kv, index, plan)
        _, out = add_norm(x, delta, self.model.norm)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Raw scores of the codes, float32 [M, codes], of hidden states [M, C]."""
        out: Tensor = self.head_code[0](hidden)
        return out.float()


def load_speech_decoder(
    checkpoint: Checkpoint,
    config: TtsConfig,
    *,
    device: torch.device | str,
    dtype: torch.dtype,
    prefix: str = "tts.",
) -> SpeechDecoder:
    """Build and fill the decoder; the head's weight norm is read under its old or new names."""
    decoder = empty(lambda: SpeechDecoder(config))
    legacy = any(name.endswith(OLD[0]) for name in checkpoint.names(prefix + HEAD))

    def stored(name: str) -> str:
        for new, old in zip(NEW, OLD, strict=True):
            if legacy and name.endswith(new):
                return name.removesuffix(new) + old
        return name

    checkpoint.load(decoder, prefix, device=device, dtype=dtype, ignore=UNUSED, rename=stored)
    return decoder
