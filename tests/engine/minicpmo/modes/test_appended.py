"""Words that a client appends in full duplex are said by the model as they are, a few a unit."""

from __future__ import annotations

from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.duplex_state import WORDS_A_UNIT
from tests.engine.minicpmo.engine_rig import Talk, scheduler_of
from tests.engine.minicpmo.turn_rig import begin

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
    append(talk, "x", "thought", "thinking")
    talk.session.handle(p.ForceListen(talk.name, True))
    for number in range(5):
        append(talk, "Hello", f"n{number}")
    await talk.units(1)
    refused = {r.request: r.code for r in talk.all(p.RequestRefused)}
    assert refused == {
        "long": "append_too_long",
        "thought": "append_unsupported",
        "n4": "overloaded",
    }
    talk.session.handle(
        p.UpdateSession(talk.name, p.SessionConfig(mode="turn_based", options=LISTENS))
    )
    await talk.until(p.RequestRefused, 7)
    append(talk, "x", "turn")
    await talk.until(p.RequestRefused, 8)
    codes = {r.request: r.code for r in talk.all(p.RequestRefused)}
    assert codes["n0"] == "context_restarted" and codes["turn"] == "append_unsupported"
    await talk.session.close()


async def test_it_says_that_commentary_is_taken(engine: MiniCpmoEngine) -> None:
    assert engine.welcome(2).appends == ("commentary",)
