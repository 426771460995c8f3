"""The language model: any split of a row into forwards gives the same, any batch too."""

from __future__ import annotations

import pytest
import torch

import engine.minicpmo.llm.rows
from engine.minicpmo.llm.rows import Fed, Feed, LlmRows
from engine.minicpmo.models.config import LlmConfig
from tests.engine.minicpmo.llm_rig import ids_of, llm_config, rows_of, tiny_llm, tiny_rows

TOLERANCE = 1e-5


def close(ours: Fed, other: Fed) -> bool:
    return torch.allclose(ours.hidden, other.hidden, atol=TOLERANCE) and torch.allclose(
        ours.logits, other.logits, atol=TOLERANCE * 10
    )


@pytest.mark.parametrize(
    "config", [llm_config(), llm_config(4, 1), llm_config(6, 6, 1), llm_config(tie=True)]
)
def test_equals_the_public_implementation(config: LlmConfig) -> None:
    transformers = pytest.importorskip("transformers")
    model = tiny_llm(config)
    theirs = transformers.Qwen3ForCausalLM(
        transformers.Qwen3Config(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            intermediate_size=config.intermediate_size,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.rms_norm_eps,
            rope_theta=config.rope_theta,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=config.tie_word_embeddings,
            use_sliding_window=False,
            sliding_window=None,
        )
    ).eval()
    theirs.load_state_dict(model.state_dict())
    ids = ids_of(20, 5)
    with torch.no_grad():
        expected = theirs(torch.tensor([ids])).logits[0, -1]
    fed = LlmRows(model, 1, 32).feed([Feed(0, [ids])])[0]
    assert torch.allclose(fed.logits, expected, atol=1e-4)


def test_one_forward_equals_token_by_token() -> None:
    ids, sound = ids_of(5, 1), rows_of(4, 2)
    whole = tiny_rows().feed([Feed(1, [ids, sound, ids])])[0]
    rows = tiny_rows()
    for token in ids:
        rows.feed([Feed(1, [[token]])])
    rows.append([Feed(1, [sound])])
    last = [rows.feed([Feed(1, [[token]])])[0] for token in ids][-1]
    assert rows.length(1) == 14
    assert close(whole, last)


def test_a_row_among_eight_ragged_ones_equals_the_row_alone() -> None:
    model = tiny_llm()
    together, alone = LlmRows(model, 8, 64), LlmRows(model, 8, 64)
    starts = [Feed(slot, [ids_of(1 + 3 * slot, slot)]) for slot in range(8)]
    nexts = [Feed(slot, [rows_of(1 + (5 * slot) % 7, slot)]) for slot in (6, 1, 7, 0, 2, 3, 5, 4)]
    for feeds in (starts, nexts):
        batched = together.feed(feeds)
        for feed, fed in zip(feeds, batched, strict=True):
            assert close(fed, alone.feed([feed])[0])


def test_a_step_of_some_slots_equals_feeds_and_leaves_other_rows_alone() -> None:
    model = tiny_llm()
    stepped, plain = LlmRows(model, 4, 32), LlmRows(model, 4, 32)
    for rows in (stepped, plain):
        rows.append([Feed(slot, [ids_of(3 + slot, slot)]) for slot in range(4)])
    before = stepped.kv.keys[1][1, :32].clone()
    states = stepped.step({2: 8, 0: 9})
    for state, (slot, token) in zip(states, ((2, 8), (0, 9)), strict=True):
        fed = plain.feed([Feed(slot, [[token]])])[0]
        assert close(Fed(state, stepped.newest([slot])[0].logits), fed)
    assert torch.equal(stepped.kv.keys[1][1, :32], before)
    assert stepped.kv.lengths == plain.kv.lengths
    again = [rows.feed([Feed(slot, [[5]]) for slot in range(4)]) for rows in (stepped, plain)]
    assert all(close(ours, other) for ours, other in zip(*again, strict=True))


def test_padded_plans_keep_nothing_of_their_padding_and_change_no_result() -> None:
    model = tiny_llm()
    padded, plain = LlmRows(model, 3, 32), LlmRows(model, 3, 32)
    for rows in (padded, plain):
        rows.append([Feed(slot, [ids_of(4 + slot, slot)]) for slot in range(3)])
    before = [tensor[:, :32].clone() for tensor in (*padded.kv.keys, *padded.kv.values)]
    plan = padded.kv.plan([2, 0], [3, 2], num_tokens=16, num_rows=5, max_query=8)
    x = torch.cat([padded.embed([Feed(2, [[5, 6, 7]]), Feed(0, [[8, 9]])]), torch.ones(11, 24)])
    padded._forward(x, plan.packed, want_logits=True, plan=plan)
    padded.kv.advance([2, 0], [3, 2])
    expected = plain.feed([Feed(2, [[5, 6, 7]]), Feed(0, [[8, 9]])])
    for slot, fed in zip((2, 0), expected, strict=True):
        assert close(padded.newest([slot])[0], fed)
    for now, old in zip((*padded.kv.keys, *padded.kv.values), before, strict=True):
        assert torch.equal(now[1, :32], old[1]) and torch.equal(now[0, 6:32], old[0, 6:])


def test_long_feeds_are_cut_into_several_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = [Feed(0, [ids_of(23, 1)]), Feed(2, [ids_of(4, 2)])]
    whole = tiny_rows().feed(feeds)
    monkeypatch.setattr(engine.minicpmo.llm.rows, "MAX_FORWARD_TOKENS", 10)
    parts = tiny_rows().feed(feeds)
    assert all(close(ours, other) for ours, other in zip(whole, parts, strict=True))


def test_a_feed_that_does_not_fit_changes_nothing() -> None:
    rows = tiny_rows(2, 8)
    rows.append([Feed(0, [ids_of(6, 1)])])
    with pytest.raises(OverflowError, match="slot 0"):
        rows.feed([Feed(1, [ids_of(2, 1)]), Feed(0, [ids_of(3, 1)])])
    assert rows.kv.lengths == [6, 0]


def test_embeddings_of_another_width_are_refused() -> None:
    with pytest.raises(AssertionError, match="width 24"):
        tiny_rows().feed([Feed(0, [rows_of(3, 1, width=20)])])


def test_cache_cannot_be_longer_than_the_model_was_made_for() -> None:
    with pytest.raises(ValueError, match="4096"):
        tiny_rows(1, 5000)
