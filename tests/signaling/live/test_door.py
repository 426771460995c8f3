"""What Live clients ask of a session, and what they are told of it."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from signaling.errors import ProtocolError
from signaling.live import server_events as wire
from signaling.session import events as ev
from signaling.session.core import Abilities, ResponseWish
from signaling.session.items import (
    FunctionCallItem,
    FunctionCallOutput,
    InputMessage,
    MessageItem,
)
from signaling.settings import SessionSettings
from tests.openai_types import stream_events
from tests.signaling.live.rig import ABLE, DoorRig

CALLER = Abilities(tool_modes=("full_duplex",), transcribes=True)
TOOL = {"type": "function", "name": "look_up"}
RESPONSES = {
    "delegation": {
        "type": "responses",
        "responses": {"model": "b", "tools": [TOOL], "instructions": "Look things up."},
    }
}


def words(text: str, start: int = 0, end: int = 0) -> ev.WordsReleased:
    return ev.WordsReleased(
        response_id="r1",
        item_id="i1",
        index=0,
        modality="audio",
        text=text,
        start=start,
        end=end,
    )


def info(**more: Any) -> ev.ResponseInfo:
    return ev.ResponseInfo(id="r1", modality="audio", status="in_progress", **more)


# ------------------------------------------------------------------ start


def test_the_start_is_told_with_the_session_and_the_name_of_its_command() -> None:
    rig = DoorRig({"instructions": "Be brief."}).start()
    [started] = rig.take()
    assert started["type"] == "session.started" and started["client_event_id"] == "start-1"
    session = started["session"]
    assert (session["id"], session["expires_at"], session["status"]) == ("live_1", 1900, "active")
    assert session["instructions"] == "Be brief."


def test_nothing_but_notices_comes_before_the_start() -> None:
    rig = DoorRig()
    rig.door.tell(ev.QueueMoved(position=2, eta_s=7))
    rig.say("session.input_audio.mute", event_id="e1")
    waiting, premature = rig.take()
    assert waiting["type"] == "info" and waiting["code"] == "queue_position"
    assert premature["error"]["code"] == "session_not_started"
    assert premature["error"]["client_event_id"] == "e1"


def test_what_is_said_of_settings_comes_after_the_start() -> None:
    rig = DoorRig()
    rig.door.tell(ev.Notice(code="unused_setting", message="It has no effect."))
    assert rig.types() == []
    assert rig.start().types() == ["session.started", "info"]


def test_history_is_put_into_the_conversation() -> None:
    past = [
        {"role": "developer", "content": [{"text": "a"}]},
        {"role": "assistant", "content": [{"text": "b"}], "id": "i1"},
    ]
    rig = DoorRig({"input": past}).start()
    items = [what[1] for what in rig.core.asked if what[0] == "item"]
    assert all(isinstance(item, InputMessage) for item in items)
    assert [(item.role, item.id) for item in items] == [("system", None), ("assistant", "i1")]


def test_an_unknown_voice_is_told_and_openais_are_not() -> None:
    rig = DoorRig({"audio": {"output": {"voice": "bob"}}}).start()
    assert [e["code"] for e in rig.take() if e["type"] == "info"] == ["voice_unknown"]
    for voice in ("marin", "ann"):
        assert DoorRig({"audio": {"output": {"voice": voice}}}).start().types() == [
            "session.started"
        ]


def test_a_second_start_is_refused_and_the_session_lives_on() -> None:
    rig = DoorRig().start()
    rig.take()
    rig.say("session.start", session={"model": "m"})
    [refused] = rig.take()
    assert refused["error"]["code"] == "session_already_started"
    rig.say("session.input_audio.mute")
    assert rig.types() == ["session.input_audio.muted"]


# ------------------------------------------------------------------ appends


def test_appends_reach_the_session_and_are_acknowledged_to_who_asked() -> None:
    rig = DoorRig().start()
    _, beside = rig.sideband()
    rig.take()
    for kind in ("instructions", "thinking", "commentary"):
        rig.say(f"session.{kind}.append", content="x", delegation_id=None, event_id=kind)
    assert rig.core.asked == [
        ("instructions", "x", None),
        ("thinking", "x", None),
        ("commentary", "x", None),
    ]
    assert rig.types() == []
    asker = rig.core.askers[1]
    assert asker is not None
    placed = ev.ContextPlaced(kind="thinking", start_ms=3, end_ms=4)
    rig.door.tell(placed, asker.event_id)
    [told] = rig.take()
    assert told["type"] == "session.thinking.appended" and told["client_event_id"] == "thinking"
    assert (told["start_ms"], told["end_ms"]) == (3, 4)
    assert beside[-1]["type"] == told["type"] and "client_event_id" not in beside[-1]


def test_what_the_engine_cannot_take_is_refused() -> None:
    rig = DoorRig(abilities=Abilities(appends=("thinking",))).start()
    [told] = [event for event in rig.take() if event.get("code") == "append_unsupported"]
    names = "session.instructions.append, session.commentary.append"
    assert told["message"] == f"This model takes no {names}.", "before anything is appended"
    rig.say("session.commentary.append", content="x", delegation_id=None, event_id="e")
    [refused] = rig.take()
    assert refused["error"]["code"] == "append_unsupported" and rig.core.asked == []


def test_an_append_that_the_engine_refuses_is_told_to_who_asked() -> None:
    rig = DoorRig().start()
    rig.take()
    rig.say("session.commentary.append", content="x", delegation_id=None, event_id="e")
    asker = rig.core.askers[0]
    assert asker is not None
    error = ProtocolError("Not now.", code="append_unsupported", event_id=asker.event_id)
    rig.door.tell(ev.Refusal(error=error), asker.event_id)
    [refused] = rig.take()
    assert refused["error"]["client_event_id"] == refused["client_event_id"] == "e"
    rig.say("session.commentary.append", content="x", delegation_id=None)
    unnamed = rig.core.askers[1]
    assert unnamed is not None
    error = ProtocolError("Not now.", code="append_unsupported", event_id=unnamed.event_id)
    rig.door.tell(ev.Refusal(error=error), unnamed.event_id)
    [refused] = rig.take()
    assert "client_event_id" not in refused and "client_event_id" not in refused["error"]


def test_too_many_appends_may_not_wait() -> None:
    rig = DoorRig().start()
    rig.take()
    for _ in range(65):
        rig.say("session.thinking.append", content="x", delegation_id=None)
    [refused] = rig.take()
    assert refused["error"]["code"] == "rate_limit_exceeded" and len(rig.core.asked) == 64


# ------------------------------------------------------------------ delegation


def test_a_task_goes_to_the_client_and_its_answer_back() -> None:
    rig = DoorRig({"delegation": {"type": "client"}}).start()
    rig.take()
    rig.say("session.commentary.append", content="x", delegation_id="item_1")
    assert rig.take()[0]["error"]["code"] == "invalid_delegation_id"
    rig.door.tell(ev.TaskDelegated(delegation_id="item_1", at_ms=700))
    [created] = rig.take()
    assert created["offset_ms"] == 700
    assert created["delegation"] == {"type": "delegation", "id": "item_1", "target": "client"}
    rig.say("session.commentary.append", content="It rains.", delegation_id="item_1")
    assert rig.core.asked == [("commentary", "It rains.", "item_1")]


NATIVE = Abilities(appends=("instructions", "thinking", "commentary"), hears_in_units=True)


def handed_over(rig: DoorRig) -> list[dict[str, Any]]:
    return [event for event in rig.take() if event["type"] == "session.delegation.created"]


def test_words_hand_a_task_over_once_an_answer_where_the_model_cannot() -> None:
    rig = DoorRig(abilities=NATIVE, delegate_when_said=("let me  Check", "one moment")).start()
    rig.timeline_ms = 2_500
    rig.door.tell(ev.ResponseBegan(response=info()))
    rig.door.tell(words("Well, let me"))
    assert handed_over(rig) == []
    rig.door.tell(words(" check. One moment."))
    [created] = handed_over(rig)
    assert created["offset_ms"] == 2_500 and created["delegation"]["target"] == "client"
    task = created["delegation"]["id"]
    rig.say("session.commentary.append", content="One moment more.", delegation_id=task)
    assert rig.core.asked[-1] == ("commentary", "One moment more.", task)
    # What the client has said is no wish of the model's; what comes later is.
    for count in (0, 1):
        rig.door.tell(ev.ResponseBegan(response=info()))
        rig.door.tell(words("One moment more."))
        assert len(handed_over(rig)) == count


def test_words_hand_nothing_over_where_nobody_wants_it_or_the_model_can() -> None:
    for session, abilities in (({}, CALLER), (RESPONSES, NATIVE)):
        rig = DoorRig(session, abilities=abilities, delegate_when_said=("let me check",)).start()
        rig.door.tell(ev.ResponseBegan(response=info()))
        rig.door.tell(words("Let me check."))
        assert handed_over(rig) == []
    for phrases in ((), ("   ",)):
        rig = DoorRig(abilities=NATIVE, delegate_when_said=phrases).start()
        rig.door.tell(words("Let me check."))
        assert handed_over(rig) == []


def delegate_call() -> ev.OutputEnded:
    item = FunctionCallItem(id="item_9", call_id="c1", name="delegate", arguments="{}")
    return ev.OutputEnded(response=info(), index=0, item=item, after=None)


def test_a_model_that_calls_functions_is_offered_delegation_as_one() -> None:
    rig = DoorRig({"delegation": {"type": "client"}}, abilities=CALLER).start()
    [(_, changes)] = rig.core.asked
    assert [tool["name"] for tool in changes["tools"]] == ["delegate"]
    rig.take()
    rig.core.asked.clear()
    rig.timeline_ms = 1_500
    rig.door.tell(delegate_call())
    [created] = rig.take()
    assert created["delegation"]["id"] == "item_9" and created["offset_ms"] == 1_500
    [(_, output)] = rig.core.asked
    assert isinstance(output, FunctionCallOutput) and output.call_id == "c1"
    rig.after(0.1)
    assert rig.core.asked[1:] == [("respond", ResponseWish(tool_choice="none"))]
    rig.after(5)
    assert len(rig.core.asked) == 2


def test_an_acknowledgement_waits_until_it_can_be_given() -> None:
    rig = DoorRig({"delegation": {"type": "client"}}, abilities=CALLER).start()
    rig.door.tell(delegate_call())
    rig.core.asked.clear()
    rig.core.is_busy = True
    rig.after(1)
    assert rig.core.asked == []
    rig.core.is_busy = False
    rig.after(1)
    assert rig.core.asked == [("respond", ResponseWish(tool_choice="none"))]


def test_an_answer_cancels_the_acknowledgement_that_waits() -> None:
    session = {"delegation": {"type": "client", "acknowledgement_delay_ms": 1000}}
    able = Abilities(tool_modes=("full_duplex",), appends=("commentary",))
    rig = DoorRig(session, abilities=able).start()
    rig.door.tell(delegate_call())
    rig.core.asked.clear()
    rig.after(0.8)
    rig.say("session.commentary.append", content="x", delegation_id="item_9")
    rig.after(2)
    assert rig.core.asked == [("commentary", "x", "item_9")]


def test_without_functions_a_text_model_is_told_to_be_missing() -> None:
    rig = DoorRig(RESPONSES).start()
    assert [e["code"] for e in rig.take() if e["type"] == "info"] == ["delegation_unavailable"]
    assert rig.core.asked == []
    rig.say("response.create")
    assert rig.take()[0]["error"]["code"] == "invalid_value"


def test_functions_of_a_text_model_are_told_as_its_stream() -> None:
    rig = DoorRig(RESPONSES, abilities=CALLER).start()
    [(_, changes)] = rig.core.asked
    assert changes["tools"] == [TOOL] and changes["instructions"] == "Look things up."
    rig.take()
    item = FunctionCallItem(id="item_3", call_id="c1", name="look_up", status="in_progress")
    whole = FunctionCallItem(id="item_3", call_id="c1", name="look_up", arguments="{}")
    for event in (
        ev.ResponseBegan(response=info()),
        ev.OutputStarted(response=info(), index=0, item=item, after=None),
        ev.ArgumentsGrew(response_id="r1", item_id="item_3", index=0, call_id="c1", text="{}"),
        ev.OutputEnded(response=info(), index=0, item=whole, after=None),
        ev.ResponseEnded(
            response=ev.ResponseInfo(
                id="r1",
                modality="audio",
                status="completed",
                usage=ev.Usage(input_tokens=2, output_tokens=1),
            )
        ),
    ):
        rig.door.tell(event)
    created, *stream = rig.take()
    assert created["delegation"]["target"] == "responses"
    assert created["delegation"]["response_id"] == "r1"
    assert {event["delegation_id"] for event in stream} == {created["delegation"]["id"]}
    assert [event["event"]["type"] for event in stream] == [
        "response.created",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ]
    done = stream[-2]["event"]["item"]
    assert (done["type"], done["status"], done["call_id"]) == ("function_call", "completed", "c1")
    validate_stream(stream)

    rig.core.asked.clear()
    rig.say("response.create", event_id="e")
    assert rig.take()[0]["error"]["code"] == "function_call_outputs_required"
    output = {"type": "function_call_output", "call_id": "c1", "output": "42"}
    rig.say("response.item.create", item=output)
    rig.say("response.item.create", item=output)
    assert rig.take()[0]["error"]["param"] == "item.call_id"
    rig.core.is_busy = True
    rig.say("response.create")
    assert "active response" in rig.take()[0]["error"]["message"]
    rig.door.tell(ev.ResponseBegan(response=info()))
    assert rig.take() == [], "nobody asked for that one"
    rig.core.is_busy = False
    rig.say("response.create")
    assert [what[0] for what in rig.core.asked] == ["item", "respond"]
    rig.door.tell(ev.ResponseBegan(response=info()))
    [going_on] = rig.take()
    assert going_on["delegation_id"] == created["delegation"]["id"]


def test_a_typed_message_is_an_item_and_answered_when_that_is_asked_for() -> None:
    rig = DoorRig({"delegation": {"type": "responses", "responses": {"model": "m"}}}).start()
    rig.take()
    rig.say("response.create")
    assert rig.take()[0]["error"]["code"] == "invalid_value"
    parts = [{"type": "input_text", "text": "What time"}, {"type": "input_text", "text": " is it?"}]
    rig.say("response.item.create", item={"type": "message", "role": "user", "content": parts})
    rig.say("response.item.create", item={"role": "developer", "content": "Be brief."})
    rig.say("response.create")
    rig.door.tell(ev.ResponseBegan(response=info()))
    assert rig.take() == [], "it is no task of the text model's"
    asked, rule, respond = rig.core.asked
    assert [part.text for part in asked[1].parts] == ["What time", " is it?"]
    assert (asked[1].role, rule[1].role, respond[0]) == ("user", "system", "respond")
    rig.say("response.create")
    assert rig.take()[0]["error"]["code"] == "invalid_value", "it was answered once"
    picture = [{"type": "input_image", "image_url": "data:,"}]
    for wrong in (picture, [], " ", "x" * 32_769):
        rig.say("response.item.create", item={"role": "user", "content": wrong})
        assert rig.take()[0]["error"]["param"].startswith("item.content")


@pytest.mark.parametrize(
    ("status", "call", "told"),
    [
        ("completed", "completed", "completed"),
        ("cancelled", "completed", "completed"),
        ("cancelled", "incomplete", "incomplete"),
        ("failed", "completed", "failed"),
        ("incomplete", "completed", "incomplete"),
    ],
)
def test_being_talked_over_changes_nothing_of_the_calls(status: Any, call: Any, told: str) -> None:
    rig = DoorRig(RESPONSES, abilities=CALLER).start()
    item = FunctionCallItem(id="item_3", call_id="c1", name="look_up", status=call)
    rig.door.tell(ev.OutputStarted(response=info(), index=0, item=item, after=None))
    rig.take()
    over = ev.ResponseInfo(id="r1", modality="audio", status=status, output=(item,))
    rig.door.tell(ev.ResponseEnded(response=over))
    [ended] = rig.take()
    assert ended["event"]["type"] == f"response.{told}"
    assert ended["event"]["response"]["status"] == told
    validate_stream([ended])


def validate_stream(stream: list[dict[str, Any]]) -> None:
    numbers = [stream_events().validate_python(event["event"]).sequence_number for event in stream]
    assert numbers == sorted(set(numbers))


def test_more_than_32_kb_of_output_are_not_taken() -> None:
    rig = DoorRig(RESPONSES, abilities=CALLER).start()
    item = FunctionCallItem(id="item_3", call_id="c1", name="look_up")
    rig.door.tell(ev.OutputStarted(response=info(), index=0, item=item, after=None))
    rig.door.tell(ev.OutputEnded(response=info(), index=0, item=item, after=None))
    rig.take()
    output = {"type": "function_call_output", "call_id": "c1", "output": "x" * 32_769}
    rig.say("response.item.create", item=output)
    assert rig.take()[0]["error"]["code"] == "response_input_buffer_full"


def test_an_update_is_answered_with_the_whole_session() -> None:
    rig = DoorRig({"instructions": "x"}).start()
    rig.take()
    update = {"delegation": {"type": "client", "acknowledgement_delay_ms": 5}}
    rig.say("session.update", session=update, event_id="u")
    [updated] = rig.take()
    assert updated["type"] == "session.updated" and updated["client_event_id"] == "u"
    assert updated["session"]["instructions"] == "x"
    assert updated["session"]["delegation"]["acknowledgement_delay_ms"] == 5
    rig.say("session.update", session={"instructions": "y"})
    assert rig.take()[0]["error"]["code"] == "immutable_field_update"


# ------------------------------------------------------------------ words


def test_a_second_of_words_is_told_in_pieces_as_it_is_heard() -> None:
    rig = DoorRig().start()
    rig.take()
    rig.timeline_ms = 5_000
    rig.door.tell(ev.ResponseAudible(response_id="r1"))
    rig.door.tell(words("One two three four.", 0, 24_000))
    first = rig.take()
    assert [e["delta"] for e in first] == ["One"] and first[0]["start_ms"] == 5_000
    rig.after(1)
    rest = rig.take()
    assert "".join(e["delta"] for e in rest) == " two three four."
    assert rest[-1]["end_ms"] == 6_000
    spans = [*first, *rest]
    assert all(one["end_ms"] == two["start_ms"] for one, two in zip(spans, spans[1:], strict=False))


def test_each_piece_has_its_own_leading_space() -> None:
    rig = DoorRig().start()
    rig.take()
    rig.door.tell(ev.ResponseAudible(response_id="r1"))
    rig.door.tell(words("It ", 0, 4_800))
    rig.door.tell(words("is ", 4_800, 9_600))
    rig.door.tell(words("nine.", 9_600, 14_400))
    rig.door.tell(ev.PlayoutEnded(response_id="r1", is_cut=False))
    rig.door.tell(words("And", 0, 4_800))
    assert [e["delta"] for e in rig.take()] == ["It", " is", " nine.", " And"]


def test_words_cut_before_they_were_heard_are_never_told() -> None:
    rig = DoorRig().start()
    rig.take()
    rig.door.tell(ev.ResponseAudible(response_id="r1"))
    rig.door.tell(words("One two three four.", 0, 24_000))
    rig.take()
    rig.door.tell(ev.PlayoutEnded(response_id="r1", is_cut=True))
    rig.after(2)
    assert rig.types() == []


def test_what_the_user_said_is_told_once_it_stands() -> None:
    rig = DoorRig().start()
    rig.take()
    rig.door.tell(ev.TranscriptGrew(item_id="i", text="what's", start_ms=100))
    assert rig.types() == []
    rig.door.tell(
        ev.TranscriptCompleted(
            item_id="i", text="what is the time", grown="what's", start_ms=100, end_ms=1_300
        )
    )
    told = rig.take()
    assert "".join(e["delta"] for e in told) == " what is the time"
    assert (told[0]["start_ms"], told[-1]["end_ms"]) == (100, 1_300)
    assert max(e["end_ms"] - e["start_ms"] for e in told) <= 500


def test_a_model_that_writes_nothing_down_says_so_once() -> None:
    rig = DoorRig(abilities=Abilities(appends=ABLE.appends)).start()
    failed = ev.TranscriptFailed(item_id="i", code="not_transcribed", message="no")
    rig.door.tell(failed)
    rig.door.tell(failed)
    codes = [e["code"] for e in rig.take() if e["type"] == "info"]
    assert codes == ["no_input_transcript"]


def test_what_realtime_alone_tells_is_not_told() -> None:
    rig = DoorRig().start()
    rig.take()
    item = MessageItem(id="i1", role="assistant")
    for event in (
        ev.UserStartedSpeaking(item_id="i", start_ms=0),
        ev.UserStoppedSpeaking(item_id="i", end_ms=9),
        ev.ResponseBegan(response=info()),
        ev.OutputStarted(response=info(), index=0, item=item, after=None),
        ev.OutputEnded(response=info(), index=0, item=item, after=None),
        ev.ResponseEnded(response=info()),
        ev.SettingsChanged(session_id="live_1", settings=SessionSettings(), expires_at=None),
    ):
        rig.door.tell(event)
    assert rig.types() == []


# ------------------------------------------------------------------ fixtures


def test_a_fixture_cuts_the_answer_and_is_told_when_it_was_played() -> None:
    rig = DoorRig().start()
    rig.take()
    audio = base64.b64encode(b"\1\0" * 240).decode()
    rig.say("session.output_audio.fixture.play", audio=audio, event_id="f")
    assert rig.fixtures == [b"\1\0" * 240] and ("clear",) in rig.core.asked
    rig.say("session.output_audio.fixture.play", audio=audio)
    rig.say("session.thinking.append", content="x", delegation_id=None)
    rig.door.fixture_played()
    playing, *refused, played = rig.take()
    assert playing["client_event_id"] == played["client_event_id"] == "f"
    assert [e["error"]["code"] for e in refused] == ["fixture_playing"] * 2
    assert played["type"] == "session.output_audio.fixture.played"


# ------------------------------------------------------------------ time


def test_usage_is_told_every_15_s() -> None:
    rig = DoorRig(abilities=Abilities(context_tokens=1000, transcribes=True)).start()
    rig.take()
    rig.door.tell(ev.Figures(figures={"kv_tokens": 250}))
    rig.after(30.1)
    told = rig.take()
    assert [e["usage"]["seconds"] for e in told] == pytest.approx([15, 30], abs=0.11)
    assert told[0]["context_window"] == {"usage_ratio": 0.25}
    assert "active_seconds" not in told[0]["usage"]


def test_a_quiet_session_pauses_and_speech_wakes_it() -> None:
    rig = DoorRig({"idle_timeout_s": 10}, kind="data_channel").start()
    rig.take()
    rig.after(6)
    rig.door.tell(ev.UserStartedSpeaking(item_id="i", start_ms=0))
    rig.after(12)
    rig.door.tell(ev.UserStoppedSpeaking(item_id="i", end_ms=9))
    rig.door.tell(ev.ResponseAudible(response_id="r1"))
    rig.after(12)
    rig.door.tell(ev.PlayoutEnded(response_id="r1", is_cut=False))
    rig.after(9.5)
    assert rig.paused == []
    rig.after(1)
    assert rig.paused == [True] and rig.types()[-1] == "session.paused"
    rig.after(20)
    rig.door.woken()
    rig.door.woken()
    assert rig.paused == [True, False]
    resumed = rig.take()[-1]
    assert resumed["type"] == "session.resumed"
    rig.door.tell(ev.SessionOver(reason="closed", message="", is_failure=False))
    usage = rig.take()[-1]["usage"]
    assert usage["paused_seconds"] in (20, 21)
    assert usage["active_seconds"] + usage["paused_seconds"] == pytest.approx(usage["seconds"], 1)


def test_an_answer_that_took_long_wakes_a_session() -> None:
    rig = DoorRig({"idle_timeout_s": 2}, kind="data_channel").start()
    rig.after(3)
    rig.door.tell(ev.ResponseBegan(response=info()))
    assert rig.paused == [True]
    rig.door.tell(ev.ResponseAudible(response_id="r1"))
    rig.after(5)
    assert rig.paused == [True, False]


def test_an_append_wakes_a_session() -> None:
    rig = DoorRig({"idle_timeout_s": 1}, kind="data_channel").start()
    rig.after(2)
    rig.say("session.commentary.append", content="x", delegation_id=None)
    assert rig.paused == [True, False]


def test_skipped_sound_is_told() -> None:
    rig = DoorRig().start()
    rig.take()
    rig.door.skipped(4_000)
    [told] = rig.take()
    assert told["code"] == "audio_skipped" and "4000 ms" in told["message"]


# ------------------------------------------------------------------ other connections


def test_a_sideband_hears_how_things_stand_and_commands() -> None:
    rig = DoorRig().start()
    connection, sent = rig.sideband()
    assert [e["type"] for e in sent] == ["session.started"]
    assert "client_event_id" not in sent[0]
    connection.receive('{"type": "session.input_audio.mute", "event_id": "s"}')
    assert sent[-1]["client_event_id"] == "s"
    assert "client_event_id" not in rig.take()[-1]
    connection.receive('{"type": "session.input_audio.append", "audio": "AAA="}')
    assert sent[-1]["error"]["code"] == "unsupported_event"
    rig.door.detach(connection)
    rig.door.skipped(1)
    assert sent[-1]["type"] == "error"


def test_only_who_wants_sound_is_sent_both_sides() -> None:
    rig = DoorRig().start()
    assert not rig.door.reflects
    _, quiet = rig.sideband(wants_audio=False)
    assert not rig.door.reflects
    _, loud = rig.sideband()
    assert rig.door.reflects
    rig.take()
    rig.door.reflect(wire.OutputAudio(delta="AAA=", start_ms=0, end_ms=100))
    assert rig.types() == [] and len(quiet) == 1 and len(loud) == 2


def test_a_data_channel_may_be_bounded() -> None:
    rights = {
        "allowed_client_events": ["session.close"],
        "allowed_server_events": [{"type": "session.started"}, {"type": "error"}],
    }
    rig = DoorRig({"client": {"data_channel": rights}}, kind="data_channel").start()
    assert rig.types() == ["session.started"]
    rig.say("session.input_audio.mute")
    assert rig.take()[0]["error"]["code"] == "event_not_allowed"
    rig.say("session.close")
    assert rig.core.asked == [("hang up", "hangup")]


def test_bounds_of_a_data_channel_are_told() -> None:
    rights = {"allowed_client_events": ["session.close"]}
    rig = DoorRig({"client": {"data_channel": rights}}, kind="data_channel").start()
    told, started = rig.take()
    assert told["code"] == "data_channel_permissions" and "session.close" in told["message"]
    assert started["type"] == "session.started"


def test_the_microphone_track_carries_the_sound() -> None:
    rig = DoorRig(kind="data_channel").start()
    rig.take()
    rig.say("session.input_audio.append", audio="AAA=")
    assert rig.take()[0]["error"]["code"] == "unsupported_event"


def test_another_channel_of_a_running_session_is_told_of_the_start() -> None:
    rig = DoorRig(kind="data_channel").start()
    rig.primary.tell(rig.ready)
    assert rig.types() == ["session.started"] * 2


# ------------------------------------------------------------------ end


@pytest.mark.parametrize(
    ("reason", "told", "code"),
    [
        ("hangup", "close_requested", None),
        ("goodbye", "close_requested", None),
        ("max_duration", "expired", "session_expired"),
        ("no_input", "expired", "session_idle"),
        ("closed", "remote_hangup", None),
        ("vanished", "connection_lost", None),
        ("engine_gone", "connection_lost", "engine_unavailable"),
        ("internal_error", "connection_lost", "internal_error"),
    ],
)
def test_the_end_is_told_once_and_last(reason: str, told: str, code: str | None) -> None:
    rig = DoorRig().start()
    rig.after(3)
    rig.take()
    over = ev.SessionOver(reason=reason, message="Why.", is_failure=code is not None)
    rig.door.tell(over)
    *errors, closed = rig.take()
    assert [e["error"]["code"] for e in errors] == ([code] if code else [])
    assert (closed["type"], closed["reason"]) == ("session.closed", told)
    assert closed["usage"]["seconds"] == 3.0 and closed["session"]["id"] == "live_1"
    rig.door.tell(over)
    rig.door.tell(ev.Notice(code="x", message="y"))
    rig.after(20)
    assert rig.take() == [] and rig.door.close_code == 1000


def test_appends_that_were_never_placed_are_told_before_the_end() -> None:
    rig = DoorRig().start()
    rig.take()
    rig.say("session.thinking.append", content="x", delegation_id=None, event_id="t")
    rig.say("session.close")
    rig.say("session.input_audio.mute")
    rig.door.tell(ev.SessionOver(reason="hangup", message="", is_failure=False))
    refused, lost, closed = rig.take()
    assert refused["error"]["code"] == "session_closed"
    assert lost["error"]["code"] == "context_injection_incomplete"
    assert lost["error"]["client_event_id"] == "t" and closed["type"] == "session.closed"


def test_a_full_house_is_told_before_anything_started() -> None:
    rig = DoorRig()
    rig.door.tell(ev.SessionOver(reason="engine_full", message="Full.", is_failure=True))
    [refused] = rig.take()
    assert refused["error"] == {
        "type": "server_error",
        "code": "no_free_slot",
        "message": "Full.",
    }
    assert rig.door.close_code == 1013


def test_client_hushes_pauses_and_resumes() -> None:
    rig = DoorRig().start()
    for kind in ("session.force_listen", "session.pause", "session.resume"):
        rig.say(kind)
    assert rig.core.asked[-3:] == [("listen", True), ("pause",), ("resume",)]
    rig.door.tell(ev.InputHushed(is_on=True))
    rig.door.tell(ev.CallPaused(slot_kept_s=60))
    rig.door.tell(ev.CallResumed(kept="everything"))
    told = [(event["type"], event.get("code")) for event in rig.sent[-3:]]
    assert told[1:] == [("session.paused", None), ("session.resumed", None)]
    assert told[0][1] == "force_listen_on"
