"""What the measurement of precision compares with: the same weights in a wider type."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from engine.gpu.weights import empty
from engine.minicpmo.models.audio.whisper import AudioProjector, WhisperEncoder
from engine.minicpmo.models.config import OmniConfig
from engine.minicpmo.models.llm.qwen3 import Qwen3
from engine.minicpmo.models.talker.tts import SpeechDecoder
from engine.minicpmo.models.vision.resampler import VisionResampler
from engine.minicpmo.models.vision.siglip import VisionTower
from tests.bench.errors import error
from tests.bench.widening import widen
from tests.random_weights import random_weights
from tests.tiny_checkpoint import tiny_config, write_small_files

NETWORKS: list[Callable[[OmniConfig], nn.Module]] = [
    lambda config: Qwen3(config.llm),
    lambda config: WhisperEncoder(config.audio),
    lambda config: AudioProjector(config.audio, config.llm.hidden_size),
    lambda config: VisionTower(config.vision),
    lambda config: VisionResampler(config.resampler),
    lambda config: SpeechDecoder(config.tts),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> OmniConfig:
    return write_small_files(tmp_path_factory.mktemp("config"), tiny_config)


@pytest.mark.parametrize("make", NETWORKS)
def test_widened_weights_keep_their_values(
    config: OmniConfig, make: Callable[[OmniConfig], nn.Module]
) -> None:
    network = empty(lambda: make(config))
    random_weights(network, 1, dtype=torch.bfloat16)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    widen(network)
    after = network.state_dict()
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name].float())
    for part in network.modules():
        for derived in (getattr(part, "packed", None), getattr(part, "axis", None)):
            tensors = derived if isinstance(derived, tuple) else (derived,)
            assert all(tensor is None or tensor.dtype == torch.float32 for tensor in tensors)


def test_an_error_is_relative_to_the_reference() -> None:
    ours = [torch.tensor([3.0, 5.0]), torch.tensor([1.0])]
    reference = [torch.tensor([3.0, 4.0]), torch.tensor([0.0])]
    told = error(ours, reference)
    assert told == {
        "relative_rms": pytest.approx((2 / 25) ** 0.5, rel=1e-3),
        "max_abs": 1.0,
        "reference_rms": pytest.approx((25 / 3) ** 0.5, rel=1e-3),
    }
    assert error([torch.tensor([torch.nan])], [torch.zeros(1)]) == {"is_finite": False}
