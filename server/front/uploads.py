"""Items uploaded over HTTP, sent to their media worker in pieces. Front."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from engine.ipc import protocol as p
from engine.ipc.item_chunks import cut
from engine.ipc.patience import patiently
from server.control import AddItem, ItemAdded, ItemRefused, PassPiece
from server.item_mapping import message_for_engine
from signaling.errors import ProtocolError
from signaling.realtime.client_items import ItemCreate
from signaling.session.ids import new_id
from signaling.session.items import InputMessage, MessageItem, shown

PIECE_PAUSE_S = 0.002
"""Between pieces, so that the worker's loop gets to its sound: 128 MB/s at most."""
ANSWER_TIMEOUT_S = 10.0

Send = Callable[[p.Message], bool]


class ItemDelivery:
    """Owns the uploads under way, one per call."""

    def __init__(self) -> None:
        self._answers: dict[str, asyncio.Future[None]] = {}

    async def add(self, call_id: str, create: ItemCreate, send: Send) -> MessageItem:
        """Have the worker behind `send` add the item; return it without its files.

        Raises `ProtocolError`, `TimeoutError` when the worker does not answer.
        """
        message = create.item
        if not isinstance(message, InputMessage):
            raise ProtocolError(
                "item.type: only messages are uploaded; allowed: message.",
                code="unsupported_item",
                param="item.type",
            )
        item_id = message.id or new_id("item")
        added = shown(item_id, message)
        assert isinstance(added, MessageItem)
        assert call_id not in self._answers, "of a call one item at a time: UploadLine sees to it"
        answer = self._answers[call_id] = asyncio.get_running_loop().create_future()
        try:
            # The engine knows the session by the call's id.
            pieces = await asyncio.to_thread(_cut, message_for_engine(call_id, item_id, message))
            for piece in pieces[:-1]:
                _pass(send, PassPiece(call_id, piece))
                await asyncio.sleep(PIECE_PAUSE_S)
            _pass(send, AddItem(call_id, added, pieces[-1], create.previous_item_id))
            await patiently(answer, ANSWER_TIMEOUT_S)
        finally:
            del self._answers[call_id]
        return added

    def answered(self, answer: ItemAdded | ItemRefused) -> None:
        """Apply the worker's answer."""
        waiting = self._answers.get(answer.call_id)
        if waiting is None or waiting.done():
            return
        if isinstance(answer, ItemAdded):
            waiting.set_result(None)
            return
        waiting.set_exception(
            ProtocolError(
                answer.message, code=answer.code, param=answer.param, status=answer.status
            )
        )

    def over(self, call_id: str, error: ProtocolError) -> None:
        """End the upload of a call that has ended; `error` says why."""
        waiting = self._answers.get(call_id)
        if waiting is not None and not waiting.done():
            waiting.set_exception(error)
            # Whoever is still sending pieces may fail before looking at it.
            waiting.exception()


def _cut(item: p.ItemIn) -> list[p.ItemPiece]:
    try:
        return cut(item)
    except ValueError as error:
        raise ProtocolError(f"item: {error}.", code="too_large", param="item", status=413) from None


def _pass(send: Send, message: p.Message) -> None:
    if not send(message):
        raise ProtocolError(
            "The server is overloaded; try again.",
            code="engine_unavailable",
            type="server_error",
            status=503,
        )
