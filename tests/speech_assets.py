"""Random speech output in the released layout: asset folders for tests, networks for benchmarks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engine.gpu.layers.weight_norm import NEW
from engine.minicpmo.models.code2wav import Code2WavModel
from engine.minicpmo.models.flow.config import FlowConfig
from engine.minicpmo.models.flow.flow import Flow
from engine.minicpmo.models.vocoder.config import VocoderConfig
from engine.minicpmo.models.vocoder.hift import Hift
from engine.minicpmo.models.vocoder.vocoder import Vocoder, make_noise
from engine.minicpmo.models.voice.preparation import CAMPPLUS_NAME, S3_NAME, VoiceFeatures
from engine.minicpmo.models.voice.s3tokenizer import S3Tokenizer
from tests.speech_configs import TINY_FLOW, TINY_S3, flow_yaml, s3_json, tiny_vocoder, vocoder_yaml

ModuleT = TypeVar("ModuleT", bound=nn.Module)

F0_HZ = 140.0
PLAIN = ("source_downs.", "m_source.", "classifier.", "alpha")
"""Vocoder weights that are stored without a weight norm."""


def random_flow(config: FlowConfig, seed: int = 0, device: torch.device | str = "cpu") -> Flow:
    """A flow with random weights, not yet prepared; float32."""
    return _seeded(seed, device, lambda: Flow(config))


def random_hift(config: VocoderConfig, seed: int = 0, device: torch.device | str = "cpu") -> Hift:
    """A vocoder with random weights and a voiced F0; float32."""
    hift = _seeded(seed, device, lambda: Hift(config))
    bias = hift.f0_predictor.classifier.bias
    with torch.no_grad():
        bias.fill_(F0_HZ)
    return hift


def random_token2wav(
    flow: FlowConfig,
    vocoder: VocoderConfig,
    *,
    steps: int = 5,
    seed: int = 0,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Code2WavModel:
    """The whole of token2wav with random weights, e.g. of `FlowConfig()` for benchmarks."""
    network = random_flow(flow, seed, device).to(dtype).prepare(steps)
    noise = make_noise(vocoder).to(device)
    body = dtype if dtype is torch.float16 else torch.float32
    return Code2WavModel(network, Vocoder(random_hift(vocoder, seed, device), noise, body))


def random_voice(seconds: float = 3.0, seed: int = 0) -> VoiceFeatures:
    """Features of no real voice."""
    generator = torch.Generator().manual_seed(seed)
    count = round(25 * seconds)
    codes: list[int] = torch.randint(6561, (count,), generator=generator).tolist()
    mel = torch.randn(2 * count, 80, generator=generator) - 4
    return VoiceFeatures(codes, mel, torch.randn(192, generator=generator))


def write_token2wav(
    folder: Path,
    *,
    flow: FlowConfig | None = None,
    vocoder: VocoderConfig | None = None,
    seed: int = 0,
    preparation: bool = True,
    voice: str = "default",
) -> None:
    """Write `assets/token2wav` as released, tiny unless told otherwise, and one prepared voice.

    `preparation`: also a tiny speech tokenizer and, where `onnx` is installed, a speaker network.
    """
    flow = flow or TINY_FLOW
    vocoder = vocoder or tiny_vocoder()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flow.yaml").write_text(flow_yaml(flow))
    torch.save(dict(random_flow(flow, seed).state_dict()), folder / "flow.pt")
    torch.save(released_state(random_hift(vocoder, seed)), folder / "hift.pt")
    if vocoder.causal:
        (folder / "config.yaml").write_text(vocoder_yaml(vocoder))
    if preparation:
        config = TINY_S3
        tokenizer = _seeded(seed, "cpu", lambda: S3Tokenizer(config))
        save_file(dict(tokenizer.state_dict()), folder / f"{S3_NAME}.safetensors")
        (folder / f"{S3_NAME}.json").write_text(s3_json(config))
        write_campplus(folder / CAMPPLUS_NAME)
    (folder / "voices").mkdir(exist_ok=True)
    (folder / "voices" / f"{voice}.safetensors").write_bytes(random_voice(3.0, seed).to_bytes())


def released_state(hift: Hift, names: tuple[str, str] = NEW) -> dict[str, Tensor]:
    """The vocoder's weights with weight norms, as they are published; float32."""
    state: dict[str, Tensor] = {}
    for name, tensor in hift.state_dict().items():
        value = tensor.detach().float().clone()
        if not name.endswith(".weight") or any(part in name for part in PLAIN):
            state[name] = value
            continue
        stem = name.removesuffix(".weight")
        state[stem + names[0]] = value.flatten(1).norm(dim=1).view(-1, 1, 1)
        state[stem + names[1]] = value
    return state


def write_campplus(path: Path) -> bool:
    """Write a linear stand-in for the speaker network; False where `onnx` is not installed."""
    try:
        import onnx
        from onnx import TensorProto, helper, numpy_helper
    except ImportError:
        return False
    weight = torch.randn(80, 192, generator=torch.Generator().manual_seed(1)).numpy()
    graph = helper.make_graph(
        [
            helper.make_node("Abs", ["feats"], ["size"]),
            helper.make_node("ReduceMean", ["size"], ["mean"], axes=[1], keepdims=0),
            helper.make_node("MatMul", ["mean", "weight"], ["embedding"]),
        ],
        "speaker",
        [helper.make_tensor_value_info("feats", TensorProto.FLOAT, [1, "frames", 80])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [1, 192])],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return True


def _seeded(seed: int, device: torch.device | str, build: Callable[[], ModuleT]) -> ModuleT:
    """Build on the device with a seed of its own and the caller's random state untouched."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(seed)
        module = build()
    module.requires_grad_(False)
    module.eval()
    return module
