"""Scripts: those that ship can be played, and bad ones are refused by file, line and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.scripted.answer_book import AnswerBook
from engine.scripted.script import SHIPPED, ScriptError, load
from engine.scripted.toml_lines import line_of

GOOD = """title = "Test"

[[cue]]
at = 1
say = "One."

[[cue]]
at = 2.5
say = "Two."
"""


def refused(folder: Path, text: str) -> str:
    path = folder / "bad.toml"
    path.write_text(text)
    with pytest.raises(ScriptError) as error:
        load(str(path))
    return str(error.value).removeprefix(f"script {path}:")


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_every_script_that_ships_can_be_played(path: Path) -> None:
    script = load(path.stem)
    assert script == load(str(path)) and (script.cue or script.answer)


def test_the_default_ships() -> None:
    assert load("").title == load("conversation").title
    assert len(list(SHIPPED.glob("*.toml"))) >= 5


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("at = 2.5", 'at = "soon"', " line 8: cue[1].at: expected `float`, got `str`"),
        ("at = 2.5", "at = -1", " line 8: cue[1].at: expected `float` >= 0.0"),
        ("at = 2.5", "", " line 7: cue[1]: object missing required field `at`"),
        ('say = "Two."', 'sya = "Two."', " line 9: cue[1].sya: there is no such field"),
        ('title = "Test"', 'titel = "Test"', " line 1: titel: there is no such field"),
        ('say = "Two."', "", " line 7: cue[1]: does nothing"),
        (
            'say = "Two."',
            'heard = "Two."\ndecisions = "SL"',
            " line 10: cue[1].decisions: there is nothing to say",
        ),
        (
            'say = "One."',
            'say = "One."\ndecisions = "SXL"',
            " line 6: cue[0].decisions: expected `str` matching regex '^[SLsl]*$'",
        ),
        (
            'title = "Test"',
            "repeat_s = 2",
            " line 8: cue[1].at: never comes: the cues begin anew after 2 s",
        ),
        (
            'say = "Two."',
            'calls = [{ name = "" }]',
            " line 9: cue[1].calls[0].name: expected `str` of length >= 1",
        ),
        (
            'say = "Two."',
            '[[cue.calls]]\nname = "f"\n[[cue.calls]]\nname = 3',
            " line 12: cue[1].calls[1].name: expected `str`, got `int`",
        ),
        (
            'say = "Two."',
            'say = "Two."\n[context]\nlimit = 0',
            " line 11: context.limit: expected `int` >= 1",
        ),
        ('say = "Two."', "say = Two", " not TOML: Invalid value (at line 9, column 7)"),
    ],
)
def test_a_bad_script_is_refused_by_line_and_field(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert refused(tmp_path, GOOD.replace(old, new)).replace("`", "") == told.replace("`", "")


def test_a_script_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(ScriptError, match="script nowhere: no such file, nor one of .*tools"):
        load("nowhere")
    with pytest.raises(ScriptError, match="no such file"):
        load("../engine/scripted/scripts/tools")


def test_a_line_is_that_of_the_nearest_holder() -> None:
    text = (
        "a = 1\n[b]\nc = 2\n[[d]]\n[[d]]\ne = [\n  { f = 3 },\n]\n[[d.g]]\nh = 1\n[[d.g]]\nh = 2\n"
    )
    lines = {path: line_of(text, path) for path in ("a", "b.c", "d[1].e[0].f", "d[1].g[1].h")}
    assert lines == {"a": 1, "b.c": 3, "d[1].e[0].f": 6, "d[1].g[1].h": 12}
    assert line_of(text, "nowhere") is None


def test_answers_come_in_order_and_begin_anew(tmp_path: Path) -> None:
    path = tmp_path / "answers.toml"
    path.write_text(
        '[[answer]]\nsay = "a"\n[[answer]]\nto = "tool"\nwhen = "Rain"\nsay = "b"\n'
        '[[answer]]\nto = "speech"\nsay = "c"\n[[answer]]\nto = "aside"\nsay = "d"\n'
    )
    book = AnswerBook(load(str(path)))

    def say(*asked: str) -> str:
        answer = book.take(*asked)  # type: ignore[arg-type]
        return "" if answer is None else answer.say

    assert say("tool", "it will rain") == "a"
    assert say("tool", "it will rain") == "b"
    assert [say("speech"), say("aside"), say("text", "hello")] == ["c", "d", "a"]
    assert say("aside") == "d"
