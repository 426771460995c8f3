"""Speech codes: counts per unit, turn ends, sampling rules, and rows that do not see each other."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from engine.gpu.kernels.talker_sampling import RECENT
from engine.gpu.kv.cache import NativeKV
from engine.gpu.layers.weight_norm import OLD, fold, fold_all
from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.models.config import TtsConfig
from engine.minicpmo.models.talker.sampling import RowSampling, SpeechSampling, choose, scores
from engine.minicpmo.models.talker.tts import SpeechDecoder
from engine.minicpmo.speech.talker import Talker, TalkerInput
from tests.golden.stage_codes import row_plan

CONFIG = TtsConfig(
    hidden_size=16,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=4,
    intermediate_size=24,
    max_position_embeddings=256,
    num_audio_tokens=50,
    num_text_tokens=40,
    num_vq=1,
    llm_dim=12,
    audio_bos_token_id=38,
    text_eos_token_id=39,
    normalize_projected_hidden=True,
)
GREEDY = SpeechSampling(greedy=True)


def make_decoder() -> SpeechDecoder:
    torch.manual_seed(3)
    decoder = SpeechDecoder(CONFIG)
    for part in decoder.modules():
        getattr(part, "finish_loading", lambda: None)()
    return decoder.eval().requires_grad_(False)


def speak(
    slot: int, seed: int, *, words: int = 4, ends: bool = False, **more: object
) -> TalkerInput:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(38, (words,), generator=generator)
    hidden = torch.randn(words, CONFIG.llm_dim, generator=generator)
    values: dict[str, object] = {"draws": Draws(seed), "ends": ends} | more
    return TalkerInput(slot, ids, hidden, **values)  # type: ignore[arg-type]


def test_a_unit_in_mid_turn_has_25_codes_and_never_the_end_code() -> None:
    codes = Talker(make_decoder(), 1)
    codes.duplex([speak(0, 1)])
    before = codes.kv.lengths[0]
    for seed in range(2, 6):
        [unit] = codes.duplex([speak(0, seed, words=seed)])
        assert len(unit) == 25
        assert max(unit) < CONFIG.num_audio_tokens - 1
        before += seed + 1 + 25
        assert codes.kv.lengths[0] == before


def test_the_end_code_ends_the_last_unit_and_the_turn() -> None:
    codes = Talker(make_decoder(), 1)
    codes.duplex([speak(0, 1)])
    [unit] = codes.duplex([speak(0, 2, ends=True, end_at=7)])
    assert len(unit) == 7
    assert codes.kv.lengths == [0]


def test_a_turn_after_an_interruption_begins_like_the_first() -> None:
    codes = Talker(make_decoder(), 1)
    first = codes.duplex([speak(0, 5, sampling=GREEDY)])
    codes.duplex([speak(0, 6)])
    codes.reset(0)
    assert codes.duplex([speak(0, 5, sampling=GREEDY)]) == first


def test_a_unit_without_words_speaks_on_the_begin_row_alone() -> None:
    codes = Talker(make_decoder(), 1)
    codes.duplex([speak(0, 1)])
    before = codes.kv.lengths[0]
    [unit] = codes.duplex([speak(0, 2, words=0)])
    assert codes.kv.lengths[0] == before + 1 + len(unit)


def test_rows_of_a_batch_equal_the_same_rows_alone() -> None:
    decoder = make_decoder()
    together, ends = Talker(decoder, 5), {3: 4, 1: 0}
    alone = [Talker(decoder, 1) for _ in range(5)]
    for unit in range(2):
        order = [2, 0, 4, 1, 3]
        plan = [
            speak(s, 10 * unit + s, words=(s * 7 + unit) % 9, end_at=ends.get(s)) for s in order
        ]
        got = together.duplex(plan)
        for item, row in zip(plan, got, strict=True):
            single = dataclasses.replace(item, slot=0, draws=Draws(10 * unit + item.slot))
            assert alone[item.slot].duplex([single]) == [row]


def test_a_group_ends_with_the_end_code_and_the_turn_goes_on() -> None:
    codes = Talker(make_decoder(), 1)
    [first] = codes.group([speak(0, 1, end_at=9, sampling=GREEDY)])
    assert len(first) == 9 and codes.kv.lengths == [4 + 1 + 9]
    [last] = codes.group([speak(0, 2, words=2, end_at=3, ends=True, sampling=GREEDY)])
    assert len(last) == 3 and codes.kv.lengths == [0]


def test_a_turn_longer_than_its_row_forgets_its_beginning() -> None:
    codes = Talker(make_decoder(), 1, max_len=80)
    for seed in range(8):
        [unit] = codes.duplex([speak(0, seed)])
        assert seed == 0 or len(unit) == 25
        assert 0 < codes.kv.lengths[0] <= 80


def rows_of(*settings: SpeechSampling) -> RowSampling:
    return RowSampling(
        torch.tensor([s.temperature for s in settings]),
        torch.tensor([s.repetition_penalty for s in settings]),
        torch.tensor([s.repetition_window for s in settings]),
        torch.tensor([s.top_p for s in settings]),
        torch.tensor([s.top_k or 1_000 for s in settings]),
        torch.tensor([s.greedy for s in settings]),
    )


def recent(*codes: int) -> torch.Tensor:
    return torch.tensor([[-1] * (RECENT - len(codes)) + list(codes)])


def test_the_penalty_compounds_and_ends_with_its_window() -> None:
    raw = torch.tensor([[2.0, -2.0, 1.0, 0.5]])
    rows = rows_of(SpeechSampling(temperature=0.5, repetition_penalty=1.5, repetition_window=3))
    may_end = torch.tensor([True])
    z = scores(raw, rows, recent(2, 0, 0, 1), may_end=may_end, is_cut=None, end_code=3)
    assert torch.allclose(z, torch.tensor([[4 / 1.5**2, -4 * 1.5, 2.0, 1.0]]))


def test_the_end_code_is_out_of_reach_until_it_is_allowed() -> None:
    held = torch.tensor([False])
    z = scores(torch.zeros(1, 4), rows_of(GREEDY), recent(), may_end=held, is_cut=None, end_code=3)
    assert z[0, 3] == -torch.inf and z[0, :3].isfinite().all()


def test_cuts_leave_three_candidates_and_spare_the_first_code() -> None:
    raw = torch.tensor([[9.0, 3.0, 2.0, 1.0, 0.0]]).expand(2, -1)
    settings = SpeechSampling(temperature=1.0, top_p=0.1, top_k=1)
    z = scores(
        raw,
        rows_of(settings, settings),
        recent().expand(2, -1),
        may_end=torch.tensor([True, True]),
        is_cut=torch.tensor([True, False]),
        end_code=4,
    )
    assert z.isfinite().sum(1).tolist() == [3, 5]


def test_a_draw_picks_by_the_distribution() -> None:
    z = torch.tensor([[0.1, 0.6, 0.3]]).log().expand(4, -1)
    draws = torch.tensor([0.05, 0.2, 0.69, 0.999], dtype=torch.float64)
    assert choose(z, torch.zeros(4, dtype=torch.bool), draws).tolist() == [0, 1, 1, 2]


def test_a_unit_in_parts_is_the_same_unit() -> None:
    decoder = make_decoder()
    whole, parts = Talker(decoder, 3), Talker(decoder, 3)
    for unit in range(3):
        batch = [speak(s, 10 * unit + s, end_at=11 if s == 1 else None) for s in range(3)]
        again = [dataclasses.replace(s, draws=Draws(s.draws.seed)) for s in batch]
        wanted = whole.duplex(batch)
        begun = parts.begin_unit(again)
        first, rest = begun.more(9), begun.more()
        assert [len(codes) for codes in first] == [min(9, len(w)) for w in wanted]
        assert [one + two for one, two in zip(first, rest, strict=True)] == wanted
        assert parts.kv.lengths == whole.kv.lengths
        assert [s.draws.count for s in again] == [s.draws.count for s in batch]


def test_padding_and_rows_that_ended_leave_other_slots_as_they_were() -> None:
    codes = Talker(make_decoder(), 6)
    codes.duplex([speak(s, s) for s in range(6)])
    before = [t[[0, 2, 4, 5], : codes.kv.max_len].clone() for t in codes.kv.keys]
    lengths = list(codes.kv.lengths)
    codes.duplex([speak(3, 7, ends=True, end_at=2), speak(1, 8)])
    for kept, now in zip(before, codes.kv.keys, strict=True):
        assert torch.equal(kept, now[[0, 2, 4, 5], : codes.kv.max_len])
    assert codes.kv.lengths == [lengths[0], lengths[1] + 5 + 25, lengths[2], 0, *lengths[4:]]


def test_the_cache_holds_what_was_kept_and_nothing_else() -> None:
    decoder = make_decoder()
    codes, item = Talker(decoder, 1), speak(0, 3, end_at=6)
    [unit] = codes.duplex([item])
    condition = decoder.condition(item.ids, item.hidden, normalize=True)
    feed = torch.cat([condition, decoder.embed_codes(torch.tensor(unit))])
    assert codes.kv.lengths == [len(feed)] and 0 < len(unit) <= 6
    kv = NativeKV(decoder.cache_spec(), 1)
    decoder(feed, kv, row_plan(kv, 0, len(feed)))
    for ours, wanted in zip(codes.kv.keys, kv.keys, strict=True):
        assert torch.allclose(ours[0, : len(feed)], wanted[0, : len(feed)], atol=1e-5)


def test_memory_of_a_slot_is_known_beforehand() -> None:
    decoder = make_decoder()
    kv = NativeKV(decoder.cache_spec(100), 3)
    assert sum(t.nbytes for t in (*kv.keys, *kv.values)) == 3 * NativeKV.bytes_per_slot(
        decoder.cache_spec(100)
    )


@pytest.mark.usefixtures("warmed_up")
def test_a_warmed_up_decoder_says_the_same() -> None:
    decoder = make_decoder()
    warm, cold = Talker(decoder, 3), Talker(decoder, 3)
    warm.warm_up(3, lambda line: None)
    for unit in range(2):
        batch = [speak(s, 5 * unit + s) for s in (2, 0)]
        again = [dataclasses.replace(s, draws=Draws(s.draws.seed)) for s in batch]
        assert warm.duplex(batch) == cold.duplex(again)


def test_projected_states_have_length_one_only_if_asked() -> None:
    decoder = make_decoder()
    item = speak(0, 1)
    plain = decoder.condition(item.ids, item.hidden, normalize=False)
    rows = decoder.condition(item.ids, item.hidden, normalize=True, text_ends=True)
    assert len(plain) == 5 and len(rows) == 6
    lengths = (rows[:4] - decoder.emb_text(item.ids)).norm(dim=1)
    assert torch.allclose(lengths, torch.ones(4), atol=1e-5)


def test_weight_norms_fold_under_old_and_new_names() -> None:
    gain, direction = torch.rand(3, 1), torch.randn(3, 4)
    folded = fold_all({"a" + OLD[0]: gain, "a" + OLD[1]: direction, "b.bias": gain})
    assert folded.keys() == {"a.weight", "b.bias"}
    assert torch.allclose(folded["a.weight"].norm(dim=1).float(), gain[:, 0])
    assert torch.equal(folded["a.weight"], fold(gain, direction))
