"""Where items stand and what of them was heard: neighbours, places, truncation."""

from __future__ import annotations

from typing import Any

import pytest

from engine.ipc import protocol as p
from tests.server.worker.talk import SESSION, Talk, samples
from tests.server.worker.test_requests import text_item


def spoken(talk: Talk, *, play_ms: int, epoch: int = 1) -> str:
    """An answer of 100 ms of which so much is played; its item's id."""
    talk.answer(epoch, {0: "one ", 60: "two"}, 100)
    talk.play(play_ms)
    item_id: str = talk.of("response.output_item.added")[-1]["item"]["id"]
    return item_id


def truncate(talk: Talk, item_id: str, ms: int, **more: Any) -> None:
    event = {"type": "conversation.item.truncate", "item_id": item_id, "audio_end_ms": ms}
    talk.ask(event | more)


@pytest.mark.parametrize("end", ["played", "interrupted", "cancelled"])
def test_an_item_is_done_where_it_was_added(end: str) -> None:
    talk = Talk()
    talk.ask(text_item(id="mine"))
    spoken(talk, play_ms=200 if end == "played" else 60)
    talk.ask(text_item(id="next"))
    if end == "interrupted":
        talk.hear(p.Interrupt(SESSION, 1))
    elif end == "cancelled":
        talk.ask({"type": "response.cancel"})
    spoken(talk, play_ms=200, epoch=2)
    added = {e["item"]["id"]: e["previous_item_id"] for e in talk.of("conversation.item.added")}
    done = {e["item"]["id"]: e["previous_item_id"] for e in talk.of("conversation.item.done")}
    assert added == done and len(added) == 4
    assert list(added.values()) == [None, *list(added)[:-1]]


@pytest.mark.parametrize("place", [None, "mine"])
def test_an_item_at_the_end_is_added(place: str | None) -> None:
    talk = Talk()
    talk.ask(text_item(id="mine") | {"previous_item_id": "root"})
    talk.ask(text_item() | {"previous_item_id": place})
    assert talk.of("conversation.item.added")[1]["previous_item_id"] == "mine"


@pytest.mark.parametrize(
    ("place", "code"),
    [
        ("root", "unsupported_parameter"),
        ("first", "unsupported_parameter"),
        ("nobody", "item_not_found"),
    ],
)
def test_any_other_place_is_refused_by_name(place: str, code: str) -> None:
    talk = Talk()
    talk.ask(text_item(id="first"))
    talk.ask(text_item(id="second"))
    talk.ask(text_item(id="third") | {"previous_item_id": place, "event_id": "e3"})
    error = talk.one("error")["error"]
    assert (error["code"], error["param"], error["event_id"]) == (code, "previous_item_id", "e3")
    assert len(talk.sent(p.ItemIn)) == 2 and len(talk.of("conversation.item.added")) == 2


def test_an_answer_that_is_over_is_truncated_here_and_in_the_engine() -> None:
    talk = Talk()
    item_id = spoken(talk, play_ms=200)
    truncate(talk, item_id, 40)
    assert talk.one("conversation.item.truncated")["audio_end_ms"] == 40
    assert talk.sent(p.Heard)[-1] == p.Heard(SESSION, 1, samples(40), True, True)
    talk.ask({"type": "conversation.item.retrieve", "item_id": item_id})
    item = talk.one("conversation.item.retrieved")["item"]
    assert item["content"][0]["transcript"] == "one " and item["status"] == "incomplete"


def test_truncating_what_was_just_interrupted_tells_again_what_was_heard() -> None:
    talk = Talk()
    item_id = spoken(talk, play_ms=40)
    talk.hear(p.Interrupt(SESSION, 1))
    heard_ms = talk.one("conversation.item.truncated")["audio_end_ms"]
    truncate(talk, item_id, 900)
    assert [e["audio_end_ms"] for e in talk.of("conversation.item.truncated")] == [heard_ms] * 2
    assert talk.of("error") == []


def test_truncating_beyond_the_end_is_an_error() -> None:
    talk = Talk()
    item_id = spoken(talk, play_ms=200)
    truncate(talk, item_id, 101)
    error = talk.one("error")["error"]
    assert error["param"] == "audio_end_ms" and "100 ms" in error["message"]


def test_only_spoken_items_of_the_assistant_are_truncated() -> None:
    talk = Talk()
    talk.ask(text_item(id="mine"))
    truncate(talk, "mine", 0)
    item_id = spoken(talk, play_ms=200)
    truncate(talk, item_id, 0, content_index=1)
    talk.hear(p.ResponseStarted(SESSION, 2, "request", modality="text"))
    talk.hear(p.TextOut(SESSION, 2, 0, "written"), p.ResponseDone(SESSION, 2, "completed"))
    talk.play(40)
    truncate(talk, talk.of("response.output_item.added")[-1]["item"]["id"], 0)
    params = [event["error"]["param"] for event in talk.of("error")]
    assert params == ["item_id", "content_index", "item_id"]
    assert talk.of("conversation.item.truncated") == []


def test_an_answer_deleted_while_it_is_spoken_stays_deleted() -> None:
    talk = Talk()
    item_id = spoken(talk, play_ms=40)
    talk.ask({"type": "conversation.item.delete", "item_id": item_id})
    talk.play(200)
    assert talk.of("response.done")
    talk.ask({"type": "conversation.item.retrieve", "item_id": item_id})
    assert talk.one("error")["error"]["code"] == "item_retrieve_invalid_item_id"
