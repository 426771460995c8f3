"""Utterances written down by an OpenAI-compatible `/v1/audio/transcriptions` endpoint."""

from __future__ import annotations

import asyncio
import io
import logging
import wave

import aiohttp
import msgspec
from aiohttp.http_exceptions import HttpProcessingError

from engine.base import Progress
from engine.config import TranscriptionConfig
from engine.ipc.protocol import INPUT_HZ
from engine.ipc.transport import UNREADABLE
from engine.scribe import NotWrittenError, WriteDown

MAX_ANSWER_BYTES = 1 << 18

log = logging.getLogger(__name__)


class Written(msgspec.Struct, frozen=True):
    """What of an answer counts."""

    text: str


class TranscriptionEndpoint:
    """Owns the HTTP connections to one endpoint. Implements `engine.scribe.Scribe`."""

    languages: tuple[str, ...] = ()

    def __init__(self, config: TranscriptionConfig) -> None:
        self._config = config
        self._url = config.url.rstrip("/") + "/audio/transcriptions"
        self._free = asyncio.Semaphore(config.max_requests)
        self._http: aiohttp.ClientSession | None = None

    async def start(self, progress: Progress) -> None:
        key = self._config.api_key
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None),
            connector=aiohttp.TCPConnector(limit=0),
            headers={"Authorization": f"Bearer {key}"} if key else None,
        )

    def for_session(self) -> WriteDown:
        return self.write_down

    async def close(self) -> None:
        if self._http is not None:
            await self._http.close()

    async def write_down(self, pcm: bytes, language: str) -> str:
        """Waiting for others counts, too."""
        try:
            async with asyncio.timeout(self._config.timeout_s), self._free:
                return await self._ask(pcm, language)
        except TimeoutError:
            told = f"the transcription endpoint took longer than {self._config.timeout_s:g} s"
            raise NotWrittenError(told) from None
        except UNREADABLE as error:
            log.warning("the transcription endpoint's answer is malformed")
            raise NotWrittenError("the transcription endpoint's answer is malformed") from error
        except (aiohttp.ClientError, HttpProcessingError, OSError) as error:
            log.warning("the transcription endpoint cannot be used (%s)", type(error).__name__)
            raise NotWrittenError("the transcription endpoint cannot be reached") from error

    async def _ask(self, pcm: bytes, language: str) -> str:
        assert self._http is not None, "not started"
        fields = {"model": self._config.model, "language": language}
        form = aiohttp.FormData({name: value for name, value in fields.items() if value})
        form.add_field("response_format", "json")
        form.add_field("file", _wav(pcm), filename="speech.wav", content_type="audio/wav")
        async with self._http.post(self._url, data=form, allow_redirects=False) as answer:
            if answer.status != 200:
                log.warning("the transcription endpoint answered with status %d", answer.status)
                raise NotWrittenError("the transcription endpoint refused the request")
            body = bytearray()
            async for piece in answer.content.iter_chunked(1 << 14):
                body += piece
                if len(body) > MAX_ANSWER_BYTES:
                    raise NotWrittenError("the transcription endpoint's answer is too long")
        return msgspec.json.decode(body, type=Written).text


def _wav(pcm: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(INPUT_HZ)
        sound.writeframes(pcm)
    return file.getvalue()
