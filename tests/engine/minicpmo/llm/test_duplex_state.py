"""The full-duplex automaton over a tiny model: the published control-flow vectors, forced listens,
interruptions, deferred unit ends, the context limit, and independence of the batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.ipc.protocol import Retention, sum_of
from engine.minicpmo.llm.batch import Replay
from engine.minicpmo.llm.context_window import ContextFull, Media, WindowSettings
from engine.minicpmo.llm.duplex_batch import DuplexBatch, UnitInput
from engine.minicpmo.llm.duplex_state import DuplexSettings, DuplexState
from engine.minicpmo.llm.duplex_unit import UnitPhase, UnitResult
from engine.minicpmo.llm.rows import Feed, LlmRows, Piece
from engine.minicpmo.llm.sampler import DuplexSampling
from tests.engine.minicpmo.llm_rig import (
    COMMA,
    HELLO,
    SPECIALS,
    WORLD,
    WordTokens,
    rows_of,
    tiny_llm,
    word_tokens,
)

NAMES = {name: place + 1 for place, name in enumerate(SPECIALS)}
SP, LI, TE, TB = (NAMES[name] for name in ("speak", "listen", "turn_eos", "tts_bos"))
CE, CT, UNIT, UNIT_END = (
    NAMES[name] for name in ("chunk_eos", "chunk_tts_eos", "unit_start", "unit_end")
)
A, B, C = HELLO, WORLD, COMMA
PREFIX, SUFFIX = [2, 50, 51], [3]
GREEDY = DuplexSettings(sampling=DuplexSampling(greedy=True), force_listen_count=0)
PARITY = replace(GREEDY, parity=True)


class Recording(LlmRows):
    """Remembers the ids fed to each slot; embeddings are None."""

    def __init__(self, slots: int, max_len: int) -> None:
        super().__init__(tiny_llm(), slots, max_len)
        self.fed: dict[int, list[int | None]] = {slot: [] for slot in range(slots)}

    def _run(self, feeds: Sequence[Feed], *, want_logits: bool) -> None:
        for feed in feeds:
            for piece in feed.pieces:
                rows = [None] * len(piece) if isinstance(piece, Tensor) else piece
                self.fed[feed.slot] += rows
        super()._run(feeds, want_logits=want_logits)

    def step(self, tokens: Mapping[int, int]) -> Tensor:
        for slot, token in tokens.items():
            self.fed[slot].append(token)
        return super().step(tokens)


class Stage:
    """Sessions whose decisions are scripted."""

    def __init__(
        self, settings: DuplexSettings = PARITY, slots: int = 1, limit: int = 1024
    ) -> None:
        self.rows = Recording(slots, limit)
        self.scripts: dict[int, list[int]] = {slot: [] for slot in range(slots)}
        self.duplex = DuplexBatch(self.rows, word_tokens(), Replay(observe=self._observe))
        for slot in range(slots):
            self.duplex.open(slot, DuplexState(word_tokens(), settings, slot, limit))
        self.duplex.prepare({slot: (PREFIX, rows_of(4, 90), SUFFIX) for slot in range(slots)})

    def _observe(self, slots: list[int], logits: Tensor) -> Tensor:
        logits = logits.clone()
        for index, slot in enumerate(slots):
            script = self.scripts[slot]
            token = script.pop(0) if len(script) > 1 else script[0]
            logits[index, token] = 10_000.0
        return logits

    def session(self, slot: int = 0) -> DuplexState:
        return self.duplex.sessions[slot]

    def unit(
        self, script: list[int], *, force: bool = False, defer: bool = False, slot: int = 0
    ) -> UnitResult:
        """One unit of sound; the script's last id repeats."""
        self.scripts[slot] = list(script)
        done = self.duplex.prefill([UnitInput(slot, rows_of(10, 7), force_listen=force)])
        while self.duplex.sessions[slot].needs_decision:
            done |= self.duplex.step()
        self.duplex.finalize([slot], defer=defer)
        return done[slot]


@dataclass(frozen=True)
class Vector:
    number: int
    script: list[int]
    is_listen: bool
    text: str
    end_of_turn: bool
    terminator: int
    unit_len: int
    turn_ended: bool
    tts: list[int]
    force: bool = False


VECTORS = [
    Vector(1, [LI], True, "", False, LI, 13, True, []),
    Vector(2, [SP, A, B, CE], False, "Hello world", False, CE, 16, False, [A, B]),
    Vector(3, [LI, A, CE], False, "Hello", False, CE, 15, False, [A]),
    Vector(4, [SP, A, TE, CE], False, "Hello", True, CE, 16, True, [A, TE]),
    Vector(5, [SP, A, TE, LI], True, "", False, LI, 16, True, []),
    Vector(6, [TE, LI], True, "", False, LI, 14, True, []),
    Vector(7, [SP, A, TE, A, CE], False, "HelloHello", False, CE, 17, False, [A, TE, A]),
    Vector(8, [TE, CT], False, "", True, CT, 14, True, []),
    Vector(9, [CE], False, "", False, CE, 13, True, []),
    Vector(10, [SP, C], False, "," * 18, False, CE, 32, False, [C] * 18),
    Vector(11, [SP, A], False, "Hello" * 5, False, CE, 19, False, [A] * 5),
    Vector(12, [SP, A, LI, CE], False, "Hello", False, CE, 16, False, [A, TB]),
    Vector(13, [LI], True, "", False, LI, 14, True, [], force=True),
    Vector(14, [SP, SP, A, CT], False, "Hello", False, CT, 16, False, [SP, A]),
]


@pytest.mark.parametrize("defer", [False, True])
def test_the_published_control_flow_vectors(defer: bool) -> None:
    stage = Stage()
    for vector in VECTORS:
        before = stage.session().length + len(stage.session().tail)
        result = stage.unit(vector.script, force=vector.force, defer=defer)
        session = stage.session()
        found = replace(
            vector,
            is_listen=result.is_listen,
            text=result.text,
            end_of_turn=result.end_of_turn,
            terminator=result.terminator,
            unit_len=session.length + len(session.tail) - before,
            turn_ended=not session.turn_open,
            tts=[spoken.id for spoken in result.spoken],
        )
        assert found == vector
        assert result.wants_speech is not result.is_listen


def test_what_is_fed_follows_the_unit_grammar() -> None:
    stage = Stage()
    stage.rows.fed[0] = []
    stage.unit([SP, A, LI, CE])
    stage.unit([SP, A], force=True)
    sound = [None] * 10
    assert stage.rows.fed[0] == [
        *[UNIT, *sound, SP, A, TB, CE, UNIT_END],
        *[UNIT, *sound, TE, LI, UNIT_END],
    ]


def test_pictures_come_before_sound_with_their_slices_marked() -> None:
    stage = Stage()
    stage.rows.fed[0] = []
    groups = [[rows_of(2, 1), rows_of(3, 2)], [rows_of(1, 3)]]
    stage.scripts[0] = [LI]
    stage.duplex.prefill([UnitInput(0, rows_of(2, 4), groups)])
    stage.duplex.step()
    tokens = WordTokens()
    image, image_end = tokens.id("image_start"), tokens.id("image_end")
    cut, cut_end = tokens.id("slice_start"), tokens.id("slice_end")
    assert stage.rows.fed[0] == [
        *[UNIT, image, None, None, image_end, cut, None, None, None, cut_end],
        *[image, None, image_end, None, None],
    ]


def test_a_unit_without_input_is_refused_and_changes_nothing() -> None:
    stage = Stage()
    before = stage.rows.length(0)
    with pytest.raises(ValueError, match="sound or a picture"):
        stage.duplex.prefill([UnitInput(0, None)])
    assert stage.rows.length(0) == before
    assert stage.unit([LI]).is_listen


def test_spoken_states_are_those_of_the_fed_tokens() -> None:
    stage = Stage()
    result = stage.unit([SP, A, B, CE])
    again = LlmRows(stage.rows.model, 1, 64)
    again.append([Feed(0, [PREFIX, rows_of(4, 90), SUFFIX, [UNIT], rows_of(10, 7), [SP]])])
    for spoken in result.spoken:
        state = again.feed([Feed(0, [[spoken.id]])])[0].hidden
        assert spoken.hidden is not None
        assert torch.allclose(spoken.hidden, state, atol=1e-5)


# ------------------------------------------------------------------ mended


def test_a_turn_that_ends_before_a_listen_is_said_to_its_end() -> None:
    stage = Stage(GREEDY)
    result = stage.unit([SP, A, TE, LI])
    assert (result.is_listen, result.text, result.end_of_turn) == (False, "Hello", True)
    assert [spoken.id for spoken in result.spoken] == [A, TE]
    assert result.is_turn_start and result.wants_speech
    assert stage.unit([SP, B, CE]).is_turn_start, "nothing leaks into the next turn"


def test_a_turn_end_as_first_token_lets_the_speech_under_way_finish() -> None:
    stage = Stage(GREEDY)
    stage.unit([SP, A, CE])
    result = stage.unit([TE, LI])
    assert (result.is_listen, result.end_of_turn, result.wants_speech) == (False, True, True)
    silent = stage.unit([TE, LI])
    assert (silent.is_listen, silent.end_of_turn, silent.wants_speech) == (True, False, False)


def test_no_speech_is_made_up_without_words_or_a_turn() -> None:
    stage = Stage(GREEDY)
    assert not stage.unit([CE]).wants_speech
    assert not stage.unit([SP, CE]).wants_speech
    assert stage.unit([SP, A, CE]).is_turn_start
    assert stage.unit([CE]).wants_speech, "speech under way goes on"


# ------------------------------------------------------------------ listening by force


def test_the_first_units_only_listen() -> None:
    stage = Stage(replace(GREEDY, force_listen_count=2))
    results = [stage.unit([SP, A, CE]) for _ in range(3)]
    assert [result.is_listen for result in results] == [True, True, False]
    assert stage.session().row.generated == [SP, A]


def test_a_forced_listen_closes_the_turn_and_cuts_the_speech() -> None:
    stage = Stage(GREEDY)
    stage.unit([SP, A, CE])
    result = stage.unit([SP, A, CE], force=True)
    assert result.is_listen and result.is_cut and not result.wants_speech
    assert not stage.session().turn_open
    assert stage.unit([SP, A, CE]).is_turn_start
    stage.unit([SP, TE, CE])
    assert not stage.unit([LI], force=True).is_cut, "nothing was open"


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_an_interruption_leaves_the_cache_as_if_the_turn_had_ended(steps: int) -> None:
    stage = Stage(GREEDY, slots=2)
    stage.rows.fed[0] = []
    stage.scripts = {0: [SP, A, B, C, CE], 1: [SP, A, B, C, CE]}
    stage.duplex.prefill([UnitInput(slot, rows_of(10, 7)) for slot in (0, 1)])
    for _ in range(steps):
        stage.duplex.step()
    result = stage.duplex.interrupt([0])[0]
    assert result.is_listen and not result.wants_speech and result.spoken == ()
    while stage.duplex.sessions[1].needs_decision:
        done = stage.duplex.step()
    assert done[1].text == "Hello world,"
    stage.duplex.finalize([0, 1], defer=False)
    ending = [TE, LI, UNIT_END] if steps else [LI, UNIT_END]
    assert stage.rows.fed[0] == [UNIT, *[None] * 10, *[SP, A, B][:steps], *ending]
    assert stage.duplex.interrupt([0]) == {}, "between units there is nothing to break off"

    fresh = LlmRows(stage.rows.model, 1, 128)
    pieces: list[Piece] = [
        PREFIX,
        rows_of(4, 90),
        SUFFIX,
        [UNIT],
        rows_of(10, 7),
        [*[SP, A, B][:steps], *ending],
    ]
    fresh.append([Feed(0, pieces)])
    assert fresh.length(0) == stage.rows.length(0)
    following: list[Piece] = [[UNIT], rows_of(10, 8)]
    expected = fresh.feed([Feed(0, following)])[0]
    stage.duplex.prefill([UnitInput(0, rows_of(10, 8))])
    assert torch.allclose(stage.duplex.newest(0).hidden, expected.hidden, atol=1e-5)
    assert stage.session(0).phase is UnitPhase.DECIDING


def test_preparing_again_forgets_everything_but_the_random_numbers() -> None:
    stage = Stage(GREEDY)
    stage.unit([SP, A, CE])
    stage.duplex.prepare({0: (PREFIX, None, SUFFIX)})
    session = stage.session()
    assert (session.length, session.turn_open, session.row.generated) == (4, False, [])
    assert stage.rows.length(0) == 4
    assert stage.unit([LI]).unit == 0


# ------------------------------------------------------------------ unit ends and windows


def test_a_deferred_unit_end_gives_the_same_states() -> None:
    now, later = Stage(GREEDY), Stage(GREEDY)
    for script in ([SP, A, CE], [SP, B, TE, CE], [LI]):
        results = [
            stage.unit(script, defer=defer) for stage, defer in ((now, False), (later, True))
        ]
        assert results[0].text == results[1].text
        for first, second in zip(results[0].spoken, results[1].spoken, strict=True):
            assert first.hidden is not None and second.hidden is not None
            assert torch.allclose(first.hidden, second.hidden, atol=1e-5)
    assert later.session().tail == [LI, UNIT_END]
    assert later.rows.length(0) + 2 == now.rows.length(0)


@pytest.mark.parametrize(
    "settings",
    [
        WindowSettings("basic", high=60, low=40),
        WindowSettings("context", max_units=2, max_previous=3),
    ],
)
def test_lengths_are_exact_after_every_slide(settings: WindowSettings) -> None:
    stage = Stage(replace(GREEDY, window=settings))
    window = stage.session().window
    for index in range(9):
        stage.unit([LI] if index % 3 == 2 else [SP, A, B, TE, CE], defer=True)
        if not stage.session().tail:
            assert stage.rows.length(0) == window.length
    stage.duplex.finalize([0], defer=False)
    assert stage.rows.length(0) == window.length
    assert window.dropped_entries > 0
    if settings.mode == "context":
        assert window.previous == [*window.marker_ids, B, A, B], "the newest spoken ids"


def test_the_limit_warns_then_slides_or_ends() -> None:
    sliding = Stage(replace(GREEDY, context_policy="slide"), limit=120)
    warnings = []
    for _ in range(12):
        result = sliding.unit([LI], defer=True)
        warnings += [result.warning] if result.warning else []
    assert warnings and warnings[0].used < warnings[0].limit == 120
    assert sliding.session().window.dropped_entries > 0
    ending = Stage(replace(GREEDY, context_policy="end"), limit=120)
    warned = False
    with pytest.raises(ContextFull):
        for _ in range(12):
            warned = ending.unit([LI]).warning is not None or warned
    assert warned
    before = ending.rows.length(0)
    with pytest.raises(ContextFull):
        ending.duplex.prefill([UnitInput(0, rows_of(10, 1))])
    assert ending.rows.length(0) == before


@pytest.mark.parametrize("is_ahead", [False, True])
def test_a_full_context_forgets_without_a_forward_of_its_own(is_ahead: bool) -> None:
    """What a unit leaves to be fed waits for the next one also where the oldest ones go."""
    stage = Stage(replace(GREEDY, context_policy="slide"), limit=160)
    appended, made = [], 0
    append = stage.rows.append

    def count(feeds: Any, **more: Any) -> None:
        appended.append(len(feeds))
        append(feeds, **more)

    stage.rows.append = count  # type: ignore[method-assign]
    for index in range(14):
        stage.unit([LI] if index % 3 == 2 else [SP, A, B, TE, CE], defer=True)
        made += is_ahead and stage.duplex.room_ahead(0)
        if is_ahead:
            assert stage.session().lacking([], rows_of(10, 7)) == 0
    assert appended == [1] * 14 and stage.session().window.dropped_entries > 0
    assert made > 1 or not is_ahead
    stage.duplex.finalize([0], defer=False)
    assert stage.rows.length(0) == stage.session().window.length


def test_a_full_context_keeps_as_much_as_the_retention_says() -> None:
    stage = Stage(replace(GREEDY, retention=Retention(0.5)), limit=160)
    window, kept = stage.session().window, 160
    for _ in range(14):
        before = window.length
        stage.unit([LI], defer=True)
        kept = min(kept, window.length) if window.length < before else kept
    assert stage.rows.length(0) <= 160
    share = (160 - window.protected) / 2
    assert share / 2 < kept - window.protected <= share + 14, "half, and the unit that came"


def test_a_retention_that_is_set_later_holds_from_the_next_unit_on() -> None:
    stage = Stage(GREEDY, limit=400)
    for _ in range(8):
        stage.unit([LI], defer=True)
    window = stage.session().window
    stage.session().configure(replace(GREEDY, retention=Retention(0.5, 60)))
    stage.unit([LI], defer=True)
    assert window.length <= window.protected + 30
    stage.session().configure(GREEDY)
    for _ in range(8):
        stage.unit([LI], defer=True)
    assert window.length > window.protected + 60
    stage.duplex.finalize([0], defer=False)
    assert stage.rows.length(0) == window.length


def test_what_is_told_between_units_reads_as_if_it_had_always_stood_there() -> None:
    told = [5, 33, 34, 6]
    first, then = Stage(GREEDY), Stage(GREEDY)
    for stage, is_later in ((first, False), (then, True)):
        suffix = [5, 6] if is_later else told
        stage.duplex.prepare({0: ([3, 4], rows_of(6, 1), suffix)})
        if is_later:
            stage.duplex.tell(0, told)
        stage.unit([LI])
    assert first.rows.length(0) == then.rows.length(0)
    states = [stage.duplex.newest(0).hidden for stage in (first, then)]
    assert torch.allclose(states[0], states[1], atol=1e-5)


@pytest.mark.parametrize("defer", [False, True])
def test_lengths_are_exact_whatever_is_told(defer: bool) -> None:
    stage = Stage(GREEDY, limit=160)
    window = stage.session().window
    for count in (4, 40, 2, 25, 70, 3, 30):
        stage.unit([SP, A, B, TE, CE], defer=defer)
        stage.duplex.tell(0, [33] * count)
        assert stage.rows.length(0) == stage.session().length <= 160
    assert window.protected == window.prefix_len + 30 and window.dropped_entries > 0


def test_a_session_that_must_not_forget_is_told_no_more_than_there_is_room_for() -> None:
    stage = Stage(replace(GREEDY, context_policy="end"), limit=120)
    stage.unit([LI])
    before = stage.rows.length(0)
    with pytest.raises(ContextFull):
        stage.duplex.tell(0, [33] * 80)
    assert stage.rows.length(0) == before == stage.session().length


@pytest.mark.parametrize("defer", [False, True])
def test_messages_stand_between_units_and_leave_the_cache_as_one(defer: bool) -> None:
    stage = Stage(GREEDY)
    session = stage.session()
    stage.unit([LI], defer=defer)
    fed = len(stage.rows.fed[0])
    before = session.length + len(session.tail)
    for _ in stage.duplex.read_slowly(0, [[A, B], rows_of(3, 8)], Media(audio=3), most=2):
        pass
    ends = [LI, UNIT_END] if defer else []
    assert stage.rows.fed[0][fed:] == [*ends, A, B, None, None, None]
    assert session.length == before + 5 and session.window.media.audio >= 3
    session.speak()
    assert not session.can_say
    made_from = stage.unit([LI, A, TE, CE], defer=defer).made_from
    assert sum_of(made_from) - (made_from.cached or 0) == 5 + 11 + 3, "what was read, and its unit"
    assert stage.rows.fed[0].count(SP) == 1 and session.can_say
    stage.unit([LI])
    entries = list(session.window.entries)
    assert [entry.length for entry in entries] == [13, 5, 16, 13]
    session.window.make_room(entries[0].length + 1)
    assert session.window.entries == entries[2:]


def test_messages_that_there_is_no_room_for_change_nothing() -> None:
    stage = Stage(replace(GREEDY, context_policy="end"), limit=100)
    stage.unit([LI])
    before = stage.session().length
    with pytest.raises(ContextFull):
        stage.duplex.make_room_to_read(0, 90)
    assert stage.session().length == before


def test_what_a_unit_is_made_from_is_told_by_kind() -> None:
    stage = Stage(GREEDY)
    window = stage.session().window
    stage.unit([LI])
    before, unit = window.length, stage.unit([SP, A, CE])
    made = unit.made_from
    assert (made.audio, made.image) == (window.voice + 2 * 10, 0)
    assert sum_of(made) == unit.kv_length
    assert made.cached == before, "all but this unit"
    later = stage.unit([A, TE, CE]).made_from
    assert later.cached == made.cached, "what the turn began with"


def test_a_session_that_must_not_forget_has_no_room_made_ahead() -> None:
    stage = Stage(replace(GREEDY, context_policy="end"), limit=120)
    with pytest.raises(ContextFull):
        for _ in range(12):
            stage.unit([LI], defer=True)
            assert not stage.duplex.room_ahead(0)
    assert stage.session().window.dropped_entries == 0


# ------------------------------------------------------------------ batches


def drive(slots: list[int], together: bool) -> dict[int, list[tuple[UnitResult, list[int]]]]:
    """Eight sampled sessions with settings of their own, five units each."""
    rows = LlmRows(tiny_llm(), 8, 400)
    duplex = DuplexBatch(rows, word_tokens())
    for slot in slots:
        sampling = DuplexSampling(temperature=0.6 + 0.1 * slot, top_k=5 + slot, greedy=slot == 4)
        window = WindowSettings("basic", high=70, low=40) if slot % 2 else WindowSettings()
        settings = DuplexSettings(
            sampling, force_listen_count=slot % 2, max_tokens=6 + slot, window=window
        )
        duplex.open(slot, DuplexState(word_tokens(), settings, seed=slot, max_context=400))
        duplex.prepare({slot: (PREFIX, rows_of(2 + slot, slot), SUFFIX)})
    found: dict[int, list[tuple[UnitResult, list[int]]]] = {slot: [] for slot in slots}
    for unit in range(5):
        groups = [slots] if together else [[slot] for slot in slots]
        for group in groups:
            inputs = [
                UnitInput(
                    slot,
                    rows_of(10, 100 * slot + unit),
                    [[rows_of(6, slot)]] if (slot + unit) % 3 == 0 else (),
                    force_listen=(slot + unit) % 4 == 3,
                )
                for slot in group
            ]
            done = duplex.prefill(inputs)
            while any(duplex.sessions[slot].needs_decision for slot in group):
                done |= duplex.step()
            duplex.finalize(group)
            for slot in group:
                found[slot].append((done[slot], list(duplex.sessions[slot].row.generated)))
    return found


def test_a_session_among_eight_equals_the_session_alone() -> None:
    together, alone = drive(list(range(8)), True), drive([0, 3, 5, 7], False)
    spoken = 0
    for slot in alone:
        for (ours, ids), (other, other_ids) in zip(together[slot], alone[slot], strict=True):
            assert ids == other_ids
            assert replace(ours, spoken=()) == replace(other, spoken=())
            for first, second in zip(ours.spoken, other.spoken, strict=True):
                assert first.id == second.id
                assert first.hidden is not None and second.hidden is not None
                assert torch.allclose(first.hidden, second.hidden, atol=1e-5)
                spoken += 1
    assert spoken > 20


@pytest.mark.parametrize(("images", "length"), [([], 11), ([1], 77), ([3], 209), ([1, 1], 143)])
def test_a_unit_has_the_released_lengths(images: list[int], length: int) -> None:
    state = DuplexState(word_tokens(), DuplexSettings(), 0, 1000)
    state.prepare([1], None, [2])
    pictures = [[rows_of(64, 0)] * count for count in images]
    assert sum(map(len, state.begin(pictures, rows_of(10, 0)))) == length
