"""Write a random checkpoint in the released layout, or build the full-size model in GPU memory.

    python -m tests.tiny_checkpoint DIR [--seed N] [--shards N] [--original-vocoder]
    python -m tests.tiny_checkpoint DIR --size full --device cuda [--to-disk]

The first is a few megabytes and loads in a second; it is for tests and first steps. The second
writes all but the big weights to DIR, builds the model with weights drawn on the device and tells
its size; with `--to-disk` it writes the weights too, 18.7 GB, for a server to load.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.config import WeightsType
from engine.gpu.weights import INDEX_FILE, SINGLE_FILE, empty
from engine.minicpmo.checkpoint import OmniModel, Senses, load
from engine.minicpmo.models.config import OmniConfig
from engine.minicpmo.models.flow.config import FlowConfig
from engine.minicpmo.models.flow.flow import Flow
from engine.minicpmo.models.llm.qwen3 import Qwen3
from engine.minicpmo.models.talker.tts import Projector, SpeechDecoder
from engine.minicpmo.models.vocoder.config import VocoderConfig
from engine.minicpmo.models.vocoder.hift import Hift
from engine.minicpmo.models.voice.preparation import VoiceFeatures
from engine.minicpmo.models.voice.s3tokenizer import S3Config, S3Tokenizer
from tests.random_weights import RandomCheckpoint, draw
from tests.speech_configs import (
    TINY_FLOW,
    TINY_S3,
    flow_yaml,
    s3_json,
    shallow_vocoder,
    tiny_vocoder,
    vocoder_yaml,
)
from tests.tiny_tokenizer import write_tokenizer

WEIGHT_NORMED = ("conv_pre", "conv_post", "ups", "convs1", "convs2", "condnet")
VOICE_CODES = 50
REFERENCE_SECONDS = 4
SHARD_BYTES = 4 * 1024**3


def tiny_config(ids: dict[str, int]) -> dict[str, Any]:
    """`config.json` of a tiny model with this tokenizer."""
    size = max(ids.values()) + 1
    return _config(
        ids,
        llm={
            "vocab_size": size,
            "hidden_size": 128,
            "intermediate_size": 192,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
        },
        vision={"hidden_size": 48, "intermediate_size": 96, "layers": 2, "heads": 3, "side": 448},
        audio={"d_model": 64, "layers": 2, "heads": 4, "ffn": 256},
        tts={"hidden_size": 16, "intermediate_size": 48, "layers": 1, "heads": 2, "text": size},
        scale_resolution=112,
    )


def full_size_config(ids: dict[str, int] | None = None) -> dict[str, Any]:
    """`config.json` with the released sizes; ids only where they index a table."""
    return _config(
        ids or {},
        llm={
            "vocab_size": 151_748,
            "hidden_size": 4096,
            "intermediate_size": 12_288,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
        },
        vision={"hidden_size": 1152, "intermediate_size": 4304, "layers": 27, "heads": 16}
        | {"side": 980},
        audio={"d_model": 1024, "layers": 24, "heads": 16, "ffn": 4096},
        tts={"hidden_size": 768, "intermediate_size": 3072, "layers": 20, "heads": 12}
        | {"text": 152_064},
        scale_resolution=448,
    )


def _config(
    ids: dict[str, int],
    *,
    llm: dict[str, Any],
    vision: dict[str, int],
    audio: dict[str, int],
    tts: dict[str, int],
    scale_resolution: int,
) -> dict[str, Any]:
    return {
        "architectures": ["MiniCPMO"],
        "version": "4.5",
        "model_type": "minicpmo",
        "torch_dtype": "bfloat16",
        "query_num": 64,
        "image_size": 448,
        "drop_vision_last_layer": False,
        "vision_batch_size": 16,
        "audio_pool_step": 5,
        "audio_chunk_length": 1.0,
        "stream_input": True,
        "use_image_id": True,
        "max_position_embeddings": 40_960,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "rope_scaling": None,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": None,
        "tie_word_embeddings": False,
        **llm,
        "slice_config": {"patch_size": 14, "scale_resolution": scale_resolution},
        "vision_config": {
            "hidden_size": vision["hidden_size"],
            "intermediate_size": vision["intermediate_size"],
            "num_hidden_layers": vision["layers"],
            "num_attention_heads": vision["heads"],
            "patch_size": 14,
            "image_size": vision["side"],
            "layer_norm_eps": 1e-6,
            "hidden_act": "gelu_pytorch_tanh",
        },
        "audio_config": {
            "num_mel_bins": 80,
            "d_model": audio["d_model"],
            "encoder_layers": audio["layers"],
            "encoder_attention_heads": audio["heads"],
            "encoder_ffn_dim": audio["ffn"],
            "max_source_positions": 1500,
            "activation_function": "gelu",
            "scale_embedding": False,
        },
        "tts_config": {
            "llm_dim": llm["hidden_size"],
            "projector_type": "mlp",
            "hidden_act": "silu",
            "hidden_size": tts["hidden_size"],
            "intermediate_size": tts["intermediate_size"],
            "num_hidden_layers": tts["layers"],
            "num_attention_heads": tts["heads"],
            "num_key_value_heads": tts["heads"],
            "max_position_embeddings": 4096,
            "num_audio_tokens": 6562,
            "num_text_tokens": tts["text"],
            "num_vq": 1,
            "audio_bos_token_id": ids.get("<focus>", 151_687),
            "text_eos_token_id": ids.get("</perception>", 151_692),
            "condition_type": "hidden_text_merge",
            "backbone_model": "llama",
            "normalize_projected_hidden": True,
            "attention_type": "full_attention",
            "interleaved": False,
            "s3_stream_n_timesteps": 10,
            "s3_stream_chunk_size": 25,
            "s3_stream_prelook_size": 3,
        },
    }


def write_checkpoint(
    folder: str | Path, *, seed: int = 0, shards: int = 1, causal: bool = True
) -> Path:
    """Write a whole tiny checkpoint, its speech parts and a prepared voice `default` included."""
    folder = Path(folder)
    config = write_small_files(folder, tiny_config)
    _write_weights(folder, _main_weights(config, seed), shards)
    # Most of the time that a test of the whole engine takes would go to its layers.
    vocoder = shallow_vocoder(causal=True) if causal else tiny_vocoder()
    _write_speech(folder, TINY_FLOW, vocoder, TINY_S3, seed)
    return folder


def full_size_model(
    folder: str | Path, device: str, *, seed: int = 0, weights: WeightsType = "auto"
) -> OmniModel:
    """Build the full-size model with random weights drawn on the device.

    Writes the configuration, a small tokenizer and the speech assets (about 0.7 GB) to `folder`
    where they are not there yet.
    """
    folder = Path(folder)
    if not (folder / "assets").is_dir():
        write_small_files(folder, full_size_config)
        _write_speech(folder, FlowConfig(), VocoderConfig(causal=False), TINY_S3, seed)
    with mock.patch("engine.minicpmo.checkpoint.Checkpoint", RandomCheckpoint):
        return load(folder, device=device, weights=weights, show=lambda line: None)


def write_small_files(folder: Path, make: Callable[[dict[str, int]], dict[str, Any]]) -> OmniConfig:
    """Write everything but the weights; `make` gives `config.json` for a tokenizer's ids."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(folder)
    config = make(ids)
    tokens = {"bos_token_id": ids["<|endoftext|>"], "pad_token_id": ids["<|endoftext|>"]}
    ends = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    files: dict[str, dict[str, Any]] = {
        "config.json": config | tokens | {"eos_token_id": ids["<|im_end|>"]},
        "generation_config.json": tokens | {"eos_token_id": ends, "do_sample": True},
        "preprocessor_config.json": {
            "max_slice_nums": 9,
            "scale_resolution": config["slice_config"]["scale_resolution"],
            "patch_size": 14,
            "use_image_id": True,
            "image_feature_size": config["query_num"],
            "norm_mean": [0.5, 0.5, 0.5],
            "norm_std": [0.5, 0.5, 0.5],
        },
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value, indent=1))
    return OmniConfig.load(folder)


def write_full_size(folder: str | Path, device: str, *, seed: int = 0) -> int:
    """Write the full-size checkpoint with weights drawn on the device; the bytes of its shards."""
    folder = Path(folder)
    config = write_small_files(folder, full_size_config)
    _write_speech(folder, FlowConfig(), VocoderConfig(causal=False), TINY_S3, seed)
    shards = _Shards(folder)
    for prefix, module in _main_parts(config).items():
        for name, tensor in module.state_dict().items():
            drawn = draw(prefix + name, tensor.shape, seed, device)
            shards.add(prefix + name, drawn.to(torch.bfloat16).cpu())
    return shards.close()


class _Shards:
    """Writes tensors to files of about `SHARD_BYTES`, then the index."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file_of: dict[str, str] = {}
        self._waiting: dict[str, Tensor] = {}
        self._waiting_bytes = self._total = self._files = 0

    def add(self, name: str, tensor: Tensor) -> None:
        self._waiting[name] = tensor
        self._waiting_bytes += tensor.nbytes
        if self._waiting_bytes >= SHARD_BYTES:
            self._write()

    def close(self) -> int:
        self._write()
        index = {"metadata": {"total_size": self._total}, "weight_map": self._file_of}
        (self._folder / INDEX_FILE).write_text(json.dumps(index, indent=1))
        return self._total

    def _write(self) -> None:
        if not self._waiting:
            return
        self._files += 1
        file = f"model-{self._files:05d}.safetensors"
        save_file(self._waiting, self._folder / file, metadata={"format": "pt"})
        self._file_of |= dict.fromkeys(self._waiting, file)
        self._total += self._waiting_bytes
        self._waiting, self._waiting_bytes = {}, 0


def _main_parts(config: OmniConfig) -> dict[str, nn.Module]:
    """What the main weights belong to, without values, by the prefix of their names."""
    return {
        "llm.": empty(lambda: Qwen3(config.llm)),
        **empty(lambda: Senses(config)).parts(),
        "tts.": empty(lambda: SpeechDecoder(config.tts)),
        # In the released file, though nothing reads it.
        "tts.projector_spk.": empty(lambda: Projector(config.tts.llm_dim, config.tts.hidden_size)),
    }


def _main_weights(config: OmniConfig, seed: int) -> dict[str, Tensor]:
    return {
        name: tensor.to(torch.bfloat16)
        for prefix, module in _main_parts(config).items()
        for name, tensor in _state(module, seed, prefix).items()
    }


def _state(module: nn.Module, seed: int, prefix: str = "") -> dict[str, Tensor]:
    return {
        prefix + name: draw(prefix + name, tensor.shape, seed)
        for name, tensor in module.state_dict().items()
    }


def _write_weights(folder: Path, weights: dict[str, Tensor], shards: int) -> None:
    if shards == 1:
        save_file(weights, folder / SINGLE_FILE, metadata={"format": "pt"})
        return
    names = sorted(weights)
    size = math.ceil(len(names) / shards)
    file_of: dict[str, str] = {}
    for shard in range(shards):
        part = names[shard * size : (shard + 1) * size]
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
        file_of |= dict.fromkeys(part, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": file_of}
    (folder / INDEX_FILE).write_text(json.dumps(index, indent=1))


def _write_speech(
    folder: Path, flow: FlowConfig, vocoder: VocoderConfig, s3: S3Config, seed: int
) -> None:
    assets = folder / "assets" / "token2wav"
    voices = folder / "assets" / "voices"
    for path in (assets, voices):
        path.mkdir(parents=True, exist_ok=True)
    (assets / "flow.yaml").write_text(flow_yaml(flow))
    torch.save(_state(empty(lambda: Flow(flow)), seed, ""), assets / "flow.pt")
    torch.save(_unfold(_state(empty(lambda: Hift(vocoder)), seed)), assets / "hift.pt")
    if vocoder.causal:
        (assets / "config.yaml").write_text(vocoder_yaml(vocoder))
    tokenizer = _state(empty(lambda: S3Tokenizer(s3)), seed)
    name = assets / "speech_tokenizer_v2_25hz.safetensors"
    save_file({key: tensor.to(torch.bfloat16) for key, tensor in tokenizer.items()}, name)
    name.with_suffix(".json").write_text(s3_json(s3))
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, flow.vocab_size, (VOICE_CODES,), generator=generator)
    mel = torch.randn(2 * VOICE_CODES, flow.num_mels, generator=generator) - 4.0
    speaker = torch.randn(flow.speaker_dim, generator=generator)
    voice = VoiceFeatures(codes.tolist(), mel, speaker)
    (voices / "default.safetensors").write_bytes(voice.to_bytes())
    _write_recording(folder / "assets" / "default.wav")


def _unfold(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Store convolutions as the released file does: a gain and a direction."""
    stored: dict[str, Tensor] = {}
    for name, tensor in state.items():
        stem = name.removesuffix(".weight")
        if stem != name and tensor.ndim == 3 and set(stem.split(".")) & set(WEIGHT_NORMED):
            gain = tensor.flatten(1).norm(dim=1).view(-1, 1, 1)
            stored[f"{stem}.parametrizations.weight.original0"] = gain
            stored[f"{stem}.parametrizations.weight.original1"] = tensor
        else:
            stored[name] = tensor
    return stored


def _write_recording(path: Path) -> None:
    """A few seconds of a humming tone, 16 kHz, as the reference recording of the voice."""
    time = torch.arange(REFERENCE_SECONDS * 16_000) / 16_000
    hum = sum(torch.sin(2 * math.pi * 140 * k * time + k) / k for k in range(1, 6))
    assert isinstance(hum, Tensor)
    level = 0.1 * (1 + 0.5 * torch.sin(2 * math.pi * 3 * time))
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes((hum * level * 32_767).to(torch.int16).numpy().tobytes())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--device", default="cuda", help="of the full-size model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1, help="files of the tiny checkpoint")
    parser.add_argument("--original-vocoder", action="store_true")
    parser.add_argument("--to-disk", action="store_true", help="the full-size weights, too")
    options = parser.parse_args(arguments)
    if options.size == "full" and options.to_disk:
        size = write_full_size(options.folder, options.device, seed=options.seed)
        sys.stdout.write(f"{size / 1e9:.1f} GB in {options.folder}\n")
    elif options.size == "full":
        model = full_size_model(options.folder, options.device, seed=options.seed)
        networks = (model.llm, model.whisper, model.projector, model.vision, model.resampler)
        count = sum(p.numel() for network in networks for p in network.parameters())
        sys.stdout.write(f"{count / 1e9:.3f} billion parameters on {model.device}\n")
    else:
        causal = not options.original_vocoder
        write_checkpoint(options.folder, seed=options.seed, shards=options.shards, causal=causal)
        sys.stdout.write(f"{options.folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
