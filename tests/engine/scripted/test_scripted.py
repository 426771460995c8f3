"""The scripted engine: what a script says comes in time, paced, cut and told as a model's would."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from engine.ipc import protocol as p
from engine.scripted.engine import ScriptedEngine
from tests.engine.builtin.rig import SESSION, Caller, hiss, say, settle

UNIT = 16_000
QUIET = bytes(2 * UNIT)
TOOLS = (p.FunctionTool("look"), p.FunctionTool("find"))
TURNS = p.SessionConfig(mode="turn_based")

Open = Callable[..., Coroutine[Any, Any, Caller]]


@pytest.fixture
async def opened(tmp_path: Path) -> AsyncIterator[Open]:
    """Open a session of an engine that plays `script`, in tones unless it says otherwise."""
    ends: list[Any] = []

    async def open_session(script: str, config: p.SessionConfig | None = None) -> Caller:
        path = tmp_path / "script.toml"
        path.write_text(script if "sound =" in script else f'sound = "tones"\n{script}')
        engine = ScriptedEngine(str(path), 2)
        await engine.start(lambda text: None)
        caller = Caller()
        session = engine.open(SESSION, 0, config or p.SessionConfig(), caller.receive)
        caller.connect(session)
        ends.extend([session.close, engine.close])
        return caller

    yield open_session
    for end in ends:
        await end()


def units(caller: Caller) -> str:
    return "".join(unit.decision[0].upper() for unit in caller.all(p.UnitDone))


def text(caller: Caller, epoch: int = 1) -> str:
    return "".join(out.text for out in caller.all(p.TextOut) if out.epoch == epoch)


def sound(caller: Caller, epoch: int = 1) -> int:
    return sum(len(out.pcm) // 2 for out in caller.all(p.AudioOut) if out.epoch == epoch)


def ask(caller: Caller, words: str = "", **asked: Any) -> None:
    if words:
        caller.session.handle(p.ItemIn(SESSION, "i", "user", (p.TextPart(words),)))
    caller.session.handle(p.CreateResponse(SESSION, **asked))


# ---------------------------------------------------------------- full duplex


async def test_words_come_at_their_second_unit_by_unit(opened: Open) -> None:
    caller = await opened('[[cue]]\nat = 1.5\nsay = "one two three four five six seven"')
    await caller.hear(QUIET)
    assert units(caller) == "L"
    await caller.hear(QUIET * 5)
    # Seven tones of 300 ms are three units' sound; the cue is due in the second unit.
    assert units(caller) == "LSSSLL"
    assert text(caller) == "one two three four five six seven"
    assert sound(caller) == 7 * 7_200
    starts = [out.pts for out in caller.all(p.TextOut)]
    assert starts == [0, 24_000, 48_000]
    assert caller.all(p.ResponseStarted)[0].trigger == "proactive"
    assert caller.all(p.ResponseDone)[0].status == "completed"
    assert caller.all(p.AudioOut)[-1].last and caller.all(p.TextOut)[-1].last


async def test_decisions_are_those_of_the_script(opened: Open) -> None:
    caller = await opened(
        '[[cue]]\nat = 0\ndecisions = "SLLS"\nsay = "one two three four five six seven"'
    )
    await caller.hear(QUIET * 7)
    assert units(caller) == "SLLSSLL"
    assert len(caller.all(p.ResponseDone)) == 1 and sound(caller) == 7 * 7_200


async def test_units_of_half_a_second(opened: Open) -> None:
    caller = await opened('unit_ms = 500\n[[cue]]\nat = 0.6\nsay = "one two three"')
    await caller.hear(QUIET * 2)
    assert units(caller) == "LSSL"


async def test_cues_begin_anew(opened: Open) -> None:
    caller = await opened('repeat_s = 3\n[[cue]]\nat = 1\nsay = "one"')
    await caller.hear(QUIET * 8)
    assert units(caller) == "SLLSLLSL"


async def test_the_sound_is_never_too_far_ahead_of_what_was_heard(opened: Open) -> None:
    words = " ".join(["word"] * 40)
    caller = await opened(f'[[answer]]\nsay = "{words}"', TURNS)
    ask(caller)
    await settle()
    limit = p.MAX_AHEAD_MS * p.OUTPUT_HZ // 1000
    assert limit // 2 < sound(caller) <= limit and not caller.all(p.ResponseDone)
    caller.heard(1, 48_000, final=False)
    assert sound(caller) > limit // 2 + 48_000 - 12_000
    for heard in range(72_000, 40 * 7_200 + 24_000, 24_000):
        caller.heard(1, heard, final=False)
    assert sound(caller) == 40 * 7_200 and caller.all(p.ResponseDone)[0].status == "completed"


async def test_a_voice_interrupts_and_the_rest_is_not_said(opened: Open) -> None:
    words = " ".join(["word"] * 40)
    caller = await opened(
        f'[[cue]]\nat = 0\nsay = "{words}"\n[[cue]]\nat = 9\nsay = "later"\n'
        '[[answer]]\nto = "speech"\nheard = "Stop it."\nsay = "Yes?"'
    )
    await caller.hear(hiss(2_000))
    await caller.hear(say("what_time") + hiss(1_000))
    assert caller.all(p.Interrupt)[0].epoch == 1
    done = caller.all(p.ResponseDone)[0]
    assert done.output_split == p.TokenSplit(text=done.output_tokens)
    assert msgspec.structs.replace(done, output_split=p.TokenSplit()) == p.ResponseDone(
        SESSION, 1, "cancelled", "turn_detected", 0, done.output_tokens
    )
    assert caller.all(p.InputTranscript)[0].text == "Stop it."
    second = caller.all(p.ResponseStarted)[1]
    assert (second.epoch, second.trigger, second.utterance) == (2, "speech", 1)
    assert text(caller, 2) == "Yes?"
    await caller.hear(hiss(8_000))
    assert text(caller, 3) == "later"


async def test_a_voice_changes_nothing_where_the_session_says_so(opened: Open) -> None:
    config = p.SessionConfig(turn_detection=p.TurnDetection(interrupt_response=False))
    words = " ".join(["word"] * 20)
    caller = await opened(f'[[cue]]\nat = 0\nsay = "{words}"', config)
    caller.listens = True
    await caller.hear(hiss(2_000) + say("stop") + hiss(5_000))
    assert not caller.all(p.Interrupt) and caller.all(p.SpeechStarted)
    assert caller.all(p.ResponseDone)[0].status == "completed"


async def test_what_was_heard_is_told_word_by_word(opened: Open) -> None:
    caller = await opened('[[cue]]\nat = 1\nheard = "good day to you"\nheard_s = 2')
    await caller.hear(QUIET * 4)
    assert caller.all(p.SpeechStarted) == [p.SpeechStarted(SESSION, 1, 16_000)]
    assert caller.all(p.SpeechStopped) == [p.SpeechStopped(SESSION, 1, 48_000)]
    told = [(said.text, said.final) for said in caller.all(p.InputTranscript)]
    assert told == [
        ("good", False),
        ("good day", False),
        ("good day to", False),
        ("good day to you", True),
    ]


async def test_nothing_is_transcribed_where_the_session_says_so(opened: Open) -> None:
    caller = await opened(
        '[[cue]]\nat = 0\nheard = "good day"\nheard_s = 1', p.SessionConfig(transcribe=False)
    )
    await caller.hear(QUIET * 2)
    assert caller.all(p.SpeechStopped) and not caller.all(p.InputTranscript)


async def test_while_forced_to_listen_it_says_nothing(opened: Open) -> None:
    caller = await opened(
        '[[cue]]\nat = 0\nsay = "one two three four five six seven"\n[[cue]]\nat = 2\nsay = "x"'
    )
    await caller.hear(QUIET)
    caller.session.handle(p.ForceListen(SESSION, True))
    assert caller.all(p.Interrupt)[0].epoch == 1
    await caller.hear(QUIET * 3)
    ask(caller, request="r")
    assert units(caller) == "SLLL"
    assert caller.all(p.RequestRefused)[0].code == "listening_only"


async def test_context_fills_up_warns_and_slides_or_ends(opened: Open) -> None:
    script = "[context]\nlimit = 100\nstart = 70\nper_unit = 5\n[[cue]]\nat = 90\nkv_tokens = 9"
    caller = await opened(script)
    await caller.hear(QUIET * 7)
    assert [unit.kv_tokens for unit in caller.all(p.UnitDone)] == [75, 80, 85, 90, 95, 100, 55]
    warned = [warning.used for warning in caller.all(p.SessionWarning)]
    assert warned == [80, 90, 95]
    ending = await opened(script, p.SessionConfig(context_policy="end"))
    await ending.hear(QUIET * 7)
    assert ending.all(p.SessionEnded)[0].reason == "context_limit"
    assert ending.all(p.SessionWarning)[0].message.endswith("the call will end")


async def test_warnings_delegations_and_figures_come_at_their_second(opened: Open) -> None:
    caller = await opened(
        '[[cue]]\nat = 1\nwarn = { code = "careful", message = "Mind it." }\n'
        '[[cue]]\nat = 1.2\ndelegate = "task"\nkv_tokens = 4000'
    )
    await caller.hear(QUIET * 2)
    assert caller.all(p.SessionWarning)[0].code == "careful"
    assert caller.all(p.DelegationCreated)[0].delegation == "task"
    assert caller.all(p.UnitDone)[1].kv_tokens == 4_015


async def test_commentary_is_spoken_and_the_rest_only_noted(opened: Open) -> None:
    caller = await opened('[[cue]]\nat = 0\ndelegate = "task"')
    await caller.hear(QUIET[: UNIT // 2])
    for kind in ("thinking", "instructions", "commentary"):
        message = p.AppendContext(SESSION, kind, f"this is {kind}", kind, "task")
        caller.session.handle(message)
    await settle()
    await caller.hear(QUIET * 2)
    told = [(a.request, a.pts, a.end_pts) for a in caller.all(p.ContextAppended)]
    assert told == [(kind, 4_000, 16_000) for kind in ("thinking", "instructions", "commentary")]
    assert text(caller) == "this is commentary" and len(caller.all(p.ResponseStarted)) == 1


async def test_context_is_appended_in_full_duplex_only(opened: Open) -> None:
    caller = await opened('[[answer]]\nsay = "x"', TURNS)
    caller.session.handle(p.AppendContext(SESSION, "commentary", "x", "r"))
    assert caller.all(p.RequestRefused)[0].code == "append_unsupported"


async def test_it_leaves_when_its_goodbye_was_heard(opened: Open) -> None:
    caller = await opened('[[cue]]\nat = 0\nsay = "bye"\nend = "goodbye"')
    await caller.hear(QUIET * 2)
    assert not caller.all(p.SessionEnded)
    caller.heard(1, 7_200, final=True)
    assert caller.all(p.SessionEnded)[0].reason == "goodbye"


# ---------------------------------------------------------------- turns


async def test_typed_words_are_answered_in_order(opened: Open) -> None:
    caller = await opened(
        '[[answer]]\nto = "text"\nwhen = "cat"\nsay = "meow"\n[[answer]]\nto = "text"\nsay = "yes"',
        TURNS,
    )
    caller.listens = True
    ask(caller, "a dog", request="r1")
    await settle()
    caller.heard(1, 7_200, final=True)
    ask(caller, "a Cat", request="r2", modalities=("text",))
    await settle()
    assert [(s.epoch, s.modality, s.request) for s in caller.all(p.ResponseStarted)] == [
        (1, "audio", "r1"),
        (2, "text", "r2"),
    ]
    assert (text(caller, 1), text(caller, 2)) == ("yes", "meow")
    assert sound(caller, 2) == 0


async def test_speech_is_answered_in_half_duplex_and_on_commit(opened: Open) -> None:
    script = '[[answer]]\nheard = "What time is it?"\nsay = "Late."'
    caller = await opened(script, p.SessionConfig(mode="half_duplex"))
    await caller.hear(say("what_time"))
    assert caller.all(p.InputTranscript)[-1].text == "What time is it?"
    assert caller.all(p.ResponseStarted)[0].trigger == "speech" and text(caller) == "Late."
    by_hand = await opened(script, TURNS)
    by_hand.session.handle(p.CommitAudio(SESSION, "early"))
    assert by_hand.all(p.RequestRefused)[0].code == p.COMMIT_EMPTY
    await by_hand.hear(say("what_time"))
    assert not by_hand.all(p.SpeechStarted)
    by_hand.session.handle(p.CommitAudio(SESSION, "c"))
    assert by_hand.all(p.InputTranscript)[-1].text == "What time is it?"
    ask(by_hand, request="r")
    assert text(by_hand) == "Late."


async def test_a_commit_in_mid_speech_writes_down_the_turn_that_was_told_to_have_begun(
    opened: Open,
) -> None:
    caller = await opened(
        '[[answer]]\nheard = "hello"\nsay = "hi"', p.SessionConfig(mode="half_duplex")
    )
    await caller.hear(say("hello", after_ms=0))
    caller.session.handle(p.CommitAudio(SESSION, "c"))
    (began,), (ended,) = caller.all(p.SpeechStarted), caller.all(p.SpeechStopped)
    told = [(t.utterance, t.text) for t in caller.all(p.InputTranscript)]
    assert told == [(began.utterance, "hello")] and ended.utterance == began.utterance


async def test_a_mode_that_changes_in_mid_speech_ends_the_turn(opened: Open) -> None:
    caller = await opened(
        '[[answer]]\nheard = "hello"\nsay = "hi"', p.SessionConfig(mode="half_duplex")
    )
    await caller.hear(say("hello", after_ms=0))
    caller.session.handle(p.UpdateSession(SESSION, TURNS))
    await caller.hear(QUIET * 2)
    assert len(caller.all(p.SpeechStarted)) == len(caller.all(p.SpeechStopped)) == 1
    assert [t.text for t in caller.all(p.InputTranscript)] == ["hello"]


async def test_a_request_without_an_answer_is_refused(opened: Open) -> None:
    caller = await opened('[[cue]]\nat = 0\nsay = "x"', TURNS)
    ask(caller, "hello", request="r")
    assert caller.all(p.RequestRefused)[0].code == "no_answer"


async def test_a_response_fails_or_waits_as_told(opened: Open) -> None:
    caller = await opened('[[answer]]\nsay = "x"\nfails = "no more"\nwait_s = 0.05', TURNS)
    ask(caller)
    assert not caller.all(p.ResponseStarted)
    done = await caller.wait(p.ResponseDone)
    assert (done.status, done.reason) == ("failed", "no more")


async def test_a_new_request_cuts_what_is_being_said(opened: Open) -> None:
    words = " ".join(["word"] * 40)
    caller = await opened(f'[[answer]]\nsay = "{words}"\n[[answer]]\nsay = "b"', TURNS)
    ask(caller)
    caller.session.handle(p.CancelResponse(SESSION, 0))
    assert not caller.all(p.ResponseDone)
    ask(caller)
    assert caller.all(p.Interrupt)[0].epoch == 1 and text(caller, 2) == "b"


# ---------------------------------------------------------------- functions

CALLS = """
[[answer]]
to = "tool"
say = "It is warm."
[[answer]]
say = "Let me see."
calls = [{ name = "look", arguments = { at = "sky" }, id = "c1", pieces = 3 }, { name = "find" }]
[[answer]]
say = "Still waiting."
"""


async def test_functions_are_called_and_what_they_give_is_answered(opened: Open) -> None:
    caller = await opened(CALLS, msgspec.structs.replace(TURNS, tools=TOOLS))
    ask(caller, "how is the sky?")
    pieces = caller.all(p.FunctionCallOut)
    assert [(c.call_id, c.name, c.last) for c in pieces] == [
        ("c1", "look", False),
        ("c1", "look", False),
        ("c1", "look", True),
        ("call_1_1", "find", True),
    ]
    assert "".join(c.arguments for c in pieces[:3]) == '{"at":"sky"}'
    assert caller.all(p.ResponseDone)[0].status == "completed"
    for call in ("c1", "call_1_1"):
        caller.session.handle(p.FunctionOutputIn(SESSION, f"o{call}", call, "warm"))
    ask(caller, request="after")
    # What was said before the call is heard to its end first.
    assert not caller.all(p.Interrupt) and len(caller.all(p.ResponseStarted)) == 1
    caller.heard(1, 3 * 7_200, final=True)
    assert text(caller, 2) == "It is warm."


async def test_a_turn_comes_before_a_late_output(opened: Open) -> None:
    caller = await opened(CALLS, msgspec.structs.replace(TURNS, tools=TOOLS))
    ask(caller, "how is the sky?")
    caller.heard(1, 3 * 7_200, final=True)
    ask(caller, "are you there?")
    caller.heard(2, 2 * 7_200, final=True)
    caller.session.handle(p.FunctionOutputIn(SESSION, "o", "c1", "warm"))
    ask(caller)
    assert (text(caller, 2), text(caller, 3)) == ("Still waiting.", "It is warm.")


async def test_only_functions_that_were_offered_are_called(opened: Open) -> None:
    some = p.SessionConfig(mode="turn_based", tools=TOOLS[:1])
    caller = await opened(CALLS, some)
    ask(caller, "how?", tool_choice="none")
    assert not caller.all(p.FunctionCallOut)
    assert [w.code for w in caller.all(p.SessionWarning)] == ["tool_not_offered"] * 2
    other = await opened(CALLS, some)
    ask(other, "how?", tools=TOOLS[1:])
    assert [c.name for c in other.all(p.FunctionCallOut)] == ["find"]


async def test_functions_are_called_in_full_duplex(opened: Open) -> None:
    caller = await opened(
        '[[cue]]\nat = 0\ncalls = [{ name = "look" }]', p.SessionConfig(tools=TOOLS)
    )
    await caller.hear(QUIET * 2)
    assert caller.all(p.FunctionCallOut)[0].epoch == 1
    assert caller.all(p.ResponseDone)[0].epoch == 1
    assert not caller.all(p.TextOut) and not caller.all(p.AudioOut)


async def test_an_aside_is_answered_beside_what_is_said(opened: Open) -> None:
    words = " ".join(["word"] * 20)
    caller = await opened(
        f'[[answer]]\nsay = "{words}"\n[[answer]]\nto = "aside"\nwhen = "topic"\nsay = "words"',
        TURNS,
    )
    ask(caller)
    item = p.ItemIn(SESSION, "x", "user", (p.TextPart("What is the topic?"),))
    ask(caller, is_out_of_band=True, input=(item,), request="aside")
    ask(caller, is_out_of_band=True, request="nothing")
    assert text(caller, 2) == "words" and not caller.all(p.Interrupt)
    assert caller.all(p.RequestRefused)[0].request == "nothing"
    caller.heard(1, 20 * 7_200, final=False)
    assert sound(caller, 1) == 20 * 7_200


# ---------------------------------------------------------------- the engine


async def test_it_speaks_with_the_voice_of_the_script(opened: Open) -> None:
    caller = await opened('sound = "speech"\n[[answer]]\nsay = "Good morning to you."', TURNS)
    ask(caller)
    assert text(caller) == "Good morning to you."
    pcm = np.frombuffer(b"".join(out.pcm for out in caller.all(p.AudioOut)), np.int16)
    assert 20_000 < len(pcm) < 72_000 and np.abs(pcm.astype(int)).max() > 8_000


@pytest.mark.parametrize(
    ("name", "calls", "delegates", "aside"),
    [
        ("conversation", False, False, True),
        ("tools", True, False, False),
        ("delegation", False, True, False),
    ],
)
def test_it_says_what_its_script_can_do(
    name: str, calls: bool, delegates: bool, aside: bool
) -> None:
    welcome = ScriptedEngine(name, 2).welcome(2)
    assert welcome.kind == "scripted" and welcome.unit_ms == 1000 and welcome.transcribes
    told = bool(welcome.tool_modes), welcome.delegates, welcome.answers_out_of_band
    assert told == (calls, delegates, aside)
