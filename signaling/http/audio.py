"""POST /v1/audio/speech and /v1/audio/transcriptions. Front."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any, Protocol

from aiohttp import hdrs, web

from signaling.audio.speech_request import MEDIA_TYPES, ReadingOrder, parse_speech
from signaling.audio.transcription import (
    Transcribed,
    TranscriptionOrder,
    parse_transcription,
    render_transcript,
    transcript_events,
)
from signaling.chat.answer import ChatUsage, Ended, Sounding
from signaling.chat.messages import MAX_SOUND_BYTES
from signaling.chat.rendering import data_line, error_line
from signaling.chat.wav import wav_head
from signaling.errors import ProtocolError
from signaling.http.auth import Authenticator, require_key
from signaling.http.bodies import read_body
from signaling.http.chat import AnswerStream, EncodeSound
from signaling.http.connected import while_connected
from signaling.http.event_stream import StreamedBody, ignored_header
from signaling.http.forms import parse_form
from signaling.http.large_bodies import LargeBodies
from signaling.http.resources import add_resource

SPEECH_PATH = "/v1/audio/speech"
TRANSCRIPTIONS_PATH = "/v1/audio/transcriptions"
MAX_SPEECH_BODY = 64 * 1024
MAX_FORM_BYTES = MAX_SOUND_BYTES + 256 * 1024
PLAIN = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}


class AudioService(Protocol):
    """Has texts spoken and recordings written down; implemented by the front."""

    def speak(
        self, order: ReadingOrder, callers: tuple[str, ...]
    ) -> AbstractAsyncContextManager[tuple[AnswerStream, tuple[str, ...]]]:
        """As `signaling.http.chat.ChatService.answer`."""

    async def transcribe(
        self, order: TranscriptionOrder, callers: tuple[str, ...]
    ) -> tuple[Transcribed, str]:
        """Return the words and their language; raises ProtocolError, NoFreeSlot, TimeoutError."""


def add_audio_routes(
    app: web.Application, service: AudioService, auth: Authenticator, encode: EncodeSound
) -> None:
    """Add the routes; signaling.auth.install must have been called on the same app."""
    audio = AudioEndpoints(service, auth, encode)
    add_resource(app, SPEECH_PATH, auth, {hdrs.METH_POST: audio.speak})
    add_resource(app, TRANSCRIPTIONS_PATH, auth, {hdrs.METH_POST: audio.transcribe})


class AudioEndpoints:
    """Owns the line of files that are received."""

    def __init__(self, service: AudioService, auth: Authenticator, encode: EncodeSound) -> None:
        self._service = service
        self._auth = auth
        self._encode = encode
        self._bodies = LargeBodies()

    async def speak(self, request: web.Request) -> web.StreamResponse:
        """Read a text aloud, word for word."""
        callers = require_key(request).callers(request.remote)
        order = parse_speech(await read_body(request, MAX_SPEECH_BODY, None))
        async with while_connected(request), self._service.speak(order, callers) as spoken:
            answer, ignored = spoken
            kind = "text/event-stream" if order.is_events else MEDIA_TYPES[order.kind]
            headers = ignored_header(order.ignored, ignored)
            body = StreamedBody(request, self._auth, kind, headers)
            try:
                async for piece in self._file(answer, order):
                    await body.write(piece)
            except ProtocolError as error:
                if not body.has_begun:
                    raise
                if order.is_events:
                    await body.write(error_line(error))
                else:
                    # Else the client would take what it has for the whole.
                    _cut(request)
            return body.response

    async def _file(self, answer: AnswerStream, order: ReadingOrder) -> AsyncIterator[bytes]:
        """The file in pieces, or the events that tell them."""
        tell = _event if order.is_events else bytes
        is_plain = order.kind in ("pcm", "wav")
        # Sent with the first sound: until then a failure can be told by a status.
        head = wav_head() if order.kind == "wav" else b""
        pcm, samples = bytearray(), 0
        while not isinstance(piece := await answer.next(), Ended):
            if not isinstance(piece, Sounding):
                continue
            if is_plain:
                yield tell(head + piece.pcm)
                head = b""
            else:
                pcm += piece.pcm
            samples += len(piece.pcm) // 2
            answer.heard(samples)
        if head:
            yield tell(wav_head(0))
        if pcm:
            yield tell(await self._encode(bytes(pcm), order.kind))
        if order.is_events:
            yield _usage_event(piece.usage)

    async def transcribe(self, request: web.Request) -> web.StreamResponse:
        """Write down what is said in a recording."""
        callers = require_key(request).callers(request.remote)
        if request.content_type != "multipart/form-data":
            raise ProtocolError(
                "multipart/form-data with a file is expected.",
                code="unsupported_media_type",
                status=415,
            )
        async with AsyncExitStack() as upload:
            body = await self._bodies.read(request, MAX_FORM_BYTES, upload)
            parts = await asyncio.to_thread(parse_form, body, request.headers[hdrs.CONTENT_TYPE])
            del body
            order = parse_transcription(parts)
            async with while_connected(request):
                heard, language = await self._service.transcribe(order, callers)
        headers = ignored_header(order.ignored)
        if order.is_streamed:
            stream = StreamedBody(request, self._auth, "text/event-stream", headers)
            await stream.write(transcript_events(heard))
            return stream.response
        text = render_transcript(heard, order.format, language)
        kind = PLAIN.get(order.format, "application/json")
        return web.Response(text=text, content_type=kind, headers=headers)


def _event(piece: bytes) -> bytes:
    audio = base64.b64encode(piece).decode()
    return data_line({"type": "speech.audio.delta", "audio": audio})


def _usage_event(spent: ChatUsage) -> bytes:
    usage: dict[str, Any] = {
        "input_tokens": spent.prompt_tokens,
        "output_tokens": spent.completion_tokens,
        "total_tokens": spent.prompt_tokens + spent.completion_tokens,
    }
    return data_line({"type": "speech.audio.done", "usage": usage})


def _cut(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
