"""Sizes of the flow network and the rules of its streaming caches, read from `flow.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from engine.minicpmo.models.config_reader import ConfigError

Trim = Literal["reference", "prompt"]


class _TaggedLoader(yaml.SafeLoader):  # type: ignore[misc]
    """YAML whose unknown tags (`!new:package.Class`) are read as what they stand before."""


def _untag(loader: _TaggedLoader, suffix: str, node: yaml.Node) -> object:
    del suffix
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    assert isinstance(node, yaml.ScalarNode)
    return loader.construct_scalar(node)


_TaggedLoader.add_multi_constructor("!", _untag)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file of the model's assets; its Python tags name classes and are ignored."""
    with path.open(encoding="utf-8") as file:
        data = yaml.load(file, Loader=_TaggedLoader)  # a SafeLoader
    if not isinstance(data, dict):
        raise ConfigError(f"{path} does not hold a mapping")
    return data


@dataclass(frozen=True, slots=True)
class EncoderConfig:
    """The conformer that turns codes at 25 Hz into mel-rate features at 50 Hz."""

    size: int = 512
    num_heads: int = 8
    ffn_size: int = 2048
    num_blocks: int = 6
    num_up_blocks: int = 4
    lookahead: int = 3
    upsample: int = 2

    def __post_init__(self) -> None:
        if self.size % self.num_heads:
            raise ConfigError(
                f"encoder width {self.size} is not a multiple of {self.num_heads} heads"
            )


@dataclass(frozen=True, slots=True)
class DitConfig:
    """The estimator of the flow's velocity."""

    in_channels: int = 320
    out_channels: int = 80
    hidden_size: int = 512
    depth: int = 16
    num_heads: int = 8
    head_dim: int = 64
    mlp_ratio: float = 4.0


@dataclass(frozen=True, slots=True)
class FlowConfig:
    encoder: EncoderConfig = EncoderConfig()
    dit: DitConfig = DitConfig()
    vocab_size: int = 6561
    num_mels: int = 80
    speaker_dim: int = 192
    guidance: float = 0.7

    def __post_init__(self) -> None:
        if self.dit.in_channels != 4 * self.num_mels or self.dit.out_channels != self.num_mels:
            raise ConfigError(
                f"an estimator {self.dit.in_channels} -> {self.dit.out_channels} does not fit "
                f"{self.num_mels} mel bands"
            )

    @classmethod
    def from_yaml(cls, path: Path) -> FlowConfig:
        """Read `flow.yaml`; raise `ConfigError` for a structure that is not supported."""
        flow = read_yaml(path)["flow"]
        encoder, decoder = flow["encoder"], flow["decoder"]
        estimator = decoder["estimator"]
        _expect(path, flow, {"output_type": "mel"})
        _expect(
            path,
            encoder,
            {
                "input_layer": "linear",
                "pos_enc_layer_type": "rel_pos_espnet",
                "selfattention_layer_type": "rel_selfattn",
                "key_bias": True,
                "normalize_before": True,
                "output_size": encoder["input_size"],
                "up_stride": encoder.get("up_scale_factor", 2),
            },
        )
        return cls(
            encoder=EncoderConfig(
                size=encoder["output_size"],
                num_heads=encoder["attention_heads"],
                ffn_size=encoder["linear_units"],
                num_blocks=encoder["num_blocks"],
                num_up_blocks=encoder["num_up_blocks"],
                lookahead=encoder["pre_lookahead_len"],
                upsample=encoder["up_scale_factor"],
            ),
            dit=DitConfig(
                in_channels=estimator["in_channels"],
                out_channels=estimator["out_channels"],
                hidden_size=estimator["hidden_size"],
                depth=estimator["depth"],
                num_heads=estimator["num_heads"],
                head_dim=estimator["head_dim"],
                mlp_ratio=estimator["mlp_ratio"],
            ),
            vocab_size=flow["vocab_size"],
            num_mels=flow["output_size"],
            speaker_dim=flow["spk_embed_dim"],
            guidance=decoder["inference_cfg_rate"],
        )


def _expect(path: Path, section: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for name, value in wanted.items():
        if section.get(name, value) != value:
            raise ConfigError(f"{path}: {name} is {section[name]!r}, supported is {value!r}")
