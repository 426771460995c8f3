"""Sliding windows: what goes, exact lengths, and caches equal to ones computed directly."""

from __future__ import annotations

import pytest
import torch

from engine.ipc.protocol import Retention
from engine.minicpmo.llm.context_window import (
    ContextFull,
    ContextLimit,
    Cut,
    DuplexWindow,
    Entry,
    Marks,
    Rebuild,
    TurnWindow,
    WindowSettings,
)
from engine.minicpmo.llm.rows import Feed, LlmRows
from tests.engine.minicpmo.llm_rig import ids_of, rows_of, tiny_llm

SPECIAL = frozenset({9})


def window(settings: WindowSettings, lengths: list[int] | None = None) -> DuplexWindow:
    made = DuplexWindow(settings, 6, (1, 2), marker_ids=(7, 8), special_ids=SPECIAL)
    for length in lengths or []:
        made.register(Entry(length))
    return made


# ------------------------------------------------------------------ books


def test_off_never_moves() -> None:
    made = window(WindowSettings(), [5000])
    assert not made.is_due(5000)
    assert made.slide() is None


def test_basic_drops_the_oldest_units_down_to_the_low_mark() -> None:
    made = window(WindowSettings("basic", high=40, low=25), [10, 10, 10])
    assert made.slide() is None
    assert made.is_due(3) and not made.is_due(2)
    made.register(Entry(10))
    assert made.slide() == Cut(8, 30)
    assert (made.length, made.dropped_entries, made.dropped_tokens) == (18, 3, 30)


def test_basic_stops_when_no_unit_is_left() -> None:
    made = window(WindowSettings("basic", high=5, low=4), [10])
    assert made.slide() == Cut(8, 10)
    assert made.length == made.protected == 8


def test_context_remembers_what_was_spoken_without_special_ids() -> None:
    made = window(WindowSettings("context", max_units=1, max_previous=3))
    made.register(Entry(13))
    made.register(Entry(16, ids=(20, 21, 9), is_listen=False))
    assert made.slide() == Cut(8, 13), "a listen adds nothing"
    made.register(Entry(15, ids=(22, 23), is_listen=False))
    assert made.slide() == Rebuild(6, (7, 8, 20, 21, 1, 2), 24)
    made.register(Entry(13, ids=(30,), is_listen=True))
    assert made.slide() == Rebuild(6, (7, 8, 21, 22, 23, 1, 2), 27)
    assert made.protected == 13
    made.register(Entry(13))
    assert made.slide() == Cut(13, 13), "what was remembered stays as it is"
    assert made.length == 13 + 13


def test_room_is_made_in_any_mode_and_refused_where_nothing_is_left() -> None:
    made = window(WindowSettings(), [10, 10, 10])
    assert made.make_room(11) == Cut(8, 20)
    with pytest.raises(ContextFull, match="8 are protected"):
        made.make_room(11)
    assert made.length == 18


def test_turns_go_whole_and_the_last_stays() -> None:
    made = TurnWindow(high=50, low=30, protected=5, entries=[Entry(20), Entry(15), Entry(30)])
    assert made.slide() == Cut(5, 35)
    made.entries.append(Entry(40))
    assert made.slide() == Cut(5, 30)
    assert made.slide() is None
    with pytest.raises(ContextFull):
        made.make_room(1)


def test_retention_keeps_its_part_of_what_is_behind_the_instructions() -> None:
    made = window(WindowSettings("context", max_units=1), [10] * 9)
    made.retention, made.room = Retention(0.5), 100
    assert made.marks == Marks(100, 8 + 46)
    assert made.slide() is None
    made.register(Entry(10))
    assert made.slide() == Cut(8, 60)
    made.retention = Retention(0.25, 40)
    assert made.slide() is None and made.is_due(1)
    made.register(Entry(1))
    assert made.slide() == Cut(8, 40) and made.length == 8 + 1


def test_retention_of_turns_takes_the_place_of_their_marks() -> None:
    made = TurnWindow(high=5, low=3, protected=5, entries=[Entry(20), Entry(15), Entry(20)])
    made.retention, made.room = Retention(0.5), 60
    assert made.slide() is None
    assert made.make_room(1) == Cut(5, 35), "as much at once as the ratio says"
    made.retention = Retention(0.0, 10)
    assert made.slide() is None, "the last turn stays"
    made.entries.append(Entry(7))
    assert made.slide() == Cut(5, 20)


@pytest.mark.parametrize(
    "wrong", [{"mode": "half"}, {"low": 10, "high": 5}, {"max_units": 0}, {"max_previous": 0}]
)
def test_impossible_windows_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="window"):
        WindowSettings(**wrong)  # type: ignore[arg-type]


def test_the_limit_warns_once_per_threshold_and_again_after_shrinking() -> None:
    limit = ContextLimit(100, thresholds=(0.5, 0.9))
    assert [limit.check(used) is not None for used in (40, 50, 60, 95, 99)] == [
        False,
        True,
        False,
        True,
        False,
    ]
    assert limit.check(30) is None
    warning = limit.check(92)
    assert warning is not None and (warning.used, warning.limit) == (92, 100)


def test_the_limit_ends_or_says_what_is_lacking() -> None:
    assert ContextLimit(100).lacking(90, 15) == 5
    assert ContextLimit(100, "end").lacking(90, 10) == 0
    with pytest.raises(ContextFull, match="90 of 100"):
        ContextLimit(100, "end").lacking(90, 11)


# ------------------------------------------------------------------ caches


def test_a_cut_leaves_keys_as_if_computed_at_their_new_positions() -> None:
    model = tiny_llm()
    slid, direct = LlmRows(model, 2, 64), LlmRows(model, 2, 64)
    head, units = ids_of(6, 1), [ids_of(9, 2), ids_of(11, 3), ids_of(10, 4)]
    slid.append([Feed(1, [head, *units])])
    slid.apply(1, Cut(6, 20))
    direct.append([Feed(1, [head, units[2]])])
    assert slid.length(1) == direct.length(1) == 16
    # Keys and values of the first layer depend on the token and its position only.
    for ours, other in (
        (slid.kv.keys, direct.kv.keys),
        (slid.kv.values, direct.kv.values),
    ):
        assert torch.allclose(ours[0][1, :16], other[0][1, :16], atol=1e-5)


def test_a_rebuild_computes_the_past_behind_the_prefix_only() -> None:
    model = tiny_llm()
    slid, direct = LlmRows(model, 2, 64), LlmRows(model, 2, 64)
    head, suffix, unit, last = ids_of(6, 1), ids_of(2, 2), rows_of(15, 3), ids_of(10, 4)
    slid.append([Feed(0, [head, suffix, unit, last])])
    values = slid.kv.values[1][0, 23:33].clone()
    previous = ids_of(5, 5)
    slid.apply(0, Rebuild(6, (*previous, *suffix), 23))
    direct.append([Feed(0, [head, previous, suffix])])
    assert slid.length(0) == 23
    for layer in range(2):
        for ours, other in (
            (slid.kv.keys, direct.kv.keys),
            (slid.kv.values, direct.kv.values),
        ):
            assert torch.allclose(ours[layer][0, :13], other[layer][0, :13], atol=1e-5)
    assert torch.equal(slid.kv.values[1][0, 13:23], values)
    direct.append([Feed(0, [last])])
    assert torch.allclose(slid.kv.keys[0][0, :23], direct.kv.keys[0][0, :23], atol=1e-5)
