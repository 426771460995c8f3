"""`omnicall check-model` on the tiny checkpoint and on damaged copies of it."""

from __future__ import annotations

import json
import shutil
import wave
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import run
from engine.config import MiniCpmoConfig
from engine.gpu.memory import GIB
from engine.minicpmo.check import files
from engine.minicpmo.check.command import main
from engine.minicpmo.check.fit import _model
from engine.minicpmo.check.release import TENSORS, TOTAL_SIZE, KnownFile
from engine.minicpmo.check.report import CheckReport, CheckSection
from engine.minicpmo.check.settings import RELEASED, check_settings
from engine.minicpmo.check.speaking import Wanted, check_speaking
from engine.minicpmo.check.voices import check_voices
from engine.minicpmo.models.config import OmniConfig
from engine.minicpmo.speech import talker
from tests.awq_checkpoint import write_awq
from tests.engine.minicpmo.conftest import GROUP_CODES
from tests.recordings import packed, talk
from tests.speech_assets import write_campplus
from tests.tiny_checkpoint import full_size_config, write_small_files


@pytest.fixture
def folder(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint that a test may damage."""
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "checked"))


def checked(folder: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, Any]:
    code = main([str(folder), "--json", *more])
    return code, json.loads(capsys.readouterr().out)["sections"]


def faults(sections: Any) -> list[str]:
    return [
        text
        for section in sections.values()
        for mark, text in section["findings"]
        if mark == "fault"
    ]


def test_a_whole_folder_has_no_fault_and_a_block_to_paste(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["check-model", str(tiny_checkpoint)]) == 0
    shown = capsys.readouterr().out
    assert "llm.*: all 25 tensors have their names and shapes" in shown
    assert "default: 2.0 s, the default" in shown
    block = shown[shown.index("paste this into your report") :]
    assert "omnicall" in block and "torch" in block and "verdict: no fault found" in block
    assert "[note] configuration: compared" in block and "a card of 24 GB" in block


def test_damage_is_found_without_loading_anything(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """All in one folder: a section does not end at its first fault, nor the check at a section."""
    path = folder / "model.safetensors"
    stored = load_file(path)
    del stored["apm.conv1.bias"]
    stored["llm.lm_head.weight"] = stored["llm.lm_head.weight"][:, :8].clone()
    stored["resampler.query"] = stored["resampler.query"].to(torch.int8)
    stored["tts.more"] = torch.zeros(1)
    save_file(stored, path)
    (folder / "assets" / "token2wav" / "hift.pt").write_bytes(b"no weights")
    (folder / "assets" / "voices" / "default.safetensors").write_bytes(b"no voice")
    (folder / "merges.txt").unlink()
    code, sections = checked(folder, capsys)
    told = "\n".join(faults(sections))
    assert code == 1
    for part in (
        "missing apm.conv1.bias",
        "llm.lm_head.weight: shape",
        "resampler.query: stored as I8, which needs a scale",
        "unexpected tts.more",
        "hift.pt is not a file of weights",
        "default.safetensors: This is not a prepared voice",
        "neither tokenizer.json nor vocab.json with merges.txt",
        "no voice: it would answer in text only",
    ):
        assert part in told, part
    assert list(sections) == ["files", "configuration", "weights", "tokenizer", "voices", "memory"]


def test_a_configuration_that_cannot_be_read_ends_the_check_there(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"sliding_window": 4096}))
    code, sections = checked(folder, capsys)
    assert code == 1 and list(sections) == ["files", "configuration"]
    assert "sliding_window = 4096 is not supported" in faults(sections)[0]


def test_a_folder_in_four_bits_is_checked_as_such(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    awq = write_awq(tiny_checkpoint, tmp_path / "awq")
    code, sections = checked(awq, capsys, "--assets", str(tiny_checkpoint), "--memory-gib", "12")
    assert code == 0 and list(sections["memory"]["weights_gib"]) == ["int4"]
    assert list(sections["memory"]["sessions"]) == ["12 GiB of a card"]
    assert "groups of 64" in str(sections["weights"]["findings"])
    code, sections = checked(awq, capsys)
    assert code == 1 and "it would answer in text only" in faults(sections)[0]


def test_a_download_that_is_not_complete_is_told(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": TOTAL_SIZE}, "weight_map": {"a": "model-1.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    code, sections = checked(folder, capsys)
    assert code == 1 and "missing model-1.safetensors" in faults(sections)[0]
    assert "the index's total is the released one" in str(sections["files"]["findings"])


def test_a_folder_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/no/such/folder"]) == 2
    assert "is not a folder" in capsys.readouterr().err


def test_published_files_are_known_by_size_and_hash(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "assets" / "token2wav" / "flow.pt"
    digest = files.sha256(path)
    known = KnownFile(path.stat().st_size, digest[:8], digest[-5:])
    monkeypatch.setattr(files, "FILES", {"assets/token2wav/flow.pt": known})
    assert "byte for byte" in files.check_files(folder, folder).findings[-1].text
    path.write_bytes(bytes(reversed(path.read_bytes())))
    told = files.check_files(folder, folder).findings[-1].text
    assert "not the published files: assets/token2wav/flow.pt (sha256" in told


def test_the_released_configuration_differs_in_nothing(tmp_path: Path) -> None:
    """Also what was published of it is what the tests' full-size model has."""
    (tmp_path / "config.json").write_text(json.dumps(full_size_config()))
    section = check_settings(OmniConfig.load(tmp_path), 10)
    assert section.facts["differing"] == 0 and section.facts["flow_steps"] == [10, 10]
    assert section.facts["compared"] > 45 and set(RELEASED) == {
        *("llm", "vision", "resampler", "picture", "audio", "tts")
    }
    other = check_settings(OmniConfig.load(tmp_path), 5)
    assert "as the published server; config.json says 10" in other.findings[-1].text


def test_sizes_of_the_released_model_are_counted_to_the_byte(tmp_path: Path) -> None:
    """The index's total, less five tensors that nothing reads, in bfloat16."""
    config = write_small_files(tmp_path, full_size_config)
    model = _model(tmp_path, config, 5)
    unread = 2 * (32_000 * 768 + 4096 * 768 + 768 + 768 * 768 + 768)
    assert model.weights("bf16") == TOTAL_SIZE - unread
    assert 7.8 < model.weights("int4") / GIB < 8.0
    assert 10.8 < model.weights("fp8") / GIB < 11.1
    assert sum(TENSORS.values()) == 1414


def test_voices_are_told_with_their_lengths_and_who_is_not_offered(folder: Path) -> None:
    assets = folder / "assets"
    if not write_campplus(assets / "token2wav" / "campplus.onnx"):
        pytest.skip("onnx is not installed")
    shutil.rmtree(assets / "voices")
    (assets / "HT_ref_audio.wav").write_bytes(packed(talk(4.0)))
    (assets / "system_ref_audio.wav").write_bytes(packed(talk(12.0)))
    (assets / "short_ref_audio.wav").write_bytes(packed(talk(1.0)))
    (assets / "Somebody.wav").write_bytes(packed(talk(5.0)))
    section, frames = check_voices(folder, MiniCpmoConfig(voice_seconds=6))
    told = "\n".join(finding.text for finding in section.findings)
    assert "HT_ref_audio: 4.0 s, the default" in told and "system_ref_audio: 6.0 s" in told
    assert "short_ref_audio.wav cannot be a voice: The recording has 1.0 s" in told
    assert section.facts["not_offered"] == ["Somebody", "default"] and frames == 300
    _, longer = check_voices(folder, MiniCpmoConfig(voice_seconds=6, voice="system_ref_audio"))
    assert longer == 600
    none, _ = check_voices(folder, MiniCpmoConfig(voice="nobody"))
    assert none.mark == "fault"
    assert any(one.text.startswith("there is no voice 'nobody'") for one in none.findings)
    path = assets / "Somebody.wav"
    named, _ = check_voices(folder, MiniCpmoConfig(voice=str(path)))
    assert named.facts["default"] == "Somebody"


async def test_it_speaks_and_says_how_long_that_took(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talker, "MAX_GROUP_CODES", GROUP_CODES)
    monkeypatch.setattr("engine.minicpmo.check.speaking.BENCH_UNITS", 2)
    settings = MiniCpmoConfig(device="cpu", max_context=600, flow_steps=1)
    wanted = Wanted(settings, tmp_path / "said.wav", answer_tokens=3, bench=True)
    section = await check_speaking(tiny_checkpoint, wanted, lambda text: None)
    assert section.mark != "fault", section.findings
    with wave.open(str(wanted.wav)) as said:
        assert said.getframerate() == 24_000 and said.getnframes() > 2400
    assert section.facts["written_tokens"] >= 3 and len(section.facts["unit_ms"]) == 2
    assert section.facts["spoken_ms"][0] <= section.facts["spoken_ms"][1]
    assert isinstance(section.facts["recognised"], str)


async def test_an_engine_that_does_not_start_is_a_fault(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    wanted = Wanted(MiniCpmoConfig(device="cpu"), folder / "said.wav")
    section = await check_speaking(folder, wanted, lambda text: None)
    assert section.mark == "fault" and "the engine does not start" in section.findings[0].text


def test_a_report_tells_its_worst() -> None:
    section = CheckSection("voices", facts={"offered": ["a", "b"], "gb": 1.5})
    section.ok("fine")
    section.note("to know")
    section.fault("broken:")
    section.table(["in detail"])
    report = CheckReport("tested", [section])
    assert CheckSection("nothing").mark == "ok" and section.mark == "fault"
    assert report.verdict.startswith("one fault")
    block = report.block()
    assert "[fault] voices: offered a/b, gb 1.5" in block and "!! broken:" in block
    assert "fine" not in block
