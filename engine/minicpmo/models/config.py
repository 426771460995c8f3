"""The checkpoint's own description of itself, read from its JSON files into frozen dataclasses.

Every size, id and flag of the model comes from here. A value that the files leave open is taken
from the released configuration class and listed in `OmniConfig.assumed`; a contradiction raises.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """The checkpoint's configuration is incomplete, contradicts itself or is not supported."""


_REQUIRED = object()


class _ConfigReader:
    """Typed access to one JSON object; remembers which values were not in the file."""

    def __init__(self, values: Mapping[str, Any], where: str, assumed: list[str]) -> None:
        self.values = values
        self.where = where
        self.assumed = assumed

    def get(self, key: str, kind: type, default: Any = _REQUIRED) -> Any:
        if key not in self.values:
            if default is _REQUIRED:
                raise ConfigError(f"{self.where}: {key!r} is missing")
            self.assumed.append(f"{self.where}: {key} = {default!r}")
            return default
        value = self.values[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(f"{self.where}: {key} = {value!r} is not of type {kind.__name__}")
        return value

    def integer(self, key: str, default: Any = _REQUIRED) -> int:
        value: int = self.get(key, int, default)
        if value < 0:
            raise ConfigError(f"{self.where}: {key} = {value} is negative")
        return value

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        value: float = self.get(key, float, default)
        return value

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        value: bool = self.get(key, bool, default)
        return value

    def word(self, key: str, default: Any = _REQUIRED) -> str:
        value: str = self.get(key, str, default)
        return value

    def only(self, key: str, *allowed: Any) -> None:
        """Refuse a setting that this engine does not implement; a missing key is its default."""
        if key in self.values and self.values[key] not in allowed:
            raise ConfigError(
                f"{self.where}: {key} = {self.values[key]!r} is not supported, only "
                + " or ".join(repr(value) for value in allowed)
            )

    def sub(self, key: str) -> _ConfigReader:
        value = self.get(key, dict)
        return _ConfigReader(value, f"{self.where}: {key}", self.assumed)


def _check_heads(where: str, width: int, heads: int) -> None:
    if heads < 1 or width % heads:
        raise ConfigError(f"{where}: width {width} is not a multiple of {heads} heads")


def _check_kv_heads(where: str, heads: int, kv_heads: int) -> None:
    if kv_heads < 1 or heads % kv_heads:
        raise ConfigError(
            f"{where}: {heads} heads are not a multiple of {kv_heads} key-value heads"
        )


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
    def read(cls, reader: _ConfigReader) -> LlmConfig:
        reader.only("hidden_act", "silu")
        reader.only("attention_bias", False)
        reader.only("rope_scaling", None)
        reader.only("use_sliding_window", False)
        # A number here would make the original mask out distant keys; only null is full attention.
        reader.only("sliding_window", None)
        hidden = reader.integer("hidden_size")
        heads = reader.integer("num_attention_heads")
        kv_heads = reader.integer("num_key_value_heads")
        _check_kv_heads(reader.where, heads, kv_heads)
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
    def read(cls, top: _ConfigReader) -> VisionConfig:
        reader = top.sub("vision_config")
        reader.only("hidden_act", "gelu_pytorch_tanh")
        reader.only("num_channels", 3)
        hidden, heads = reader.integer("hidden_size"), reader.integer("num_attention_heads")
        _check_heads(reader.where, hidden, heads)
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
    def read(cls, top: _ConfigReader) -> AudioConfig:
        reader = top.sub("audio_config")
        reader.only("activation_function", "gelu")
        reader.only("scale_embedding", False)
        hidden, heads = reader.integer("d_model"), reader.integer("encoder_attention_heads")
        _check_heads(reader.where, hidden, heads)
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
    def read(cls, reader: _ConfigReader) -> TtsConfig:
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
        _check_heads(reader.where, hidden, heads)
        kv_heads = reader.integer("num_key_value_heads", heads)
        _check_kv_heads(reader.where, heads, kv_heads)
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


CODE_HZ = 25
"""Speech codes in a second of sound."""


@dataclass(frozen=True)
class UnitSpec:
    """A full-duplex unit: how long it is, and how much the model says in it.

    Whoever needs one of these numbers gets it from the model's configuration.
    """

    ms: int = 1_000
    """One of `UNIT_LENGTHS_MS`."""
    max_tokens: int = 20
    """Steps of a unit. The last one never decodes, and the first token is not spoken."""
    max_chars: int = 28
    """A token that brings a unit's text to this many characters is refused."""

    def __post_init__(self) -> None:
        if self.ms not in UNIT_LENGTHS_MS:
            lengths = ", ".join(map(str, UNIT_LENGTHS_MS))
            raise ValueError(f"ms = {self.ms} is not one of {lengths}")
        if self.max_tokens < 2 or self.max_chars < 1:
            raise ValueError(
                f"max_tokens = {self.max_tokens} and max_chars = {self.max_chars} leave no room "
                "for a word"
            )

    def samples(self, hz: int) -> int:
        """Samples of a unit at a rate that gives a whole number of them."""
        return self.ms * hz // 1000

    def codes(self, index: int) -> int:
        """Speech codes of a turn's unit, counted from 0.

        Where a unit has no whole number of them the earlier one has more: 13, 12, 13, 12.
        """
        return self._codes_before(index + 1) - self._codes_before(index)

    def _codes_before(self, units: int) -> int:
        return -(-units * self.ms * CODE_HZ // 1000)


UNIT_LENGTHS_MS = (200, 400, 500, 1_000, 2_000)
"""Whole embeddings of sound, of 100 ms, and a whole number of units in the 10 s by which the
buffer that sound is normalised over slides."""


RELEASED_UNIT = UnitSpec()


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
        top = _ConfigReader(raw, "config.json", assumed)
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
                top, _ConfigReader(processor, "preprocessor_config.json", assumed)
            ),
            audio=AudioConfig.read(top),
            tts=tts,
            path=folder,
            assumed=tuple(assumed),
            raw=raw,
            generation=generation,
            unit=_read_unit(top),
        )


def _read_unit(top: _ConfigReader) -> UnitSpec:
    if "unit" not in top.values:
        return RELEASED_UNIT
    reader = top.sub("unit")
    ms, max_tokens = reader.integer("ms"), reader.integer("max_tokens")
    try:
        return UnitSpec(ms, max_tokens, reader.integer("max_chars"))
    except ValueError as error:
        raise ConfigError(f"{reader.where}: {error}") from None


def _read_resampler(top: _ConfigReader, llm: LlmConfig, vision: VisionConfig) -> ResamplerConfig:
    # As many heads of width 128 as fit; no file gives the number.
    heads = max(llm.hidden_size // 128, 1)
    _check_heads("config.json: hidden_size as the resampler's", llm.hidden_size, heads)
    return ResamplerConfig(
        num_queries=top.integer("query_num", 64),
        embed_dim=llm.hidden_size,
        num_heads=heads,
        kv_dim=vision.hidden_size,
    )


def _read_picture(top: _ConfigReader, processor: _ConfigReader) -> PictureConfig:
    slices = _ConfigReader(
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


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Read one JSON object; an optional file that is not there is an empty object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if optional:
            return {}
        raise ConfigError(f"{path} does not exist") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return value
