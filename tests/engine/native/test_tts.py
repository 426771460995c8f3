"""Speech codes: counts per unit, turn ends, sampling rules, and rows that do not see each other."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from engine.layers.weight_norm import OLD, fold, fold_all
from engine.models.config import TtsConfig
from engine.models.tts import SpeechDecoder
from engine.models.tts_sampling import Choice, SpeechSampling, choose, scores
from engine.sampling import Draws
from engine.speech_codes import Speak, SpeechCodes

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
    attention_type="full_attention",
    window_size=2,
    recomputed_chunks=1,
    sliding_window_size=30,
)
GREEDY = SpeechSampling(greedy=True)


def make_decoder(kind: str = "full_attention") -> SpeechDecoder:
    torch.manual_seed(3)
    decoder = SpeechDecoder(dataclasses.replace(CONFIG, attention_type=kind))
    decoder.head_code[0].finish_loading()  # type: ignore[operator]
    return decoder.eval().requires_grad_(False)


def speak(slot: int, seed: int, *, words: int = 4, ends: bool = False, **more: object) -> Speak:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(38, (words,), generator=generator)
    hidden = torch.randn(words, CONFIG.llm_dim, generator=generator)
    values: dict[str, object] = {"draws": Draws(seed), "ends": ends} | more
    return Speak(slot, ids, hidden, **values)  # type: ignore[arg-type]


def test_a_unit_in_mid_turn_has_25_codes_and_never_the_end_code() -> None:
    codes = SpeechCodes(make_decoder(), 1)
    codes.duplex([speak(0, 1)])
    before = codes.kv.lengths[0]
    for seed in range(2, 6):
        [unit] = codes.duplex([speak(0, seed, words=seed)])
        assert len(unit) == 25
        assert max(unit) < CONFIG.num_audio_tokens - 1
        before += seed + 1 + 25
        assert codes.kv.lengths[0] == before


def test_the_end_code_ends_the_last_unit_and_the_turn() -> None:
    codes = SpeechCodes(make_decoder(), 1)
    codes.duplex([speak(0, 1)])
    [unit] = codes.duplex([speak(0, 2, ends=True, end_at=7)])
    assert len(unit) == 7
    assert codes.kv.lengths == [0]


def test_a_turn_after_an_interruption_begins_like_the_first() -> None:
    codes = SpeechCodes(make_decoder(), 1)
    first = codes.duplex([speak(0, 5, sampling=GREEDY)])
    codes.duplex([speak(0, 6)])
    codes.reset(0)
    assert codes.duplex([speak(0, 5, sampling=GREEDY)]) == first


def test_a_unit_without_words_speaks_on_the_begin_row_alone() -> None:
    codes = SpeechCodes(make_decoder(), 1)
    codes.duplex([speak(0, 1)])
    before = codes.kv.lengths[0]
    [unit] = codes.duplex([speak(0, 2, words=0)])
    assert codes.kv.lengths[0] == before + 1 + len(unit)


def test_rows_of_a_batch_equal_the_same_rows_alone() -> None:
    decoder = make_decoder()
    together, ends = SpeechCodes(decoder, 8), {3: 4, 6: 0}
    alone = [SpeechCodes(decoder, 1) for _ in range(8)]
    for unit in range(3):
        order = [5, 0, 7, 2, 1, 3, 6, 4]
        plan = [
            speak(s, 10 * unit + s, words=(s * 7 + unit) % 9, end_at=ends.get(s)) for s in order
        ]
        got = together.duplex(plan)
        for item, row in zip(plan, got, strict=True):
            single = dataclasses.replace(item, slot=0, draws=Draws(10 * unit + item.slot))
            assert alone[item.slot].duplex([single]) == [row]


def test_a_group_ends_with_the_end_code_and_the_turn_goes_on() -> None:
    codes = SpeechCodes(make_decoder(), 1)
    [first] = codes.group([speak(0, 1, end_at=9, sampling=GREEDY)])
    assert len(first) == 9 and codes.kv.lengths == [4 + 1 + 9]
    [last] = codes.group([speak(0, 2, words=2, end_at=3, ends=True, sampling=GREEDY)])
    assert len(last) == 3 and codes.kv.lengths == [0]


@pytest.mark.parametrize("kind", ["sliding_window", "sliding_recompute", "reindex"])
def test_other_attention_types_bound_what_a_long_reply_keeps(kind: str) -> None:
    codes = SpeechCodes(make_decoder(kind), 1)
    for seed in range(5):
        codes.group([speak(0, seed, end_at=12)])
    longest = {"sliding_window": 30, "sliding_recompute": 34, "reindex": 51}[kind]
    assert codes.kv.lengths[0] <= longest


def test_a_turn_longer_than_its_row_forgets_its_beginning() -> None:
    codes = SpeechCodes(make_decoder(), 1, max_len=80)
    for seed in range(8):
        [unit] = codes.duplex([speak(0, seed)])
        assert seed == 0 or len(unit) == 25
        assert 0 < codes.kv.lengths[0] <= 80


def test_the_penalty_compounds_and_ends_with_its_window() -> None:
    raw = torch.tensor([[2.0, -2.0, 1.0, 0.5]])
    settings = SpeechSampling(temperature=0.5, repetition_penalty=1.5, repetition_window=3)
    z = scores(raw, [Choice(settings, [2, 0, 0, 1])], 3)
    assert torch.allclose(z, torch.tensor([[4 / 1.5**2, -4 * 1.5, 2.0, 1.0]]))


def test_the_end_code_is_out_of_reach_until_it_is_allowed() -> None:
    z = scores(torch.zeros(1, 4), [Choice(GREEDY, [], may_end=False)], 3)
    assert z[0, 3] == -torch.inf


def test_cuts_leave_three_candidates_and_spare_the_first_code() -> None:
    raw = torch.tensor([[9.0, 3.0, 2.0, 1.0, 0.0]]).expand(2, -1)
    settings = SpeechSampling(temperature=1.0, top_p=0.1, top_k=1)
    z = scores(raw, [Choice(settings, []), Choice(settings, [], is_first=True)], 4)
    assert z.isfinite().sum(1).tolist() == [3, 5]


def test_a_draw_picks_by_the_distribution() -> None:
    z = torch.tensor([[0.1, 0.6, 0.3]]).log().expand(4, -1)
    sampled = SpeechSampling(temperature=1.0)
    assert choose(z, [Choice(sampled, [])] * 4, [0.05, 0.2, 0.69, 0.999]) == [0, 1, 1, 2]


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
