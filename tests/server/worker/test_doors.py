"""Several connections at one session, functions, and sound that is sent ahead of its time."""

from __future__ import annotations

import json
from typing import Any

import pytest

from engine.ipc import protocol as p
from media.sentahead import SentAhead
from server.worker.audience import Audience
from server.worker.commands import SessionCommands
from server.worker.conversation import Conversation
from signaling.realtime.door import RealtimeDoor
from signaling.session import events as ev
from signaling.session.core import Abilities, Asker, ResponseWish
from signaling.settings import SessionSettings
from tests.openai_events import checked_event
from tests.server.worker.talk import SESSION, Talk, sound
from tests.server.worker.test_requests import text_item
from tests.waiting import Clock

FUNCTION = {"type": "function", "name": "weather", "parameters": {"type": "object"}}


class Joined:
    """Another connection to a talk."""

    def __init__(self, talk: Talk) -> None:
        self.events: list[dict[str, Any]] = []
        self.door = RealtimeDoor(talk.commands, self._take, tells_extensions=False)
        talk.conversation.audience.add(self.door)

    def _take(self, text: str) -> None:
        self.events.append(checked_event(text, frozenset()))

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def ask(self, event: dict[str, Any]) -> None:
        self.door.receive(json.dumps(event))


# ---------------------------------------------------------------- several connections


def test_what_happens_is_told_to_all_and_a_mistake_to_who_made_it() -> None:
    talk = Talk()
    side = Joined(talk)
    side.ask(text_item(id="mine"))
    assert talk.types == side.types == ["conversation.item.added", "conversation.item.done"]
    side.ask({"type": "conversation.item.delete", "item_id": "nobody", "event_id": "e1"})
    side.ask({"type": "conversation.item.retrieve", "item_id": "mine"})
    assert side.types[2:] == ["error", "conversation.item.retrieved"]
    assert side.events[2]["error"]["event_id"] == "e1" and len(talk.types) == 2
    talk.answer(1, {0: "Hello."}, 40)
    talk.play(80)
    assert side.types[4:] == talk.types[2:]


def test_late_refusal_reaches_who_asked_unless_it_has_left() -> None:
    talk = Talk()
    side = Joined(talk)
    side.ask({"type": "response.create", "event_id": "e1"})
    side.ask({"type": "response.create", "event_id": "e2"})
    first, second = talk.sent(p.CreateResponse)
    talk.hear(p.RequestRefused(SESSION, first.request, "empty_message", "nothing was said"))
    assert side.events[-1]["error"]["event_id"] == "e1" and talk.events == []
    talk.conversation.audience.remove(side.door)
    talk.hear(p.RequestRefused(SESSION, second.request, "empty_message", "nothing was said"))
    assert len(side.events) == 1 and talk.events == []


def test_extensions_are_told_to_those_who_want_them() -> None:
    talk = Talk()
    side = Joined(talk)
    talk.hear(p.UnitDone(SESSION, 1, "listen", {"decode": 3.0}))
    assert talk.types == ["metrics"] and side.types == []


# ---------------------------------------------------------------- functions


def call(epoch: int, call_id: str, arguments: str, *, last: bool = True) -> p.FunctionCallOut:
    return p.FunctionCallOut(SESSION, epoch, call_id, "weather", arguments, last)


def test_calls_of_functions_have_the_events_that_clients_act_on() -> None:
    talk = Talk(tools=[FUNCTION])
    assert talk.conversation.settings.tools
    talk.hear(p.ResponseStarted(SESSION, 1, "request"))
    talk.hear(call(1, "c1", '{"city":', last=False), call(1, "c1", '"Rome"}'))
    talk.hear(call(1, "c2", "{}"))
    talk.done(1)
    talk.play(40)
    added = ["response.output_item.added", "conversation.item.added"]
    delta = "response.function_call_arguments.delta"
    ended = [
        "response.function_call_arguments.done",
        "response.output_item.done",
        "conversation.item.done",
    ]
    assert talk.types == [
        "response.created",
        "rate_limits.updated",
        *(*added, delta, delta, *ended),
        *(*added, delta, *ended),
        "response.done",
    ]
    statuses = [event["item"]["status"] for event in talk.of("response.output_item.added")]
    assert statuses == ["in_progress"] * 2
    done = talk.of("response.output_item.done")[0]
    assert done["item"]["arguments"] == '{"city":"Rome"}' and done["item"]["status"] == "completed"
    assert [event["output_index"] for event in talk.of("response.output_item.done")] == [0, 1]
    output = talk.one("response.done")["response"]["output"]
    assert [item["call_id"] for item in output] == ["c1", "c2"]


def test_words_before_a_call_are_a_message_of_the_same_response() -> None:
    talk = Talk(tools=[FUNCTION])
    talk.hear(
        p.ResponseStarted(SESSION, 1, "request"),
        p.TextOut(SESSION, 1, 0, "One moment."),
        p.AudioOut(SESSION, 1, 0, sound(100)),
        call(1, "c1", "{}"),
    )
    assert "response.output_item.done" in talk.types, "the function runs while the words are heard"
    talk.done(1)
    talk.ask({"type": "response.create"})
    assert talk.of("error") == [], "its output may be answered while the words are still heard"
    talk.play(200)
    output = talk.one("response.done")["response"]["output"]
    assert [item["type"] for item in output] == ["message", "function_call"]


def test_call_that_breaks_off_is_incomplete() -> None:
    talk = Talk(tools=[FUNCTION])
    talk.hear(p.ResponseStarted(SESSION, 1, "request"), call(1, "c1", '{"ci', last=False))
    talk.ask({"type": "response.cancel"})
    assert talk.one("response.output_item.done")["item"]["status"] == "incomplete"
    assert talk.one("response.done")["response"]["status"] == "cancelled"


def test_first_output_counts_and_the_second_is_an_error() -> None:
    talk = Talk(tools=[FUNCTION])
    side = Joined(talk)
    talk.hear(p.ResponseStarted(SESSION, 1, "request"), call(1, "c1", "{}"))
    talk.done(1)
    talk.play(40)
    output = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}
    event = {"type": "conversation.item.create", "item": output}
    side.ask(event)
    [sent] = talk.sent(p.FunctionOutputIn)
    assert (sent.call_id, sent.output) == ("c1", "sunny")
    talk.ask(event | {"event_id": "late"})
    error = talk.one("error")["error"]
    assert (error["code"], error["param"]) == ("invalid_function_call_output", "item.call_id")
    assert error["event_id"] == "late" and "error" not in side.types


def test_call_of_an_earlier_conversation_is_replayed() -> None:
    talk = Talk()
    item = {"type": "function_call", "call_id": "c9", "name": "weather", "arguments": "{}"}
    talk.ask({"type": "conversation.item.create", "item": item})
    output = {"type": "function_call_output", "call_id": "c9", "output": "rain"}
    talk.ask({"type": "conversation.item.create", "item": output})
    assert [type(m) for m in talk.to_engine] == [p.FunctionCallIn, p.FunctionOutputIn]
    assert talk.of("error") == []


# ---------------------------------------------------------------- places


@pytest.mark.parametrize(
    ("place", "order"), [("root", "xab"), ("a", "axb"), ("b", "abx"), (None, "abx")]
)
def test_item_stands_where_it_was_put_if_the_engine_can_do_that(
    place: str | None, order: str
) -> None:
    talk = Talk()
    talk.conversation.abilities = Abilities(honours=frozenset({"after"}))
    talk.ask(text_item(id="a"))
    talk.ask(text_item(id="b"))
    talk.ask(text_item(id="x") | {"previous_item_id": place})
    before = order[order.index("x") - 1] if order[0] != "x" else None
    assert talk.of("conversation.item.added")[-1]["previous_item_id"] == before
    assert talk.sent(p.ItemIn)[-1].after == ("" if order == "abx" else place)
    assert talk.conversation.items.before("b") == ("a" if order != "axb" else "x")


# ---------------------------------------------------------------- sent ahead


class Port:
    def append(self, data: bytes) -> None: ...

    def flush(self) -> None: ...

    def drop(self) -> None: ...

    def see(self, file: bytes) -> None: ...

    def encode(self, pcm: bytes) -> bytes:
        return pcm


class Stream:
    """A conversation with a client that gets its sound at once."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.events: list[dict[str, Any]] = []
        self.to_engine: list[p.Message] = []
        audience = Audience()
        self.conversation = Conversation(
            SessionSettings(), audience=audience, to_engine=self._send, session_id=SESSION
        )
        self.speech = SentAhead(listener=self.conversation.responses, clock=self.clock)
        self.conversation.responses.use(self.speech, is_sent_ahead=True)
        self.commands = SessionCommands(self.conversation, to_engine=self._send)
        self.door = RealtimeDoor(
            self.commands, self._take, port=Port(), has_track=False, tells_extensions=False
        )
        audience.add(self.door)

    def _send(self, message: p.Message) -> bool:
        self.to_engine.append(message)
        return True

    def _take(self, text: str) -> None:
        self.events.append(checked_event(text, frozenset()))

    @property
    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def answer(self, epoch: int = 1) -> str:
        """Two seconds of sound; the item's id."""
        hear = self.conversation.hear
        hear(p.ResponseStarted(SESSION, epoch, "speech"))
        hear(p.TextOut(SESSION, epoch, 0, "One "))
        hear(p.AudioOut(SESSION, epoch, 0, sound(1000)))
        hear(p.TextOut(SESSION, epoch, 24_000, "two."))
        hear(p.AudioOut(SESSION, epoch, 24_000, sound(1000)))
        item_id: str = self.events[-1]["item_id"]
        return item_id

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds / 0.1)):
            self.clock.now += 0.1
            self.speech.tick()

    def heard(self) -> list[p.Heard]:
        return [message for message in self.to_engine if isinstance(message, p.Heard)]


def test_answer_is_told_as_it_is_sent_and_over_when_made() -> None:
    stream = Stream()
    stream.answer()
    words, delta = "response.output_audio_transcript.delta", "response.output_audio.delta"
    assert stream.types[5:] == [words, delta, delta, words, delta, delta]
    stream.conversation.hear(p.ResponseDone(SESSION, 1, "completed"))
    assert stream.types[-1] == "response.done" and stream.heard() == []
    assert stream.conversation.responses.active is None
    stream.wait(1)
    assert [message.samples for message in stream.heard()] == [4800, 9600, 14_400, 19_200, 24_000]
    stream.wait(1.1)
    assert stream.heard()[-1] == p.Heard(SESSION, 1, 48_000, final=True)
    assert stream.types[-1] == "response.done"


def test_barge_in_ends_the_answer_and_the_client_says_what_it_heard() -> None:
    stream = Stream()
    item_id = stream.answer()
    stream.wait(0.5)
    stream.conversation.hear(p.Interrupt(SESSION, 1))
    assert stream.heard()[-1] == p.Heard(SESSION, 1, 12_000, True, True)
    assert stream.events[-1]["response"]["status"] == "cancelled"
    assert "conversation.item.truncated" not in stream.types
    stream.commands.truncate_item(item_id, 300)
    assert stream.heard()[-1] == p.Heard(SESSION, 1, 7200, True, True)
    assert stream.events[-1]["audio_end_ms"] == 300


def test_client_truncates_what_is_made_and_still_heard() -> None:
    stream = Stream()
    item_id = stream.answer()
    stream.conversation.hear(p.ResponseDone(SESSION, 1, "completed"))
    stream.wait(0.5)
    stream.commands.truncate_item(item_id, 400)
    assert stream.heard()[-1] == p.Heard(SESSION, 1, 9600, True, True)
    assert stream.types.count("response.done") == 1
    stream.wait(3)
    assert stream.heard()[-1].samples == 9600, "it is over"


def test_truncated_while_it_is_made_it_is_cut_where_the_client_says() -> None:
    stream = Stream()
    item_id = stream.answer()
    stream.wait(0.5)
    stream.commands.truncate_item(item_id, 200)
    assert p.CancelResponse(SESSION, 1) in stream.to_engine
    assert stream.heard()[-1].samples == 4800
    assert stream.types[-2:] == ["response.done", "conversation.item.truncated"]


# ---------------------------------------------------------------- out of band


def test_answer_out_of_band_leaves_the_conversation_and_the_speech_alone() -> None:
    talk = Talk()
    talk.answer(1, {0: "long"}, 1000)
    talk.play(100)
    wish = ResponseWish(is_out_of_band=True, modalities=("text",), metadata={"topic": "a"})
    talk.commands.create_response(wish, Asker(talk.door))
    request = talk.sent(p.CreateResponse)[0].request
    talk.take_types()
    talk.hear(p.ResponseStarted(SESSION, 2, "request", modality="text", request=request))
    talk.hear(p.TextOut(SESSION, 2, 0, "safe"))
    talk.done(2)
    assert "conversation.item.added" not in talk.types
    done = talk.one("response.done")["response"]
    assert done["metadata"] == {"topic": "a"} and done["output"][0]["content"][0]["text"] == "safe"
    assert talk.conversation.responses.active is not None
    talk.play(1000)
    assert talk.of("response.done")[-1]["response"]["status"] == "completed"


# ---------------------------------------------------------------- full duplex


class Recorder:
    def __init__(self) -> None:
        self.told: list[tuple[ev.SessionEvent, str | None]] = []

    def tell(self, event: ev.SessionEvent, asked_as: str | None = None) -> None:
        self.told.append((event, asked_as))


def test_appended_context_is_answered_by_name_to_who_appended_it() -> None:
    talk = Talk()
    mine, other = Recorder(), Recorder()
    talk.conversation.audience.add(mine)
    talk.conversation.audience.add(other)
    talk.commands.append_context("commentary", "say hello", "item_1", Asker(mine, "e1"))
    [append] = talk.sent(p.AppendContext)
    assert (append.kind, append.text, append.delegation) == ("commentary", "say hello", "item_1")
    talk.hear(p.ContextAppended(SESSION, append.request, 16_000, 24_000))
    placed = ev.ContextPlaced(kind="commentary", start_ms=1000, end_ms=1500)
    assert mine.told == [(placed, "e1")] and other.told == [(placed, None)]
    talk.hear(p.DelegationCreated(SESSION, "item_2", 32_000))
    assert mine.told[1][0] == ev.TaskDelegated(delegation_id="item_2", at_ms=2000)
    assert talk.events == [], "Realtime has no word for any of it"
