"""From codes to units of sound: the schedule, asset folders, slots that do not see each other."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch

from engine.gpu.graphs import GraphPool
from engine.gpu.weights import CheckpointError
from engine.minicpmo.models.code2wav import Code2WavModel, load_code2wav, read_pt
from engine.minicpmo.speech.code2wav import Code2Wav, Codes, to_pcm
from tests.speech_assets import random_token2wav, random_voice, write_token2wav
from tests.speech_configs import TINY_FLOW, shallow_vocoder, tiny_vocoder

GOLDEN = os.environ.get("OMNICALL_GOLDEN", "")


@pytest.fixture(scope="module", params=[True, False], ids=["causal", "original"])
def model(request: pytest.FixtureRequest) -> Code2WavModel:
    torch.set_num_threads(1)
    return random_token2wav(TINY_FLOW, shallow_vocoder(causal=request.param), steps=1)


def streams(model: Code2WavModel, slots: int, room: int = 160) -> Code2Wav:
    made = Code2Wav(model, slots, room)
    for slot in range(slots):
        made.set_voice(slot, model.base(random_voice(1.5 + 0.2 * (slot % 3), slot)))
    return made


def codes(count: int, seed: int = 0) -> list[int]:
    numbers: list[int] = torch.randint(
        6561, (count,), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    return numbers


def test_every_unit_of_a_turn_has_a_second_and_the_last_has_all_that_is_left(
    model: Code2WavModel,
) -> None:
    slot = streams(model, 1)
    lengths = []
    for count, ends in ((25, False), (25, False), (25, False), (25, False), (12, True)):
        lengths += [len(slot.unit([Codes(0, codes(count), ends)])[0])]
    assert lengths == [24_000] * 4 + [11_520 + 6_720]
    assert slot.waiting(0) == [4218] * 3


def test_a_short_first_unit_has_its_silence_in_front(model: Code2WavModel) -> None:
    slot = streams(model, 1)
    [wave] = slot.unit([Codes(0, codes(10))])
    assert len(wave) == 24_000
    assert not wave[: 14_400 + 3840].any() and wave[14_400 + 3840 :].any()


def test_too_few_codes_wait_while_silence_is_sent(model: Code2WavModel) -> None:
    slot = streams(model, 1)
    [wave] = slot.unit([Codes(0, codes(4))])
    assert len(wave) == 24_000 and not wave.any()
    assert slot.waiting(0) == [4218] * 3 + codes(4)


def test_a_reply_comes_in_whole_windows_and_a_rest(model: Code2WavModel) -> None:
    slot = streams(model, 1)
    lengths = [
        len(slot.group([Codes(0, codes(count), ends)])[0])
        for count, ends in ((31, False), (14, False), (9, True))
    ]
    assert lengths == [24_000, 0, 24_000 + 10_560]


def test_an_interrupted_turn_leaves_nothing_behind(model: Code2WavModel) -> None:
    used, fresh = streams(model, 1), streams(model, 1)
    used.unit([Codes(0, codes(25, 1))])
    used.unit([Codes(0, codes(25, 2))])
    used.reset(0)
    for seed in (3, 4):
        one, two = (s.unit([Codes(0, codes(25, seed))])[0] for s in (used, fresh))
        assert torch.equal(one, two)


def test_slots_of_a_batch_equal_the_same_slots_alone(model: Code2WavModel) -> None:
    together, alone = streams(model, 5), streams(model, 5, room=220)
    for unit in range(4):
        rows = [slot for slot in (3, 0, 1, 2, 4) if (slot + unit) % 4]
        batch = [
            Codes(s, codes(25 if (s + unit) % 3 else 7 + s, 10 * unit + s), (s + unit) % 5 == 4)
            for s in rows
        ]
        for item, wave in zip(batch, together.unit(batch), strict=True):
            [single] = alone.unit([item])
            assert wave.shape == single.shape
            # Mel differs in its last bits, and F0 carries them into the phase.
            assert torch.allclose(wave, single, atol=2e-4)
            assert together.waiting(item.slot) == alone.waiting(item.slot)


def parts(model: Code2WavModel, slots: int = 1) -> Code2Wav:
    made = Code2Wav(model, slots, 160, graphs=GraphPool("cpu"), first_codes=9)
    for slot in range(slots):
        made.set_voice(slot, model.base(random_voice(1.5 + 0.2 * slot, slot)))
    return made


def test_a_first_part_and_the_rest_are_a_whole_second(model: Code2WavModel) -> None:
    slot, own = parts(model), codes(25)
    [first] = slot.first_part([Codes(0, own[:9])])
    [rest] = slot.unit([Codes(0, own[9:])])
    assert len(first) == 8_640 and len(first) + len(rest) == 24_000
    assert first[3840:].any() and rest.any()
    assert [len(slot.unit([Codes(0, codes(n), n < 25)])[0]) for n in (25, 12)] == [24_000, 18_240]


def test_parts_are_one_stream_of_sound(model: Code2WavModel) -> None:
    """The same windows as a reply of the same codes: the seams are those of the vocoder."""
    slot, other, own = parts(model), streams(model, 1), codes(50)
    sound = [slot.first_part([Codes(0, own[:9])])[0], slot.unit([Codes(0, own[9:25])])[0]]
    sound += slot.unit([Codes(0, own[25:])])
    wanted = [other.unit([Codes(0, own[:9])])[0][24_000 - 8_640 :]]
    for cut in (own[9:25], own[25:]):
        wave = other.unit([Codes(0, cut)])[0]
        wanted.append(wave[-960 * len(cut) :])
    assert torch.allclose(torch.cat(sound), torch.cat(wanted), atol=2e-4)


def test_after_a_first_part_silence_comes_behind_a_short_rest(model: Code2WavModel) -> None:
    slot, own = parts(model), codes(15)
    slot.first_part([Codes(0, own[:9])])
    [rest] = slot.unit([Codes(0, own[9:])])
    assert len(rest) == 24_000 - 8_640
    assert rest[:5_760].any() and not rest[5_760:].any()


def test_a_first_part_is_forgotten_by_an_interruption(model: Code2WavModel) -> None:
    slot = parts(model)
    slot.first_part([Codes(0, codes(9))])
    slot.reset(0)
    assert len(slot.unit([Codes(0, codes(25))])[0]) == 24_000


def test_warm_streams_sound_as_plain_ones(model: Code2WavModel) -> None:
    plain, warm = streams(model, 3), parts(model, 3)
    for slot in range(3):
        warm.set_voice(slot, model.base(random_voice(1.5 + 0.2 * (slot % 3), slot)))
    warm.warm_up(3, lambda line: None)
    for unit, ends in enumerate((False, False, True)):
        batch = [Codes(s, codes(25, 10 * unit + s), ends and s == 1) for s in (2, 0, 1)]
        for one, two in zip(plain.unit(batch), warm.unit(batch), strict=True):
            assert one.shape == two.shape and torch.allclose(one, two, atol=2e-4)


def test_memory_of_a_slot_is_known_beforehand(model: Code2WavModel) -> None:
    made = Code2Wav(model, 3, 160)
    assert made.nbytes == 4 * model.bytes_per_slot(160)


def test_pcm_is_rounded_towards_zero_and_limited() -> None:
    wave = torch.tensor([0.99999, -0.99999, 2.0, -2.0, 0.0])
    one, two = to_pcm([wave[:2], wave[2:]])
    assert one.tolist() == [32766, -32766] and two.tolist() == [32767, -32767, 0]


@pytest.mark.parametrize("causal", [True, False])
def test_an_asset_folder_is_read_back(tmp_path: Path, causal: bool) -> None:
    write_token2wav(tmp_path, vocoder=tiny_vocoder(causal=causal), preparation=False)
    loaded = load_code2wav(tmp_path, steps=2)
    assert loaded.vocoder.config == tiny_vocoder(causal=causal)
    assert loaded.flow.config == TINY_FLOW
    slot = streams(loaded, 1)
    assert slot.unit([Codes(0, codes(25))])[0].isfinite().all()


def test_a_missing_asset_is_named(tmp_path: Path) -> None:
    write_token2wav(tmp_path)
    (tmp_path / "hift.pt").unlink()
    with pytest.raises(CheckpointError, match=r"hift\.pt"):
        load_code2wav(tmp_path)


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, ("evil",))


def test_code_in_a_weights_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Evil()}, "weights.pt")
    Path("plain.pt").write_bytes(pickle.dumps({"a": Evil()}))
    for name in ("weights.pt", "plain.pt"):
        with pytest.raises(CheckpointError, match=name):
            read_pt(Path(name))
    assert not Path("evil").exists()


@pytest.mark.skipif(not GOLDEN, reason="OMNICALL_GOLDEN names no golden set")
@pytest.mark.parametrize("batch", [1, 3])
def test_a_golden_set_is_reproduced(batch: int) -> None:
    from tests.golden.golden_set import GoldenSet
    from tests.golden.replay import replay

    report = replay(GoldenSet(GOLDEN), batch, ("codes", "wave"))
    assert not report.failed(), report.text()
