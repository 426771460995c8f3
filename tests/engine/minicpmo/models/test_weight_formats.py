"""The tiny checkpoint in each format of its weights: bfloat16, 8 or 4 bits made of it, AWQ's."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from engine.config import MiniCpmoConfig, WeightsType
from engine.gpu.blocks.decoder import DecoderLayer
from engine.gpu.blocks.linear import FewBits, Format
from engine.gpu.kernels.fp8_weights import Fp8Weight
from engine.gpu.kernels.int4 import Int4Weight
from engine.gpu.weights import SINGLE_FILE, CheckpointError
from engine.ipc import protocol as p
from engine.minicpmo.checkpoint import OmniModel, load
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.rows import Feed, LlmRows
from engine.minicpmo.models.config_reader import ConfigError
from engine.minicpmo.speech import talker
from tests.awq_checkpoint import write_awq
from tests.engine.minicpmo.conftest import GROUP_CODES
from tests.engine.minicpmo.engine_rig import Talk, config

PROMPT = list(range(3, 40))
STEPS = 24
ERRORS = {"int4": (0.35, 0.5), "fp8": (0.15, 0.7)}
"""Relative, of the tiny random model's logits in each format: two layers, whose products are off by
a tenth and a thirtieth. And the least share of equal greedy choices: a random model's best
is hardly ahead of the next."""


def opened(folder: Path, weights: WeightsType = "auto", assets: Path | None = None) -> OmniModel:
    return load(folder, device="cpu", weights=weights, assets=assets, show=lambda line: None)


@pytest.fixture(scope="module")
def awq(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_awq(tiny_checkpoint, tmp_path_factory.mktemp("awq") / "folder")


@torch.inference_mode()
def logits(model: OmniModel, tokens: list[int]) -> Tensor:
    """After a prompt and after each of `tokens` [1 + N, V]."""
    rows = LlmRows(model.llm, 1, len(PROMPT) + len(tokens))
    rows.append([Feed(0, [PROMPT])], want_logits=True)
    found = [rows.logits[0].clone()]
    for token in tokens:
        rows.step({0: token})
        found.append(rows.logits[0].clone())
    return torch.stack(found)


def weights_of_layers(model: OmniModel) -> list[FewBits]:
    found: list[FewBits] = []
    for layer in model.llm.model.layers:
        assert isinstance(layer, DecoderLayer)
        for weight in (
            *(layer.self_attn.packed, layer.self_attn.out),
            *(layer.mlp.packed, layer.mlp.down),
        ):
            assert isinstance(weight, FewBits)
            found.append(weight)
    return found


def layer_weights(model: OmniModel) -> list[Int4Weight]:
    return [weight for weight in weights_of_layers(model) if isinstance(weight, Int4Weight)]


@pytest.mark.parametrize("form", get_args(Format))
def test_few_bits_choose_nearly_as_sixteen_do(tiny_checkpoint: Path, form: Format) -> None:
    tokens = torch.randint(300, (STEPS,), generator=torch.Generator().manual_seed(1)).tolist()
    wide = logits(opened(tiny_checkpoint), tokens)
    narrow = logits(opened(tiny_checkpoint, form), tokens)
    error = float((narrow - wide).norm() / wide.norm())
    equal = float((narrow.argmax(-1) == wide.argmax(-1)).float().mean())
    most, least_equal = ERRORS[form]
    assert 0.01 < error < most and equal > least_equal, (error, equal)


@pytest.mark.parametrize("form", get_args(Format))
def test_layers_keep_nothing_in_sixteen_bits_but_norms(tiny_checkpoint: Path, form: Format) -> None:
    model = opened(tiny_checkpoint, form)
    kind = {"int4": Int4Weight, "fp8": Fp8Weight}[form]
    assert [type(weight) for weight in weights_of_layers(model)] == 8 * [kind]
    left = [name for name, _ in model.llm.named_parameters() if "layers" in name]
    assert left and all(name.endswith("norm.weight") for name in left)
    assert model.llm.lm_head.weight.dtype is torch.float32, "the CPU's format, as it was"


def test_a_folder_of_awq_has_the_values_that_it_was_made_of(
    tiny_checkpoint: Path, awq: Path
) -> None:
    """Its scales are float16, whose values here bfloat16 has as well."""
    read = opened(awq, assets=tiny_checkpoint)
    stored = load_file(tiny_checkpoint / SINGLE_FILE)
    (packed, out, *_) = layer_weights(read)
    stem = "llm.model.layers.0.self_attn."
    given = torch.cat([stored[f"{stem}{name}_proj.weight"].float() for name in "qkv"])
    for ours, theirs in ((packed, given), (out, stored[f"{stem}o_proj.weight"].float())):
        error = (ours.widened(torch.float32) - theirs).norm() / theirs.norm()
        assert ours.group == 64 and float(error) < 0.1
    made = opened(tiny_checkpoint, "int4")
    # Both are in groups of 64.
    assert torch.equal(layer_weights(made)[1].cells, out.cells)
    assert torch.equal(layer_weights(made)[3].cells, layer_weights(read)[3].cells)


def test_speech_comes_from_a_second_folder(tiny_checkpoint: Path, awq: Path) -> None:
    assert opened(awq).code2wav is None
    speaking = opened(awq, assets=tiny_checkpoint)
    assert speaking.code2wav is not None and speaking.voices.names() == ["default"]
    assert speaking.recordings()


@pytest.mark.parametrize(
    ("leaf", "named"),
    [
        ("qzeros", r"qzeros is \[1, 8\]"),
        ("scales", "scales is"),
        ("qweight", "no tensor .*o_proj.qweight"),
    ],
)
def test_a_damaged_folder_of_awq_is_named(awq: Path, tmp_path: Path, leaf: str, named: str) -> None:
    stored = load_file(awq / SINGLE_FILE)
    name = f"llm.model.layers.1.self_attn.o_proj.{leaf}"
    if leaf == "qweight":
        del stored[name]
    else:
        stored[name] = stored[name][:, :8].clone()
    for path in awq.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    for name_of in ("merges.txt",):
        (tmp_path / name_of).write_bytes((awq / name_of).read_bytes())
    save_file(stored, tmp_path / SINGLE_FILE)
    with pytest.raises(CheckpointError, match=named):
        opened(tmp_path)


def test_a_folder_in_four_bits_is_not_made_eight(awq: Path) -> None:
    with pytest.raises(ConfigError, match="has 4 bits already"):
        opened(awq, "fp8")


def test_eight_bits_need_a_gpu_that_multiplies_them(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    with pytest.raises(ConfigError, match=r"of compute capability 8.9 or more, this one has 8.6"):
        load(tiny_checkpoint, device="cuda", weights="fp8", show=lambda line: None)


def test_a_layer_too_many_is_named(tiny_checkpoint: Path, tmp_path: Path) -> None:
    for path in tiny_checkpoint.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    stored = load_file(tmp_path / SINGLE_FILE)
    extra = "llm.model.layers.2.input_layernorm.weight"
    stored[extra] = stored["llm.model.layers.1.input_layernorm.weight"].clone()
    save_file(stored, tmp_path / SINGLE_FILE)
    with pytest.raises(CheckpointError, match=f"unexpected {extra}"):
        opened(tmp_path, "int4")


@pytest.mark.parametrize("kind", ["fp8", "awq"])
async def test_an_engine_in_few_bits_answers_aloud(
    tiny_checkpoint: Path,
    awq: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: Literal["fp8", "awq"],
) -> None:
    monkeypatch.setattr(talker, "MAX_GROUP_CODES", GROUP_CODES)
    settings = MiniCpmoConfig(
        device="cpu",
        max_context=400,
        flow_steps=1,
        weights_dtype="auto" if kind == "awq" else "fp8",
        assets=str(tiny_checkpoint) if kind == "awq" else "",
    )
    engine = MiniCpmoEngine(str(awq if kind == "awq" else tiny_checkpoint), 1, settings)
    await engine.start(lambda text: None)
    sampling = p.Sampling(seed=7, greedy=True, max_output_tokens=4)
    talk = Talk(engine, "call", 0, config(mode="turn_based", sampling=sampling))
    talk.session.handle(p.ItemIn("call", "item", "user", (p.TextPart("hello"),)))
    talk.session.handle(p.CreateResponse("call"))
    done = await talk.until(p.ResponseDone)
    await talk.session.close()
    await engine.close()
    assert done.status in ("completed", "incomplete") and talk.all(p.AudioOut)
