"""Half duplex and chat: chunk sizes, held-back tokens, whole characters, ends, windows, cuts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from engine.minicpmo.llm.batch import Replay
from engine.minicpmo.llm.context_window import ContextFull, ContextPolicy, TurnWindow
from engine.minicpmo.llm.reply import ReplyChunk, ReplySettings
from engine.minicpmo.llm.rows import Feed, LlmRows
from engine.minicpmo.llm.sampler import TurnSampling
from engine.minicpmo.llm.turn_batch import TurnBatch
from engine.minicpmo.llm.turn_state import TurnState
from tests.engine.minicpmo.llm_rig import (
    HALF,
    HELLO,
    LETTER,
    OTHER_HALF,
    WORLD,
    WordTokens,
    ids_of,
    rows_of,
    tiny_llm,
    word_tokens,
)

TOKENS = WordTokens()
END, CLOSE = TOKENS.id("im_end"), TOKENS.id("tts_eos")
SETTINGS = ReplySettings(TurnSampling(greedy=True), max_new_tokens=40)


class Stage:
    """One or more sessions whose decisions are scripted."""

    def __init__(
        self,
        slots: int = 1,
        limit: int = 512,
        window: TurnWindow | None = None,
        policy: ContextPolicy = "slide",
    ) -> None:
        self.scripts: dict[int, list[int]] = {}
        self.rows = LlmRows(tiny_llm(), slots, limit)
        self.turns = TurnBatch(self.rows, word_tokens(), Replay(observe=self._observe))
        for slot in range(slots):
            session = TurnState(word_tokens(), slot, limit, window=window, context_policy=policy)
            self.turns.open(slot, session)

    def _observe(self, slots: list[int], logits: Tensor) -> Tensor:
        logits = logits.clone()
        for index, slot in enumerate(slots):
            if self.scripts.get(slot):
                logits[index, self.scripts[slot].pop(0)] = 10_000.0
        return logits

    @property
    def session(self) -> TurnState:
        return self.turns.sessions[0]

    def user(self, count: int, seed: int = 1) -> None:
        """A user message of `count` rows behind what closes the reply before."""
        closing = list(self.session.closing_ids) if self.session.has_replied else []
        self.turns.add({0: [[*closing, *ids_of(count - len(closing), seed)]]})

    def reply(self, script: list[int], settings: ReplySettings = SETTINGS) -> list[ReplyChunk]:
        self.scripts[0] = list(script)
        self.turns.open_replies({0: settings})
        chunks: list[ReplyChunk] = []
        while self.session.needs_decision:
            chunks += self.turns.step().values()
        return chunks


def opening(settings: ReplySettings = SETTINGS) -> int:
    session = TurnState(word_tokens(), 0, 100)
    return len(session.open_reply(settings))


def test_chunks_are_eleven_then_ten_and_hold_their_last_token_back() -> None:
    stage = Stage()
    stage.user(5)
    script = [42 + n % 20 for n in range(24)]
    chunks = stage.reply([*script, END])
    assert [len(chunk.sampled) for chunk in chunks] == [11, 10, 3]
    assert [len(chunk.ids) for chunk in chunks] == [10, 10, 4]
    assert [token for chunk in chunks for token in chunk.ids] == script
    assert [chunk.is_last for chunk in chunks] == [False, False, True]
    assert stage.rows.length(0) == 5 + opening() + 24


def test_states_belong_to_the_fed_tokens() -> None:
    stage = Stage()
    stage.user(4)
    chunks = stage.reply([HELLO, WORLD, LETTER, END])
    direct = LlmRows(stage.rows.model, 1, 64)
    begun = TurnState(word_tokens(), 0, 100).open_reply(SETTINGS)
    direct.append([Feed(0, [ids_of(4, 1), begun])])
    for token, state in zip(chunks[0].ids, chunks[0].hidden, strict=True):
        expected = direct.feed([Feed(0, [[token]])])[0].hidden
        assert torch.allclose(state, expected, atol=1e-5)


def test_a_piece_never_ends_in_half_a_character() -> None:
    stage = Stage()
    stage.user(3)
    script = [LETTER] * 9 + [HALF, OTHER_HALF, LETTER]
    chunks = stage.reply([*script, END])
    assert [chunk.text for chunk in chunks] == ["a" * 9, "\N{CJK UNIFIED IDEOGRAPH-4F60}a"]
    broken = stage.reply([LETTER, HALF, END])
    assert [chunk.text for chunk in broken] == ["a\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize("terminator", TOKENS.half_duplex_terminators)
def test_an_end_as_first_token_is_an_empty_reply(terminator: int) -> None:
    stage = Stage()
    stage.user(3)
    chunks = stage.reply([terminator])
    assert [(chunk.ids, chunk.text, chunk.is_last) for chunk in chunks] == [((), "", True)]
    assert stage.rows.length(0) == 3 + opening(), "the end itself is never fed"


@pytest.mark.parametrize(("finish", "emitted"), [(True, 21), (False, 20)])
def test_the_limit_is_whole_chunks_and_loses_no_token(finish: bool, emitted: int) -> None:
    stage = Stage()
    stage.user(3)
    settings = replace(SETTINGS, max_new_tokens=12, finish_at_limit=finish)
    chunks = stage.reply([LETTER] * 40, settings)
    assert sum(len(chunk.sampled) for chunk in chunks) == 21
    assert sum(len(chunk.ids) for chunk in chunks) == emitted
    assert "".join(chunk.text for chunk in chunks) == "a" * emitted
    assert chunks[-1].is_last and chunks[-1].by_limit
    assert stage.rows.length(0) == 3 + opening() + emitted


def test_thinking_leaves_the_empty_thought_out() -> None:
    thinking = replace(SETTINGS, thinking=True)
    assert opening(thinking) < opening(SETTINGS)
    quiet = replace(SETTINGS, speech=False, tts_template=False)
    assert opening(quiet) == opening(SETTINGS) - 1


def test_forbidden_ids_count_for_spoken_replies_only() -> None:
    for speech, expected in ((True, False), (False, True)):
        stage = Stage()
        stage.user(3)
        chunks = stage.reply([41, END], replace(SETTINGS, speech=speech))
        assert (41 in chunks[0].sampled) is expected


def test_the_penalty_sees_this_chunk_and_the_window_of_earlier_ones() -> None:
    stage = Stage()
    stage.user(3)
    sampling = TurnSampling(greedy=True, repetition_window=4)
    stage.scripts[0] = list(range(42, 42 + 16))
    stage.turns.open_replies({0: replace(SETTINGS, sampling=sampling)})
    for _ in range(14):
        stage.turns.step()
    seen = stage.session.sampling_row(torch.zeros(64, dtype=torch.bool)).seen
    assert list(seen) == [49, 50, 51, 52, 53, 54, 55]


# ------------------------------------------------------------------ windows and limits


def test_the_oldest_whole_turn_goes_with_what_closed_it() -> None:
    stage = Stage(window=TurnWindow(high=70, low=60))
    stage.turns.add({0: [ids_of(7, 9)]}, protect=True)
    stage.user(10)
    stage.reply([LETTER] * 5 + [END])
    stage.user(20)
    first = 10 + opening() + 5 + len(stage.session.closing_ids)
    assert [entry.length for entry in stage.session.window.entries] == [first]
    stage.reply([LETTER] * 5 + [END])
    before = stage.rows.length(0)
    assert before <= 70
    stage.user(12)
    stage.reply([LETTER] * 5 + [END])
    stage.user(4)
    window = stage.session.window
    assert first not in [entry.length for entry in window.entries]
    kept = sum(entry.length for entry in window.entries)
    open_rows = stage.rows.length(0) - window.protected - kept
    assert (window.protected, open_rows) == (7, 4 - len(stage.session.closing_ids))


def test_room_is_made_before_anything_is_fed() -> None:
    stage = Stage(limit=120, window=TurnWindow(high=1000, low=900))
    settings = replace(SETTINGS, max_new_tokens=10)
    for seed in range(6):
        stage.user(20, seed)
        stage.reply([LETTER, END], settings)
    assert stage.rows.length(0) <= 120
    ending = Stage(limit=120, policy="end")
    ending.user(20)
    ending.reply([LETTER, END], settings)
    with pytest.raises(ContextFull):
        ending.user(110)
    assert ending.rows.length(0) == 20 + opening() + 1


def test_a_long_message_may_push_out_even_the_turn_before_it() -> None:
    stage = Stage(limit=120, window=TurnWindow(high=1000, low=900))
    settings = replace(SETTINGS, max_new_tokens=10)
    stage.turns.add({0: [ids_of(7, 9)]}, protect=True)
    for seed in range(4):
        stage.user(60, seed)
        stage.reply([LETTER, END], settings)
        window = stage.session.window
        assert stage.rows.length(0) == stage.session.length <= 120
        assert (window.protected, len(window.entries)) == (7, 0)


# ------------------------------------------------------------------ cancelling


def test_a_cancelled_reply_keeps_what_was_heard() -> None:
    stage = Stage()
    stage.user(5)
    stage.scripts[0] = [LETTER] * 30
    stage.turns.open_replies({0: SETTINGS})
    for _ in range(8):
        stage.turns.step()
    stage.turns.cancel(0, keep=3)
    assert not stage.session.needs_decision
    assert stage.rows.length(0) == 5 + opening() + 3
    assert stage.turns.step() == {}
    stage.user(9, seed=3)
    direct = LlmRows(stage.rows.model, 1, 64)
    begun = TurnState(word_tokens(), 0, 100).open_reply(SETTINGS)
    closing = list(stage.session.closing_ids)
    direct.append([Feed(0, [ids_of(5, 1), begun, [LETTER] * 3, closing, ids_of(6, 3)])])
    assert len(closing) == 3
    length = direct.length(0)
    assert length == stage.rows.length(0)
    ours, theirs = stage.rows.kv.keys[1][0, :length], direct.kv.keys[1][0, :length]
    assert torch.allclose(ours, theirs, atol=1e-5)


def direct_keys(stage: Stage, ids: list[int]) -> tuple[Tensor, Tensor]:
    """The first layer's keys, which depend on ids and positions only: of a cache, and of `ids`."""
    direct = LlmRows(stage.rows.model, 1, 128)
    direct.append([Feed(0, [ids])])
    assert stage.rows.length(0) == stage.session.length == len(ids)
    return stage.rows.kv.keys[0][0, : len(ids)], direct.kv.keys[0][0, : len(ids)]


@pytest.mark.parametrize("keep", [None, 2])
def test_what_holds_for_one_reply_is_gone_with_the_next_message(keep: int | None) -> None:
    stage = Stage()
    stage.turns.add({0: [ids_of(7, 9)]}, protect=True)
    stage.user(5)
    stage.turns.add({0: [[HELLO, WORLD, HELLO]]})
    stage.reply([LETTER, LETTER, LETTER, END], replace(SETTINGS, aside=3))
    begun = TurnState(word_tokens(), 0, 100).open_reply(SETTINGS)
    said = [*begun, *[LETTER] * 3]
    user = [*ids_of(7, 9), *ids_of(5, 1)]
    ours, theirs = direct_keys(stage, [*user, HELLO, WORLD, HELLO, *said])
    assert torch.allclose(ours, theirs, atol=1e-5)
    if keep is not None:
        stage.turns.cancel(0, keep=keep)
        said = said[: len(begun) + keep]
    stage.user(9, seed=3)
    closing = list(stage.session.closing_ids)
    ours, theirs = direct_keys(stage, [*user, *said, *closing, *ids_of(6, 3)])
    assert torch.allclose(ours, theirs, atol=1e-4)
    # The turn that goes is counted without it.
    [turn] = stage.session.window.entries
    assert turn.length == 5 + len(said) + len(closing)


# ------------------------------------------------------------------ batches


def converse(slots: list[int], together: bool) -> dict[int, list[ReplyChunk]]:
    """Sampled conversations of two turns with settings of their own."""
    turns = TurnBatch(LlmRows(tiny_llm(), 8, 300), word_tokens())
    found: dict[int, list[ReplyChunk]] = {slot: [] for slot in slots}
    for slot in slots:
        turns.open(slot, TurnState(word_tokens(), slot, 300))
    for turn in range(2):
        for group in [slots] if together else [[slot] for slot in slots]:
            turns.add({slot: [rows_of(3 + slot, slot + 10 * turn)] for slot in group})
            turns.open_replies(
                {
                    slot: ReplySettings(
                        TurnSampling(0.5 + 0.2 * slot, top_k=3 + slot, greedy=slot == 3),
                        max_new_tokens=10 + 4 * slot,
                        speech=slot % 2 == 0,
                    )
                    for slot in group
                }
            )
            while any(turns.sessions[slot].needs_decision for slot in group):
                for slot, chunk in turns.step(group).items():
                    found[slot].append(chunk)
    return found


def test_a_conversation_among_eight_equals_the_conversation_alone() -> None:
    together, alone = converse(list(range(8)), True), converse([0, 3, 7], False)
    for slot in alone:
        for ours, other in zip(together[slot], alone[slot], strict=True):
            assert replace(ours, hidden=()) == replace(other, hidden=())
            for first, second in zip(ours.hidden, other.hidden, strict=True):
                assert torch.allclose(first, second, atol=1e-5)
