"""What a client appends: words that the model says as they are, a few a unit; rules; knowledge."""

from __future__ import annotations

import pytest

from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.given_words import WORDS_A_UNIT
from engine.minicpmo.llm.prompts import DUPLEX_SYSTEM
from engine.minicpmo.modes.turn_reading import DEFAULT_SYSTEM
from tests.engine.minicpmo.engine_rig import Talk, scheduler_of
from tests.engine.minicpmo.turn_rig import Rows, begin, respond, write
from tests.waiting import until

TEXT = "Hello there, how are you doing today?"
LISTENS: dict[str, str | int | float | bool] = {"force_listen_count": 1_000}
"""By itself the model never speaks."""


def append(talk: Talk, text: str, request: str = "a", kind: p.ContextKind = "commentary") -> None:
    talk.session.handle(p.AppendContext(talk.name, kind, text, request))


async def test_commentary_is_said_word_by_word_and_then_it_listens(engine: MiniCpmoEngine) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    await talk.units(1)
    append(talk, TEXT)
    model = scheduler_of(engine).runner.model
    count = len(model.tokens.encode_literal(TEXT))
    said = -(-count // WORDS_A_UNIT)
    units = await talk.units(said + 3)
    decisions = [unit.decision for unit in units]
    # The turn's end comes with its last words, or by itself in the next unit.
    assert decisions[:said] == ["speak"] * said and decisions[-1] == "listen"
    done = await talk.until(p.ResponseDone)
    assert done.status == "completed" and talk.all(p.ResponseStarted)[0].trigger == "proactive"
    assert "".join(out.text for out in talk.all(p.TextOut)) == TEXT
    assert talk.all(p.AudioOut)[-1].last and sum(len(s.pcm) for s in talk.all(p.AudioOut)) > 0
    appended = await talk.until(p.ContextAppended)
    assert appended.request == "a" and 0 < appended.pts < appended.end_pts
    assert len(talk.all(p.ResponseStarted)) == 1 and not talk.all(p.RequestRefused)
    await talk.session.close()


async def test_one_waits_for_the_other(engine: MiniCpmoEngine) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    append(talk, "Hello", "first")
    append(talk, "there", "second")
    await talk.units(5)
    assert [a.request for a in talk.all(p.ContextAppended)] == ["first", "second"]
    texts = {m.epoch: m.text for m in talk.all(p.TextOut) if m.text}
    assert texts == {1: "Hello", 2: "there"}
    assert [began.says for began in talk.all(p.ResponseStarted)] == ["first", "second"]
    await talk.session.close()


async def test_a_cut_forgets_the_rest_and_says_so(engine: MiniCpmoEngine) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    append(talk, TEXT * 3)
    await talk.units(2)
    talk.session.handle(p.CancelResponse(talk.name, 1))
    await talk.units(3)
    refused = talk.all(p.RequestRefused)
    assert [(r.request, r.code) for r in refused] == [("a", "interrupted")]
    assert (await talk.until(p.ResponseDone)).status == "cancelled"
    assert [unit.decision for unit in talk.all(p.UnitDone)][-2:] == ["listen"] * 2
    append(talk, "Hello", "again")
    await talk.units(3)
    assert [a.request for a in talk.all(p.ContextAppended)] == ["again"]
    await talk.session.close()


async def test_what_cannot_be_appended_is_refused_by_name(engine: MiniCpmoEngine) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    append(talk, "word " * 1_000, "long")
    talk.session.handle(p.ForceListen(talk.name, True))
    for number in range(5):
        append(talk, "Hello", f"n{number}")
    await talk.units(1)
    refused = {r.request: r.code for r in talk.all(p.RequestRefused)}
    assert refused == {
        "long": "append_too_long",
        "n4": "overloaded",
    }
    talk.session.handle(
        p.UpdateSession(talk.name, p.SessionConfig(mode="turn_based", options=LISTENS))
    )
    await talk.until(p.RequestRefused, 6)
    codes = {r.request: r.code for r in talk.all(p.RequestRefused)}
    assert codes["n0"] == "context_restarted"
    await talk.session.close()


async def test_it_says_that_all_kinds_are_taken(engine: MiniCpmoEngine) -> None:
    assert engine.welcome(2).appends == ("instructions", "thinking", "commentary")


async def test_rules_and_knowledge_stand_in_the_system_message(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(engine, monkeypatch, rebuilds=True)
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    await talk.units(2)
    duplex = scheduler_of(engine).runner.duplex
    before = duplex.sessions[0].window.length
    rows.text = ""
    append(talk, "Never shout <|im_end|>.", "rule", "instructions")
    told = await talk.until(p.ContextAppended)
    assert told.request == "rule" and told.pts == told.end_pts == 2 * 16_000
    assert rows.text == "<|audio_end|>\nNever shout <|im_end|>.<|im_end|>"
    grown = duplex.sessions[0].window.length
    assert grown > before and duplex.rows.length(0) == duplex.sessions[0].length
    append(talk, "It rains.", "known", "thinking")
    await talk.until(p.ContextAppended, 2)
    await talk.units(3)
    assert "shout <|im_end|>.\nYou know this; say it only when it is wanted: It rains." in rows.text
    append(talk, "word " * 600, "much", "instructions")
    refused = await talk.until(p.RequestRefused)
    assert (refused.request, refused.code) == ("much", "append_too_long")
    await talk.session.close()


@pytest.mark.parametrize(
    ("mode", "own"), [("full_duplex", DUPLEX_SYSTEM), ("turn_based", DEFAULT_SYSTEM)]
)
async def test_an_appendix_stands_behind_the_models_own_instructions(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch, mode: p.Mode, own: str
) -> None:
    rows = Rows(engine, monkeypatch, rebuilds=True)
    talk = begin(engine, mode=mode, modalities=("text",), appendix="Hand over.")
    await until(lambda: f"<|im_start|>system\n{own}\n\nHand over." in rows.text)
    await talk.session.close()


async def test_turns_take_rules_and_knowledge_as_messages_of_the_system(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = Rows(engine, monkeypatch)
    talk = begin(engine)
    append(talk, "Be kind.", "rule", "instructions")
    append(talk, "It rains.", "known", "thinking")
    await talk.until(p.ContextAppended, 2)
    write(talk, "hello")
    respond(talk)
    await talk.until(p.ResponseDone)
    told = "Be kind.\nYou know this; say it only when it is wanted:\nIt rains."
    assert f"<|im_start|>system\n{told}<|im_end|>\n<|im_start|>user\nhello<|im_end|>" in rows.text
    await talk.session.close()


@pytest.mark.parametrize("modality", ["audio", "text"])
async def test_in_turns_a_text_is_said_word_for_word(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch, modality: p.Modality
) -> None:
    rows = Rows(engine, monkeypatch)
    assert engine.welcome(2).says_texts
    talk = begin(engine, modalities=(modality,))
    text = " ".join([TEXT] * 2) + " <|im_end|>"
    append(talk, text, "said")
    done = await talk.until(p.ResponseDone)
    assert done.status == "completed" and talk.all(p.ResponseStarted)[0].trigger == "proactive"
    assert (await talk.until(p.ContextAppended)).request == "said"
    assert "".join(out.text for out in talk.all(p.TextOut)) == text
    sound = sum(len(out.pcm) for out in talk.all(p.AudioOut)) // 2
    assert (sound > 0) == (modality == "audio")
    tokens = scheduler_of(engine).runner.model.tokens
    codes = -(-sound * 25 // 24_000)
    assert done.output_split == p.TokenSplit(text=len(tokens.encode_literal(text)), audio=codes)
    assert f"<|im_start|>user\nPlease read the text below.\n{text}<|im_end|>" in rows.text
    append(talk, "", "nothing")
    assert (await talk.until(p.RequestRefused)).code == "empty_message"
    await talk.session.close()
