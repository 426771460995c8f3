"""Items uploaded over HTTP: from the front in pieces to the worker, and joined for the engine.

Guards: large items cross in pieces within the links' bounds and arrive whole; the worker's refusal
is the client's answer; a worker that dies, is silent or does not keep up; a call that ends.
"""

from __future__ import annotations

import asyncio

import pytest

from engine.ipc import protocol as p
from engine.ipc.item_chunks import Joiner, cut
from engine.ipc.transport import encode
from server.control import CallEnded, ItemAdded, ItemRefused, PassPiece
from server.front import uploads as module
from signaling.errors import ProtocolError
from signaling.realtime.client_items import ItemCreate
from signaling.session.items import (
    FunctionCall,
    InputMessage,
    InputTextPart,
    InputVideoPart,
    MessageItem,
)
from tests.server.front.rig import PaperFront

FILM = bytes(range(256)) * 4000


def film(data: bytes = FILM, item_id: str | None = None) -> ItemCreate:
    parts = (InputVideoPart("video/mp4", data), InputTextPart("what is it?"))
    return ItemCreate(InputMessage("user", parts, item_id), previous_item_id="before")


async def upload(paper: PaperFront, create: ItemCreate) -> tuple[str, asyncio.Task[MessageItem]]:
    call_id = await paper.call()
    return call_id, asyncio.create_task(paper.front.desk.add_item(call_id, create))


async def test_item_crosses_in_pieces_and_is_answered_when_it_is_added() -> None:
    paper = PaperFront()
    call_id, adding = await upload(paper, film())
    asked = await paper.added()
    passed = [message for _, message in paper.supervisor.of(PassPiece)]
    assert len(passed) == 3 and {m.call_id for m in passed} == {call_id}
    joiner = Joiner()
    assert [joiner.push(m.piece) for m in passed] == [None] * 3
    item = joiner.push(asked.last)
    assert item is not None and (item.session, item.item) == (call_id, asked.item.id)
    assert item.parts == (p.VideoPart(FILM), p.TextPart("what is it?"))
    assert asked.previous_item_id == "before"
    assert [part.kind for part in asked.item.parts] == ["video", "text"]
    assert len(encode(asked)) < p.MAX_MESSAGE_BYTES and not adding.done()
    paper.says("worker-0", ItemAdded(call_id, asked.item.id))
    assert await adding == asked.item


async def test_small_item_is_one_message() -> None:
    paper = PaperFront()
    create = ItemCreate(InputMessage("user", (InputTextPart("hello"),), "mine"))
    call_id, adding = await upload(paper, create)
    asked = await paper.added()
    assert asked.last.first and asked.last.last and asked.item.id == "mine"
    assert not paper.supervisor.of(PassPiece)
    paper.says("worker-0", ItemAdded(call_id, "mine"))
    assert (await adding).id == "mine"


async def test_workers_refusal_is_passed_on_whole() -> None:
    paper = PaperFront()
    call_id, adding = await upload(paper, film(item_id="twice"))
    await paper.added()
    paper.says(
        "worker-0", ItemRefused(call_id, "twice", 400, "duplicate", "item.id: again", "item.id")
    )
    with pytest.raises(ProtocolError) as caught:
        await adding
    error = caught.value
    assert (error.status, error.code, error.param) == (400, "duplicate", "item.id")


@pytest.mark.parametrize("how", ["ended", "worker"])
async def test_call_that_ends_meanwhile_is_404(how: str) -> None:
    paper = PaperFront()
    call_id, adding = await upload(paper, film())
    await paper.added()
    if how == "ended":
        paper.says("worker-0", CallEnded(call_id, "hangup", 1))
    else:
        paper.down("worker-0")
    with pytest.raises(ProtocolError) as caught:
        await adding
    told = (caught.value.status, caught.value.code)
    assert told == (410, "hangup" if how == "ended" else "worker_gone")
    with pytest.raises(ProtocolError) as caught:
        await paper.front.desk.add_item(call_id, film())
    assert (caught.value.status, caught.value.code) == told


async def test_worker_that_does_not_answer_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_TIMEOUT_S", 0.01)
    paper = PaperFront()
    _, adding = await upload(paper, film())
    with pytest.raises(TimeoutError):
        await adding


async def test_worker_that_takes_no_messages_is_503() -> None:
    paper = PaperFront()
    call_id = await paper.call()
    paper["worker-0"].state = "backoff"
    with pytest.raises(ProtocolError) as caught:
        await paper.front.desk.add_item(call_id, film())
    assert caught.value.status == 503


async def test_only_messages_are_items_here() -> None:
    paper = PaperFront()
    call_id = await paper.call()
    with pytest.raises(ProtocolError) as caught:
        await paper.front.desk.add_item(call_id, ItemCreate(FunctionCall("c", "f", "{}")))
    assert caught.value.param == "item.type"


def test_pieces_that_make_no_item_are_refused() -> None:
    pieces = cut(p.ItemIn("s", "i", "user", (p.VideoPart(FILM),)))
    joiner = Joiner()
    with pytest.raises(ValueError, match="never began"):
        joiner.push(pieces[1])
    joiner.push(pieces[0])
    with pytest.raises(ValueError, match="no item"):
        joiner.push(pieces[-1])
    # An item that was left off does not stand in the way of the next one.
    joiner.push(pieces[0])
    whole = [joiner.push(piece) for piece in pieces]
    assert whole[-1] is not None and whole[-1].parts == (p.VideoPart(FILM),)
    foreign = p.ItemPiece("other", encode(p.ItemIn("s", "i", "user", ())), True, True)
    with pytest.raises(ValueError, match="another session"):
        joiner.push(foreign)


def test_items_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.ipc.item_chunks.MAX_ITEM_BYTES", 1_000_000)
    item = p.ItemIn("s", "i", "user", (p.VideoPart(FILM),))
    with pytest.raises(ValueError, match="at most 1000000"):
        cut(item)
    joiner = Joiner()
    piece = p.ItemPiece("s", bytes(p.MAX_PIECE_BYTES), True, False)
    more = p.ItemPiece("s", bytes(p.MAX_PIECE_BYTES), False, False)
    for part in (piece, more, more):
        joiner.push(part)
    with pytest.raises(ValueError, match="more than 1000000"):
        joiner.push(more)
