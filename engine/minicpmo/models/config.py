"""The checkpoint's own description of itself, read from its JSON files into frozen dataclasses.

Every size, id and flag of the model comes from here. A value that the files leave open is taken
from the released configuration class and listed in `OmniConfig.assumed`; a contradiction raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.minicpmo.models.config_reader import (
    ConfigError,
    ConfigReader,
    check_heads,
    check_kv_heads,
    read_json,
)
from engine.minicpmo.models.unit import RELEASED_UNIT, UnitSpec


@dataclass(frozen=True, slots=True)
class LlmConfig:
    """The Qwen3 language model."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    rms_norm_eps: float
    rope_theta: float
    max_position_embeddings: int
    tie_word_embeddings: bool

    @classmethod
    def read(cls, reader: ConfigReader) -> LlmConfig:
        reader.only("hidden_act", "silu")
        reader.only("attention_bias", False)
        reader.only("rope_scaling", None)
        reader.only("use_sliding_window", False)
        # A number here would make the original mask out distant keys; only null is full attention.
        reader.only("sliding_window", None)
        hidden = reader.integer("hidden_size")
        heads = reader.integer("num_attention_heads")
        kv_heads = reader.integer("num_key_value_heads")
        check_kv_heads(reader.where, heads, kv_heads)
        return cls(
            hidden_size=hidden,
            num_layers=reader.integer("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=reader.integer("head_dim", 128),
            intermediate_size=reader.integer("intermediate_size"),
            vocab_size=reader.integer("vocab_size"),
            rms_norm_eps=reader.number("rms_norm_eps"),
            rope_theta=reader.number("rope_theta"),
            max_position_embeddings=reader.integer("max_position_embeddings"),
            tie_word_embeddings=reader.flag("tie_word_embeddings", False),
        )


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """The NaViT variant of SigLIP."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    """Layers that are run: one fewer than the tower has where the last one is dropped."""
    num_heads: int
    patch_size: int
    side: int
    """Rows and columns of the learned position table."""
    layer_norm_eps: float

    @classmethod
    def read(cls, top: ConfigReader) -> VisionConfig:
        reader = top.sub("vision_config")
        reader.only("hidden_act", "gelu_pytorch_tanh")
        reader.only("num_channels", 3)
        hidden, heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
        check_heads(reader.where, hidden, heads)
        layers = reader.integer("num_hidden_layers")
        dropped = top.flag("drop_vision_last_layer", True)
        patch = reader.integer("patch_size")
        return cls(
            hidden_size=hidden,
            intermediate_size=reader.integer("intermediate_size"),
            num_layers=layers - dropped,
            num_heads=heads,
            patch_size=patch,
            side=reader.integer("image_size") // patch,
            layer_norm_eps=reader.number("layer_norm_eps", 1e-6),
        )


@dataclass(frozen=True, slots=True)
class ResamplerConfig:
    """Picture patches to a fixed number of LLM embeddings."""

    num_queries: int
    embed_dim: int
    num_heads: int
    kv_dim: int


@dataclass(frozen=True, slots=True)
class PictureConfig:
    """How pictures are cut and scaled before the vision tower."""

    patch_size: int
    scale_resolution: int
    max_slices: int
    """Chat default; the duplex modes use 1 unless told otherwise."""
    mean: tuple[float, ...]
    std: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class AudioConfig:
    """The Whisper encoder and the pooling behind it."""

    hidden_size: int
    num_layers: int
    num_heads: int
    intermediate_size: int
    num_mel_bins: int
    max_positions: int
    """Rows of the position table, encoder frames of 20 ms."""
    pool_step: int
    chunk_length_s: float

    @classmethod
    def read(cls, top: ConfigReader) -> AudioConfig:
        reader = top.sub("audio_config")
        reader.only("activation_function", "gelu")
        reader.only("scale_embedding", False)
        hidden, heads = reader.integer("d_model"), reader.integer("encoder_attention_heads")
        check_heads(reader.where, hidden, heads)
        return cls(
            hidden_size=hidden,
            num_layers=reader.integer("encoder_layers"),
            num_heads=heads,
            intermediate_size=reader.integer("encoder_ffn_dim"),
            num_mel_bins=reader.integer("num_mel_bins", 80),
            max_positions=reader.integer("max_source_positions", 1500),
            pool_step=top.integer("audio_pool_step", 5),
            chunk_length_s=top.number("audio_chunk_length", 1.0),
        )


@dataclass(frozen=True, slots=True)
class TtsConfig:
    """The decoder from LLM text and hidden states to audio codes."""

    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    num_audio_tokens: int
    """Codes and, as the last one, the end code."""
    num_text_tokens: int
    num_vq: int
    llm_dim: int
    audio_bos_token_id: int
    text_eos_token_id: int
    normalize_projected_hidden: bool
    flow_steps: int | None = None
    """Of the speech flow, where the file says; the engine takes what its own setting says."""
    rms_norm_eps: float = 1e-6
    """Not in the file: the original builds its Llama from seven fields; these are its defaults."""
    rope_theta: float = 10_000.0

    @classmethod
    def read(cls, reader: ConfigReader) -> TtsConfig:
        reader.only("projector_type", "mlp")
        reader.only("hidden_act", "silu")
        reader.only("backbone_model", "llama")
        reader.only("interleaved", False)
        reader.only("attention_type", "full_attention")
        if reader.word("condition_type") != "hidden_text_merge":
            raise ConfigError(
                f"{reader.where}: only condition_type 'hidden_text_merge' is supported"
            )
        hidden, heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
        check_heads(reader.where, hidden, heads)
        kv_heads = reader.integer("num_key_value_heads", heads)
        check_kv_heads(reader.where, heads, kv_heads)
        return cls(
            hidden_size=hidden,
            num_layers=reader.integer("num_hidden_layers"),
            num_heads=heads,
            num_kv_heads=kv_heads,
            head_dim=hidden // heads,
            intermediate_size=reader.integer("intermediate_size"),
            max_position_embeddings=reader.integer("max_position_embeddings", 4096),
            num_audio_tokens=reader.integer("num_audio_tokens"),
            num_text_tokens=reader.integer("num_text_tokens"),
            num_vq=reader.integer("num_vq", 1),
            llm_dim=reader.integer("llm_dim"),
            audio_bos_token_id=reader.integer("audio_bos_token_id"),
            text_eos_token_id=reader.integer("text_eos_token_id"),
            normalize_projected_hidden=reader.flag("normalize_projected_hidden", False),
            flow_steps=(
                reader.integer("s3_stream_n_timesteps")
                if "s3_stream_n_timesteps" in reader.values
                else None
            ),
        )


@dataclass(frozen=True, slots=True)
class OmniConfig:
    """The whole model, read from `config.json` and the small files beside it."""

    llm: LlmConfig
    vision: VisionConfig
    resampler: ResamplerConfig
    picture: PictureConfig
    audio: AudioConfig
    tts: TtsConfig
    path: Path
    assumed: tuple[str, ...]
    """Values that the files do not give, one line each, for the log."""
    raw: Mapping[str, Any] = field(repr=False)
    generation: Mapping[str, Any] = field(repr=False)
    """`generation_config.json`, empty where there is none."""
    unit: UnitSpec = RELEASED_UNIT
    """`unit` of `config.json`; its files do not say how the released model was trained."""

    @classmethod
    def load(cls, path: str | Path) -> OmniConfig:
        """Read a checkpoint folder; raises `ConfigError` with the file and the key at fault."""
        folder = Path(path)
        raw = read_json(folder / "config.json")
        generation = read_json(folder / "generation_config.json", optional=True)
        processor = read_json(folder / "preprocessor_config.json", optional=True)
        assumed: list[str] = []
        top = ConfigReader(raw, "config.json", assumed)
        if top.word("model_type") != "minicpmo":
            raise ConfigError(f"config.json: model_type {raw['model_type']!r} is not 'minicpmo'")
        llm = LlmConfig.read(top)
        vision = VisionConfig.read(top)
        tts = TtsConfig.read(top.sub("tts_config"))
        if tts.llm_dim != llm.hidden_size:
            raise ConfigError(
                f"config.json: tts_config.llm_dim {tts.llm_dim}, but hidden_size {llm.hidden_size}"
            )
        return cls(
            llm=llm,
            vision=vision,
            resampler=_read_resampler(top, llm, vision),
            picture=_read_picture(
                top, ConfigReader(processor, "preprocessor_config.json", assumed)
            ),
            audio=AudioConfig.read(top),
            tts=tts,
            path=folder,
            assumed=tuple(assumed),
            raw=raw,
            generation=generation,
            unit=_read_unit(top),
        )


def _read_unit(top: ConfigReader) -> UnitSpec:
    if "unit" not in top.values:
        return RELEASED_UNIT
    reader = top.sub("unit")
    ms, max_tokens = reader.integer("ms"), reader.integer("max_tokens")
    try:
        return UnitSpec(ms, max_tokens, reader.integer("max_chars"))
    except ValueError as error:
        raise ConfigError(f"{reader.where}: {error}") from None


def _read_resampler(top: ConfigReader, llm: LlmConfig, vision: VisionConfig) -> ResamplerConfig:
    # As many heads of width 128 as fit; no file gives the number.
    heads = max(llm.hidden_size // 128, 1)
    check_heads("config.json: hidden_size as the resampler's", llm.hidden_size, heads)
    return ResamplerConfig(
        num_queries=top.integer("query_num", 64),
        embed_dim=llm.hidden_size,
        num_heads=heads,
        kv_dim=vision.hidden_size,
    )


def _read_picture(top: ConfigReader, processor: ConfigReader) -> PictureConfig:
    slices = ConfigReader(
        top.values.get("slice_config") or {}, "config.json: slice_config", top.assumed
    )
    source = processor if "scale_resolution" in processor.values else slices
    if {"scale_resolution"} <= processor.values.keys() & slices.values.keys():
        ours, theirs = processor.integer("scale_resolution"), slices.integer("scale_resolution")
        if ours != theirs:
            raise ConfigError(
                f"scale_resolution: {ours} in preprocessor_config.json, {theirs} in slice_config"
            )
    queries = top.integer("query_num", 64)
    if processor.values.get("image_feature_size", queries) != queries:
        raise ConfigError(
            f"preprocessor_config.json: image_feature_size "
            f"{processor.values['image_feature_size']} is not query_num {queries} of config.json"
        )
    patch = source.integer("patch_size", 14)
    if patch != top.sub("vision_config").integer("patch_size"):
        raise ConfigError(f"{source.where}: patch_size {patch} is not the vision tower's")
    mean = tuple(float(v) for v in processor.values.get("norm_mean", (0.5, 0.5, 0.5)))
    std = tuple(float(v) for v in processor.values.get("norm_std", (0.5, 0.5, 0.5)))
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise ConfigError(f"preprocessor_config.json: norm_mean {mean}, norm_std {std}")
    return PictureConfig(
        patch_size=patch,
        scale_resolution=source.integer("scale_resolution", 448),
        max_slices=processor.integer("max_slice_nums", 9),
        mean=mean,
        std=std,
    )
