"""POST /v1/chat/completions and GET /v1/models. Front."""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Protocol

from aiohttp import hdrs, web

from signaling.chat import rendering
from signaling.chat.answer import ChatPiece, Ended, FinishReason, Sounding
from signaling.chat.models import model_object, unknown_model
from signaling.chat.request import ChatOrder, parse_chat
from signaling.chat.spoken import KEPT_S, SpokenAnswers
from signaling.chat.telling import ChunkTeller, Gathered, SpokenAs
from signaling.chat.wav import HZ, wav_head
from signaling.errors import ProtocolError
from signaling.http.auth import Authenticator, require_key
from signaling.http.connected import while_connected
from signaling.http.event_stream import StreamedBody, ignored_header
from signaling.http.large_bodies import LargeBodies
from signaling.http.resources import add_resource
from signaling.session.ids import new_id

CHAT_PATH = "/v1/chat/completions"
MODELS_PATH = "/v1/models"
MAX_BODY_BYTES = 40_000_000
INLINE_BYTES = 32 * 1024
"""Up to here a body is decoded on the loop."""
KEEPALIVE_S = 15.0
MAX_SPEECH_BYTES = 2 * HZ * 600
"""Of an answer that is gathered: 10 minutes; there it ends."""

EncodeSound = Callable[[bytes, str], Awaitable[bytes]]
"""24 kHz PCM as a file of the format named; raises ProtocolError."""


class AnswerStream(Protocol):
    """An answer as it comes."""

    async def next(self) -> ChatPiece:
        """Wait for the next piece, the last is `Ended`; raises ProtocolError."""

    def heard(self, samples: int) -> None:
        """So much of the sound has been sent: the engine stays a little ahead of it."""

    def stop(self, reason: FinishReason) -> None:
        """End the answer here; only `Ended` follows."""


class ChatService(Protocol):
    """Has chats answered; implemented by the front."""

    def models(self) -> tuple[str, ...]: ...

    def answer(
        self, order: ChatOrder, callers: tuple[str, ...]
    ) -> AbstractAsyncContextManager[tuple[AnswerStream, tuple[str, ...]]]:
        """Have it answered: the answer, and the members that change nothing there.

        Raises ProtocolError, NoFreeSlot, TimeoutError. Leaving it ends the answer.
        """


def add_chat_routes(
    app: web.Application, service: ChatService, auth: Authenticator, encode: EncodeSound
) -> None:
    """Add the routes; signaling.auth.install must have been called on the same app."""
    chats = ChatEndpoints(service, auth, encode)
    models = ModelEndpoints(service)
    add_resource(app, CHAT_PATH, auth, {hdrs.METH_POST: chats.complete})
    add_resource(app, MODELS_PATH, auth, {hdrs.METH_GET: models.list})
    add_resource(app, MODELS_PATH + "/{model:.+}", auth, {hdrs.METH_GET: models.get})


class ModelEndpoints:
    """The list of models; they are as old as this process."""

    def __init__(self, service: ChatService) -> None:
        self._service = service
        self._created = int(time.time())

    async def list(self, request: web.Request) -> web.Response:
        """List what may be named as the model."""
        require_key(request)
        models = [model_object(name, self._created) for name in self._service.models()]
        return web.json_response({"object": "list", "data": models})

    async def get(self, request: web.Request) -> web.Response:
        """Tell one model."""
        require_key(request)
        name = request.match_info["model"]
        if name not in self._service.models():
            raise unknown_model(name)
        return web.json_response(model_object(name, self._created))


class ChatEndpoints:
    """Owns the words of spoken answers and the line of large bodies."""

    def __init__(self, service: ChatService, auth: Authenticator, encode: EncodeSound) -> None:
        self._service = service
        self._auth = auth
        self._encode = encode
        self._spoken = SpokenAnswers()
        self._bodies = LargeBodies()

    async def complete(self, request: web.Request) -> web.StreamResponse:
        """Answer messages, in words and sound, whole or streamed."""
        callers = require_key(request).callers(request.remote)
        async with AsyncExitStack() as upload:
            body = await self._bodies.read(request, MAX_BODY_BYTES, upload)
            if len(body) <= INLINE_BYTES:
                order = parse_chat(body, self._spoken.recall)
            else:
                order = await asyncio.to_thread(parse_chat, body, self._spoken.recall)
            del body
            async with while_connected(request), self._service.answer(order, callers) as answered:
                # The engine has the files: the next upload may come.
                await upload.aclose()
                answer, ignored = answered
                headers = ignored_header(order.ignored, ignored)
                if order.is_streamed:
                    stream = StreamedBody(request, self._auth, "text/event-stream", headers)
                    return await self._stream(order, answer, stream)
                gathered = await _gather(order, answer)
            return await self._whole(order, gathered, headers)

    async def _stream(
        self, order: ChatOrder, answer: AnswerStream, stream: StreamedBody
    ) -> web.StreamResponse:
        speech = _speech(order)
        teller = ChunkTeller(_head(order), speech, order.stop, tells_usage=order.tells_usage)
        try:
            await self._tell(answer, teller, stream)
        except ProtocolError as error:
            if not stream.has_begun:
                raise
            await stream.write(rendering.error_line(error))
        if speech is not None:
            self._spoken.keep(speech.id, teller.words.text)
        return stream.response

    async def _tell(self, answer: AnswerStream, teller: ChunkTeller, stream: StreamedBody) -> None:
        begun, samples = False, 0
        while True:
            try:
                async with asyncio.timeout(KEEPALIVE_S):
                    piece = await answer.next()
            except TimeoutError:
                await stream.write(rendering.WAIT)
                continue
            first = b"" if begun else teller.begin()
            begun = True
            await stream.write(first + teller.tell(piece))
            if isinstance(piece, Ended):
                return
            if isinstance(piece, Sounding):
                samples += len(piece.pcm) // 2
                answer.heard(samples)
            if teller.words.is_over:
                answer.stop("stop")

    async def _whole(
        self, order: ChatOrder, gathered: Gathered, headers: dict[str, str]
    ) -> web.Response:
        speech = _speech(order)
        sound = b""
        if order.spoken_as is not None and gathered.pcm:
            sound = await self._file(bytes(gathered.pcm), order.spoken_as)
        if speech is not None:
            self._spoken.keep(speech.id, gathered.words.text)
        body = await asyncio.to_thread(gathered.render, _head(order), speech, sound)
        return web.Response(body=body, content_type="application/json", headers=headers)

    async def _file(self, pcm: bytes, kind: str) -> bytes:
        if kind == "pcm16":
            return pcm
        return wav_head(len(pcm)) + pcm if kind == "wav" else await self._encode(pcm, kind)


async def _gather(order: ChatOrder, answer: AnswerStream) -> Gathered:
    gathered = Gathered(order.stop)
    while True:
        piece = await answer.next()
        gathered.push(piece)
        if isinstance(piece, Ended):
            return gathered
        if isinstance(piece, Sounding):
            answer.heard(len(gathered.pcm) // 2)
            if len(gathered.pcm) > MAX_SPEECH_BYTES:
                answer.stop("length")
        if gathered.words.is_over:
            answer.stop("stop")


def _head(order: ChatOrder) -> rendering.CompletionHead:
    name = f"chatcmpl-{secrets.token_urlsafe(12)}"
    return rendering.CompletionHead(name, int(time.time()), order.model)


def _speech(order: ChatOrder) -> SpokenAs | None:
    if order.spoken_as is None:
        return None
    expires_at = int(time.time()) + KEPT_S
    return SpokenAs(new_id("audio"), expires_at, is_wav=order.spoken_as == "wav")
