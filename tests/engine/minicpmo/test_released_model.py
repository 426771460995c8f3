"""What is publicly known of the released model and of the faults that others met with it.

Others of these faults have their tests where the part is: states by token and not by offset
(`llm/test_duplex_state.py`), the end of a turn as a spoken row (there, and `models/test_tts.py`),
the penalty over 16 codes (`models/test_tts.py`), a whole second of sound for each unit
(`models/test_code2wav.py`).
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from engine.config import MiniCpmoConfig
from engine.dsp.logmel import PIECE_SAMPLES, mel_frames
from engine.gpu.weights import empty
from engine.ipc import protocol as p
from engine.minicpmo.check.release import IDS, TENSORS, TEXTS, TOTAL_SIZE
from engine.minicpmo.check.words import check_words
from engine.minicpmo.checkpoint import load
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.tokenizer import OmniTokenizer
from engine.minicpmo.models.audio.whisper import AudioProjector
from engine.minicpmo.models.config import OmniConfig
from engine.minicpmo.models.config_reader import ConfigError
from engine.minicpmo.models.flow.config import FlowConfig
from engine.minicpmo.models.flow.flow import Flow
from engine.minicpmo.models.talker.tts import CodeHead, SpeechDecoder
from engine.minicpmo.models.vocoder.config import VocoderConfig
from engine.minicpmo.models.vocoder.hift import Hift
from engine.minicpmo.runner import hear_whole
from engine.minicpmo.speech import talker
from engine.minicpmo.speech.talker import Talker
from tests.engine.minicpmo.conftest import GROUP_CODES
from tests.engine.minicpmo.engine_rig import Talk, config
from tests.engine.minicpmo.models.test_tts import GREEDY, make_decoder, speak
from tests.recordings import packed, talk
from tests.speech_assets import write_campplus
from tests.tiny_checkpoint import _main_parts, _unfold, full_size_config, write_checkpoint

TOKENIZER = "OMNICALL_TOKENIZER"
"""A folder with the released tokenizer's files, which are not ours to ship."""


def read(folder: Path, **changes: Any) -> OmniConfig:
    (folder / "config.json").write_text(json.dumps(full_size_config() | changes))
    return OmniConfig.load(folder)


def bytes_of(module: nn.Module) -> int:
    return sum(2 * tensor.numel() for tensor in module.state_dict().values())


def test_every_part_has_the_released_tensors_and_their_bytes(tmp_path: Path) -> None:
    parts = _main_parts(read(tmp_path))
    unread = parts.pop("tts.projector_spk.")
    # An embedding of the speech decoder's Llama that nothing reads.
    extra = 32_000 * 768
    counts = {prefix: len(module.state_dict()) for prefix, module in parts.items()}
    counts["tts."] += len(unread.state_dict()) + 1
    assert counts == TENSORS
    total = sum(map(bytes_of, parts.values())) + bytes_of(unread) + 2 * extra
    assert total == TOTAL_SIZE


def test_speech_output_has_the_released_tensors() -> None:
    assert len(empty(lambda: Flow(FlowConfig())).state_dict()) == 605
    with torch.device("meta"):
        stored = _unfold(Hift(VocoderConfig(causal=False)).state_dict())
    assert len(stored) == 328


def test_keys_that_the_release_has_beside_ours_change_nothing(tmp_path: Path) -> None:
    plain = read(tmp_path)
    told = read(
        tmp_path,
        auto_map={"AutoModel": "modeling_minicpmo.MiniCPMO"},
        attention_dropout=0.0,
        batch_vision_input=True,
        chunk_input=True,
        init_audio=True,
        init_tts=True,
        init_vision=True,
        initializer_range=0.02,
        listen_speak_type="asr",
        max_window_layers=36,
        slice_mode=True,
        transformers_version="4.51.0",
        use_cache=True,
        vision_config=full_size_config()["vision_config"] | {"model_type": "siglip_vision_model"},
    )
    for part in ("llm", "vision", "resampler", "picture", "audio", "tts", "unit", "assumed"):
        assert getattr(plain, part) == getattr(told, part)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("", {"hidden_act": "gelu"}),
        ("", {"attention_bias": True}),
        ("", {"rope_scaling": {"type": "yarn", "factor": 4.0}}),
        ("", {"use_sliding_window": True}),
        ("vision_config", {"hidden_act": "gelu"}),
        ("vision_config", {"num_channels": 1}),
        ("audio_config", {"activation_function": "relu"}),
        ("audio_config", {"scale_embedding": True}),
        ("tts_config", {"projector_type": "linear"}),
        ("tts_config", {"backbone_model": "qwen"}),
        ("tts_config", {"interleaved": True}),
        ("tts_config", {"attention_type": "sliding_window"}),
        ("tts_config", {"condition_type": "text"}),
    ],
)
def test_a_value_that_is_not_the_released_one_is_refused_by_name(
    tmp_path: Path, part: str, change: dict[str, Any]
) -> None:
    whole = change if not part else {part: full_size_config()[part] | change}
    with pytest.raises(ConfigError, match=next(iter(change))):
        read(tmp_path, **whole)


def test_several_codes_at_once_are_refused(tmp_path: Path) -> None:
    changed = read(tmp_path, tts_config=full_size_config()["tts_config"] | {"num_vq": 4})
    with pytest.raises(ConfigError, match="num_vq = 4"):
        empty(lambda: SpeechDecoder(changed.tts))


@pytest.mark.parametrize(("pool", "rows"), [(5, [10, 50, 300]), (2, [25, 125, 750])])
def test_a_second_of_sound_has_ten_rows_because_the_file_says_so(
    tmp_path: Path, pool: int, rows: list[int]
) -> None:
    """Another server took a step of 2 for every checkpoint."""
    audio = read(tmp_path, audio_pool_step=pool).audio
    projector = empty(lambda: AudioProjector(audio, 4096))
    assert [projector.count(mel_frames(s * 16_000)) for s in (1, 5, 30)] == rows


def test_sounds_of_any_length_are_heard_beside_each_other(tiny_checkpoint: Path) -> None:
    """Beyond 30 s, and with ragged ends, others failed or gave every row the longest one's."""
    model = load(tiny_checkpoint, device="cpu", show=lambda line: None)
    generator = torch.Generator().manual_seed(4)
    sounds = [
        0.1 * torch.randn(count, generator=generator)
        for count in (PIECE_SAMPLES + 16_000 * 7 + 123, 16_000 * 3 + 4_800, 16_000)
    ]
    with torch.inference_mode():
        together = hear_whole(model, sounds, in_blocks=False)
        alone = [hear_whole(model, [sound], in_blocks=False)[0] for sound in sounds]
    assert [len(rows) for rows in together] == [len(rows) for rows in alone] == [370, 33, 10]
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_positions_of_a_turn_are_the_published_ones() -> None:
    """Units of 4, 5 and 3 condition rows with 25 codes each: what two frames a unit would move."""
    decoder = make_decoder()
    # A random decoder may draw the end code in a turn's first unit, which would be short.
    (head,) = decoder.head_code
    assert isinstance(head, CodeHead)
    head.weight[decoder.end_code] = 0
    codes, lengths = Talker(decoder, 1), []
    for unit, rows in enumerate((4, 5, 3)):
        codes.duplex([speak(0, unit, words=rows - 1, sampling=GREEDY)])
        lengths.append(codes.kv.lengths[0])
    assert lengths == [29, 59, 87]


async def test_a_folder_laid_out_as_the_release_starts_and_speaks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shards, a tokenizer.json, no config.yaml, no prepared voice, recordings and a film."""
    monkeypatch.setattr(talker, "MAX_GROUP_CODES", GROUP_CODES)
    folder = write_checkpoint(tmp_path, seed=4, shards=4, causal=False)
    OmniTokenizer(folder)._tokenizer.save(str(folder / "tokenizer.json"))
    assets = folder / "assets"
    if not write_campplus(assets / "token2wav" / "campplus.onnx"):
        pytest.skip("onnx is not installed")
    shutil.rmtree(assets / "voices")
    (assets / "default.wav").rename(assets / "Somebody_10s.wav")
    (assets / "HT_ref_audio.wav").write_bytes(packed(talk(3.2)))
    (assets / "demo.mp4").write_bytes(b"no sound that anybody reads")
    assert not (assets / "token2wav" / "config.yaml").exists()
    settings = MiniCpmoConfig(device="cpu", max_context=400, flow_steps=1, voice_seconds=3)
    engine = MiniCpmoEngine(str(folder), 1, settings)
    await engine.start(lambda text: None)
    assert engine.welcome(1).voices == ("HT_ref_audio",)
    sampling = p.Sampling(seed=7, greedy=True, max_output_tokens=3)
    caller = Talk(engine, "call", 0, config(mode="turn_based", sampling=sampling))
    caller.session.handle(p.ItemIn("call", "item", "user", (p.TextPart("hello"),)))
    caller.session.handle(p.CreateResponse("call"))
    await caller.until(p.ResponseDone)
    await caller.session.close()
    await engine.close()
    assert sum(len(message.pcm) for message in caller.all(p.AudioOut)) > 4800


async def test_without_a_voice_everybody_is_told(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """Elsewhere full duplex is then silent for ever, and only a log says why."""
    folder = Path(shutil.copytree(tiny_checkpoint, tmp_path / "mute"))
    shutil.rmtree(folder / "assets" / "voices")
    engine = MiniCpmoEngine(str(folder), 1, MiniCpmoConfig(device="cpu", max_context=400))
    told: list[str] = []
    await engine.start(told.append)
    welcome = engine.welcome(1)
    await engine.close()
    assert any("answers will be text only" in line for line in told)
    assert welcome.voices == () and not welcome.says_texts
    assert "answers in text" in welcome.description and "campplus" in welcome.voices_lack


@pytest.mark.skipif(not os.environ.get(TOKENIZER), reason=f"set {TOKENIZER} to its folder")
def test_texts_become_the_released_ids(tmp_path: Path) -> None:
    """With and without tokenizer.json: what `merges.txt` lacks is derived."""
    folder = Path(os.environ[TOKENIZER])
    found = read(tmp_path)
    section = check_words(folder, found)
    assert section.facts["wrong"] == 0, section.findings
    for name in ("tokenizer_config.json", "vocab.json", "merges.txt"):
        shutil.copy(folder / name, tmp_path / name)
    tokens = OmniTokenizer(tmp_path)
    assert {text: tokens.encode(text) for text in TEXTS} == TEXTS
    assert {text: tokens.id(text) for text in IDS} == IDS
