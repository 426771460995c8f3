"""Small speech networks for tests, and the files that released ones are read from."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import yaml

from engine.minicpmo.models.flow.config import DitConfig, EncoderConfig, FlowConfig
from engine.minicpmo.models.vocoder.config import NAMES, VocoderConfig
from engine.minicpmo.models.voice.s3tokenizer import S3Config

TINY_FLOW = FlowConfig(
    encoder=EncoderConfig(16, 2, 32, 2, 1),
    dit=DitConfig(hidden_size=32, depth=2, num_heads=2, head_dim=16),
)
"""The vocabulary and the 80 bands stay as released."""
TINY_S3 = S3Config(size=16, num_heads=2, num_layers=1)


def tiny_vocoder(*, causal: bool = False) -> VocoderConfig:
    """Rates and kernels stay as released."""
    return VocoderConfig(causal, base_channels=16, f0_channels=12)


def shallow_vocoder(*, causal: bool = False) -> VocoderConfig:
    """A tiny one with one layer in the place of nine, for tests of what lies around it.

    No file can say so of the original generation.
    """
    tiny = tiny_vocoder(causal=causal)
    return replace(tiny, kernels=(7,), dilations=((3,),), source_dilations=((3,),) * 3)


def branching_vocoder(*, causal: bool = False) -> VocoderConfig:
    """A shallow one with two branches of unlike reach, whose mean is what a layer says."""
    shallow = shallow_vocoder(causal=causal)
    return replace(shallow, kernels=(3, 11), dilations=((1,), (5,)))


def flow_yaml(config: FlowConfig) -> str:
    """The text of a `flow.yaml` that `FlowConfig.from_yaml` reads back to the same value."""
    enc, dit = config.encoder, config.dit
    flow = {
        "input_size": enc.size,
        "output_size": config.num_mels,
        "spk_embed_dim": config.speaker_dim,
        "output_type": "mel",
        "vocab_size": config.vocab_size,
        "encoder": {
            "input_size": enc.size,
            "output_size": enc.size,
            "input_layer": "linear",
            "pre_lookahead_len": enc.lookahead,
            "num_blocks": enc.num_blocks,
            "num_up_blocks": enc.num_up_blocks,
            "up_stride": enc.upsample,
            "up_scale_factor": enc.upsample,
            "attention_heads": enc.num_heads,
            "pos_enc_layer_type": "rel_pos_espnet",
            "selfattention_layer_type": "rel_selfattn",
            "key_bias": True,
            "linear_units": enc.ffn_size,
            "normalize_before": True,
        },
        "decoder": {
            "inference_cfg_rate": config.guidance,
            "estimator": {
                "in_channels": dit.in_channels,
                "out_channels": dit.out_channels,
                "mlp_ratio": dit.mlp_ratio,
                "depth": dit.depth,
                "num_heads": dit.num_heads,
                "head_dim": dit.head_dim,
                "hidden_size": dit.hidden_size,
            },
        },
    }
    text: str = yaml.safe_dump({"flow": flow}, sort_keys=False)
    return text


def vocoder_yaml(config: VocoderConfig) -> str:
    """The text of a `config.yaml` that says the same."""
    hift = {their: _plain(getattr(config, ours)) for their, ours in NAMES.items()}
    hift["istft_params"] = {"n_fft": config.fft_size, "hop_len": config.hop}
    hift["f0_predictor"] = {
        "num_class": 1,
        "in_channels": config.num_mels,
        "cond_channels": config.f0_channels,
    }
    text: str = yaml.safe_dump({"hift": hift}, sort_keys=False)
    return text


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def s3_json(config: S3Config) -> str:
    values = {
        "n_mels": config.num_mels,
        "n_audio_state": config.size,
        "n_audio_head": config.num_heads,
        "n_audio_layer": config.num_layers,
    }
    return json.dumps(values)
