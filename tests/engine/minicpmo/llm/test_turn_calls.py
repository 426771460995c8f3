"""Calls within a reply: never said, bounded, whole or not at all, and kept by an interruption."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from engine.minicpmo.llm.turn_state import TurnState
from tests.engine.minicpmo.llm.test_turn_state import SETTINGS, TOKENS, Stage, opening
from tests.engine.minicpmo.llm_rig import HELLO, LETTER, WORLD

CALL, CALL_END = TOKENS.id("tool_call"), TOKENS.id("tool_call_end")
END, CLOSE, LINE = TOKENS.id("im_end"), TOKENS.id("tts_eos"), 38
CALLING = replace(SETTINGS, may_call=True)
WRITTEN = [CALL, HELLO, WORLD, CALL_END]


def test_a_call_has_no_ids_and_ends_what_is_said() -> None:
    stage = Stage()
    stage.user(5)
    said = [LETTER] * 12
    chunks = stage.reply([*said, *WRITTEN, LINE, *WRITTEN, END], CALLING)
    told = [(len(c.ids), c.text, c.call, c.ends_speech, c.is_last) for c in chunks]
    assert told == [
        (10, "a" * 10, "", False, False),
        (2, "aa", "", True, False),
        (0, "", "Hello world", False, False),
        (0, "", "Hello world", False, False),
        (0, "", "", False, True),
    ]
    assert stage.rows.length(0) == 5 + opening() + 12 + 4 + 1 + 4
    assert stage.session.has_called and stage.session.closing_ids == (END, LINE)


def test_the_next_message_closes_a_call_without_the_mark_of_speech() -> None:
    stage = Stage()
    stage.user(5)
    stage.reply([*WRITTEN, END], CALLING)
    length = stage.rows.length(0)
    stage.user(6)
    assert stage.rows.length(0) == length + 6
    assert stage.session.window.entries[-1].length == length + len((END, LINE))
    stage.reply([LETTER, END], CALLING)
    assert stage.session.closing_ids[0] == CLOSE


def test_behind_a_call_nothing_is_said() -> None:
    stage = Stage()
    stage.user(5)
    chunks = stage.reply([*WRITTEN, LINE, HELLO, HELLO], CALLING)
    assert [c.text for c in chunks] == ["", ""] and chunks[-1].is_last


def test_where_functions_may_not_be_called_the_reply_ends() -> None:
    stage = Stage()
    stage.user(5)
    chunks = stage.reply([HELLO, *WRITTEN], SETTINGS)
    assert [(c.text, c.call, c.is_last) for c in chunks] == [("Hello", "", True)]
    assert not stage.session.has_called and stage.rows.length(0) == 5 + opening() + 1


@pytest.mark.parametrize("end", [END, CLOSE])
def test_a_call_that_ends_with_the_reply_is_handed_out(end: int) -> None:
    stage = Stage()
    stage.user(5)
    chunks = stage.reply([CALL, HELLO, end], CALLING)
    assert [(c.call, c.is_last, c.by_limit) for c in chunks] == [("Hello", True, False)]


def test_calls_count_towards_the_limit() -> None:
    stage = Stage()
    stage.user(5)
    chunks = stage.reply([LETTER, CALL, *[HELLO] * 90], replace(CALLING, max_new_tokens=20))
    assert chunks[-1].is_last and chunks[-1].by_limit
    assert stage.rows.length(0) == 5 + opening() + 20
    again = stage.reply([LETTER, *WRITTEN * 30], replace(CALLING, max_new_tokens=20))
    assert again[-1].by_limit and sum(bool(c.call) for c in again) == 5


def test_a_call_that_must_be_made_is_open_from_the_start() -> None:
    stage = Stage()
    stage.user(5)
    settings = replace(CALLING, call_opening=(CALL, HELLO))
    chunks = stage.reply([WORLD, CALL_END, END], settings)
    assert [c.call for c in chunks] == ["Hello world", ""]
    # The mark of speech is missing, the opening of the call is there.
    assert stage.rows.length(0) == 5 + opening() - 1 + 2 + 2


def test_what_speech_never_holds_is_allowed_in_a_call() -> None:
    session = TurnState(Stage().session._tokens, 0, 200)
    forbidden = torch.zeros(4, dtype=torch.bool)
    session.open_reply(CALLING)
    assert session.sampling_row(forbidden).forbidden is forbidden
    session.decide(CALL)
    assert session.sampling_row(forbidden).forbidden is None
    session.fed(torch.zeros(1))
    session.decide(CALL_END)
    assert session.sampling_row(forbidden).forbidden is forbidden


def test_an_interruption_drops_half_a_call_and_keeps_a_whole_one() -> None:
    stage = Stage()
    stage.user(5)
    stage.scripts[0] = [LETTER, LETTER, CALL, *[HELLO] * 30]
    stage.turns.open_replies({0: CALLING})
    for _ in range(8):
        stage.turns.step()
    stage.turns.cancel(0, 1)
    assert stage.rows.length(0) == 5 + opening() + 1
    stage.user(5)
    begun = stage.rows.length(0)
    stage.reply([LETTER, LETTER, *WRITTEN, END], CALLING)
    whole = stage.rows.length(0)
    stage.turns.cancel(0, 1)
    assert stage.rows.length(0) == whole == begun + opening() + 2 + 4
