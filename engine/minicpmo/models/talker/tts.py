"""The speech decoder: text and hidden states of the language model to audio codes at 25 Hz.

A small Llama over slot rows, conditioned by prefixed rows. Holds no state of any session.
Source: MiniCPM-o 4.5 inference code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from engine.gpu.blocks.decoder import AttentionShape, DecoderStack
from engine.gpu.kv.cache import CacheSpec, NativeKV, TokenPlan
from engine.gpu.layers.rope import Rope
from engine.gpu.layers.weight_norm import NEW, OLD, fold
from engine.gpu.staging import uploaded
from engine.gpu.weights import Checkpoint, empty
from engine.minicpmo.models.config import TtsConfig
from engine.minicpmo.models.config_reader import ConfigError

UNUSED = ("projector_spk.*", "model.embed_tokens.weight")
"""Stored, but read by no path of the model."""

HEAD = "head_code.0"


class WeightNormPair(nn.Module):
    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.original0 = nn.Parameter(torch.ones(rows, 1))
        self.original1 = nn.Parameter(torch.empty(rows, size).normal_())


class CodeHead(nn.Module):
    """A linear head stored with a weight norm, which is folded once when it is loaded."""

    def __init__(self, size: int, codes: int) -> None:
        super().__init__()
        self.parametrizations = nn.ModuleDict({"weight": WeightNormPair(codes, size)})

    def finish_loading(self) -> None:
        pair = self.parametrizations["weight"]
        assert isinstance(pair, WeightNormPair)
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


class Llama(DecoderStack):
    def __init__(self, config: TtsConfig) -> None:
        shape = AttentionShape(
            hidden_size=config.hidden_size,
            num_heads=config.num_heads,
            num_kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
        )
        super().__init__(shape, config.intermediate_size, config.rms_norm_eps, config.num_layers)


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

    def cache_spec(self, max_len: int | None = None) -> CacheSpec:
        """A slot of a turn of at most `max_len` condition rows and codes."""
        config = self.config
        most = config.max_position_embeddings
        return CacheSpec(
            config.num_layers,
            most if max_len is None else min(max_len, most),
            config.num_kv_heads,
            config.head_dim,
            self.device,
            self.emb_text.weight.dtype,
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
        # By numbers known to the host: a tensor of them would have to be copied to the device.
        rows = torch.stack([self.emb_text.weight[mark] for mark in marks])
        if not len(ids):
            return rows
        projected = self.projector_semantic(hidden.to(rows))
        if normalize:
            projected = F.normalize(projected, dim=-1)
        return torch.cat([self.emb_text(uploaded(ids, self.device)) + projected, rows])

    @property
    def code_table(self) -> Tensor:
        """Embeddings of the codes [codes, C]."""
        weight = self.emb_code[0].weight
        assert isinstance(weight, Tensor)
        return weight

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

    def forward(self, x: Tensor, kv: NativeKV, plan: TokenPlan) -> Tensor:
        """Hidden states [N, C] after the final norm of the plan's tokens x [N, C].

        Writes their keys and values; counting them is the caller's (`SlotRows.advance`).
        """
        out: Tensor = self.model(x, self.rope.frequencies(self.device), kv, plan)
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
    rename = head_names(checkpoint.names(prefix))
    checkpoint.load(decoder, prefix, device=device, dtype=dtype, ignore=UNUSED, rename=rename)
    return decoder


def head_names(names: Iterable[str]) -> Callable[[str], str]:
    """From a name of the module's to the stored one, which may be of the older kind."""
    legacy = any(HEAD in name and name.endswith(OLD[0]) for name in names)

    def stored(name: str) -> str:
        for new, old in zip(NEW, OLD, strict=True):
            if legacy and name.endswith(new):
                return name.removesuffix(new) + old
        return name

    return stored
