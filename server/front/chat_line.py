"""One chat request at its engine: what is sent there, and what comes of the answer. Front."""

from __future__ import annotations

import asyncio
from collections import deque

from engine.ipc import protocol as p
from engine.ipc.engine_client import EngineSessionLink
from engine.ipc.item_chunks import cut
from server.item_mapping import for_engine
from server.token_shares import shares
from signaling.audio.transcription import SpokenLine, Transcribed
from signaling.chat.answer import (
    CallPiece,
    ChatPiece,
    ChatUsage,
    Ended,
    FinishReason,
    Sounding,
    Wording,
)
from signaling.chat.messages import OrderedItem
from signaling.errors import ProtocolError

PIECE_PAUSE_S = 0.002
"""Between pieces of large items, so that the engine's loop gets to its sound: 128 MB/s at most."""
MAX_WAITING = 20_000
"""Pieces that wait to be taken: an answer in words has fewer, sound is paced by what was taken."""
TOO_LONG = frozenset(("recording_cut", "video_cut"))
"""Warnings that not the whole of a file is used."""
MENDABLE = frozenset(("context_length_exceeded", "bad_message", "empty_message"))
"""Warnings that there is no answer, which a client can mend."""
REQUEST = "chat"


def server_failed(message: str, code: str = "engine_failed", status: int = 503) -> ProtocolError:
    """An error that the client did not cause."""
    return ProtocolError(message, code=code, type="server_error", status=status)


class ChatLine:
    """Implements `signaling.http.chat.AnswerStream` over a session of an engine."""

    def __init__(self, session: str, *, one_call: bool) -> None:
        self._whole = "messages"
        """What the client gave, by its member."""
        self._session = session
        self._places: list[str] = []
        """Where each item stands in the request."""
        self._one_call = one_call
        self._link: EngineSessionLink | None = None
        self._pieces: deque[ChatPiece] = deque()
        self._came = asyncio.Event()
        self._fault: ProtocolError | None = None
        self._epoch = 0
        self._transcript: Transcribed | None = None
        self._stopped_as: FinishReason | None = None
        self._has_calls = False

    async def ask(
        self, link: EngineSessionLink, items: tuple[OrderedItem, ...], modality: p.Modality
    ) -> None:
        """Put the items into the conversation and have it answered; raises ProtocolError."""
        self._link = link
        self._places = [ordered.where for ordered in items]
        for index, ordered in enumerate(items):
            message = for_engine(self._session, f"item_{index}", ordered.item)
            if isinstance(message, p.ItemIn) and _has_files(message):
                await self._send_cut(message, ordered.where)
            else:
                self._send(message)
        self._send(p.CreateResponse(self._session, modalities=(modality,), request=REQUEST))

    def say(self, link: EngineSessionLink, text: str) -> None:
        """Have a text said as it stands."""
        self._link = link
        self._whole = "input"
        self._places = [self._whole]
        self._send(p.AppendContext(self._session, "commentary", text, REQUEST))

    async def transcribe(self, link: EngineSessionLink, file: bytes) -> Transcribed:
        """Have a recording written down; raises ProtocolError."""
        self._link = link
        self._places = ["file"]
        item = p.ItemIn(self._session, "item_0", "user", (p.AudioPart(file),))
        await self._send_cut(item, "file")
        while self._transcript is None:
            await self._wait()
        return self._transcript

    async def next(self) -> ChatPiece:
        """Wait for the next piece; raises ProtocolError where the answer fails."""
        while not self._pieces:
            await self._wait()
        return self._pieces.popleft()

    async def _wait(self) -> None:
        if self._fault is not None:
            raise self._fault
        self._came.clear()
        await self._came.wait()

    def heard(self, samples: int) -> None:
        """The client has been sent so much of the sound: the engine goes on from there."""
        self._send(p.Heard(self._session, self._epoch, samples))

    def stop(self, reason: FinishReason) -> None:
        """Have the engine end the answer here; `Ended` follows, no more words or sound do."""
        if self._stopped_as is None:
            self._stopped_as = reason
            self._pieces = deque(piece for piece in self._pieces if isinstance(piece, Ended))
            self._send(p.CancelResponse(self._session, self._epoch))

    def gone(self, reason: str) -> None:
        """The engine is lost."""
        self._fail(server_failed(f"The engine is gone: {reason}.", "engine_unavailable"))

    def take(self, message: p.FromEngine) -> None:
        """A message of the engine."""
        match message:
            case p.ResponseStarted():
                self._epoch = message.epoch
            case p.TextOut(text=text) if text:
                self._add(Wording(text))
            case p.AudioOut(pcm=pcm) if pcm:
                self._add(Sounding(pcm))
            case p.FunctionCallOut():
                self._called(message)
            case p.ResponseDone():
                self._done(message)
            case p.PartTranscript():
                self._transcript = _transcribed(message)
                self._came.set()
            case _:
                self._take_trouble(message)

    def _take_trouble(self, message: p.FromEngine) -> None:
        match message:
            case p.RequestRefused(code=code, reason=reason):
                self._fail(server_failed(f"No answer: {reason}.", code))
            case p.PartLeftOut(item=item, part=part, reason=reason):
                where = self._where(item, part)
                told = f"{where}: {reason}."
                self._fail(ProtocolError(told, code="unsupported_content", param=where))
            case p.SessionWarning(code=code, message=told) if code in TOO_LONG:
                whose = self._places[0].partition(".")[0]
                self._fail(ProtocolError(f"{whose}: {told}.", code="too_long", param=whose))
            case p.SessionWarning(code=code, message=told) if code in MENDABLE:
                self._fail(ProtocolError(f"{self._whole}: {told}.", code=code, param=self._whole))
            case p.SessionWarning(code="bad_item" | "overloaded" as code, message=told):
                self._fail(server_failed(f"No answer: {told}.", code))
            case p.SessionEnded(reason="context_limit"):
                told = f"{self._whole}: this is longer than the model's context."
                self._fail(ProtocolError(told, code="context_length_exceeded", param=self._whole))
            case p.SessionEnded(message=told):
                self._fail(
                    server_failed(f"The model has ended the answer: {told or 'no reason given'}.")
                )

    def _called(self, message: p.FunctionCallOut) -> None:
        if self._stopped_as is not None:
            return
        self._has_calls = True
        self._add(CallPiece(message.call_id, message.name, message.arguments, message.last))
        if message.last and self._one_call:
            self._stopped_as = "tool_calls"
            self._send(p.CancelResponse(self._session, self._epoch))

    def _done(self, message: p.ResponseDone) -> None:
        usage = ChatUsage(
            message.input_tokens,
            message.output_tokens,
            shares(message.input_split),
            shares(message.output_split),
        )
        if self._stopped_as is not None:
            self._put(Ended(self._stopped_as, usage))
        elif message.status == "completed":
            self._put(Ended("tool_calls" if self._has_calls else "stop", usage))
        elif message.status == "incomplete":
            self._put(Ended("length", usage))
        else:
            told = f"The answer failed: {message.reason or message.status}."
            self._fail(server_failed(told, "response_failed", 500))

    def _add(self, piece: ChatPiece) -> None:
        if self._stopped_as is not None:
            return
        if len(self._pieces) >= MAX_WAITING:
            self._fail(server_failed("The answer is not read.", "too_slow"))
        else:
            self._put(piece)

    def _put(self, piece: ChatPiece) -> None:
        if self._fault is None:
            self._pieces.append(piece)
            self._came.set()

    def _fail(self, fault: ProtocolError) -> None:
        if self._fault is None:
            self._fault = fault
            if fault.status < 500:
                # The request was wrong: the rest of it needs no answer.
                self._pieces.clear()
            self._came.set()

    def _where(self, item_id: str, part: int) -> str:
        place = self._places[int(item_id.removeprefix("item_"))]
        return place if place == "file" else f"{place}.content.{part}"

    def _send(self, message: p.Message) -> None:
        if self._link is not None and not self._link.send(message):
            self._fail(server_failed("The model is overloaded.", "engine_unavailable"))

    async def _send_cut(self, item: p.ItemIn, where: str) -> None:
        try:
            pieces = await asyncio.to_thread(cut, item)
        except ValueError as error:
            raise ProtocolError(
                f"{where}: {error}.", code="too_large", param=where, status=413
            ) from None
        for piece in pieces:
            self._send(piece)
            await asyncio.sleep(PIECE_PAUSE_S)


def _transcribed(told: p.PartTranscript) -> Transcribed:
    lines = (SpokenLine(s.start_ms / 1000, s.end_ms / 1000, s.text) for s in told.segments)
    return Transcribed(tuple(lines), told.duration_ms / 1000)


def _has_files(item: p.ItemIn) -> bool:
    return any(not isinstance(part, p.TextPart) for part in item.parts)
