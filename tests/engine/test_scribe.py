"""Speech written down beside an engine: in order, bounded, and told of when it fails.

The native engine's part is in tests/engine/minicpmo/session/test_writing_down.py.
"""

from __future__ import annotations

import asyncio
import io
import wave
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import pytest
from aiohttp import web

from engine.builtin.scribe import BuiltinScribe
from engine.config import BuiltinConfig, TranscriptionConfig
from engine.ipc import protocol as p
from engine.process import scribe_of
from engine.scribe import MAX_WAITING, TOO_MUCH, NotWrittenError, SessionScribe, Unwritten
from engine.transcription_endpoint import MAX_ANSWER_BYTES, TranscriptionEndpoint
from tests.speech import DATA, read_wav, resample

SESSION = "rtc_test"


class Desk:
    """A session whose utterances are written down when the test says so."""

    def __init__(self) -> None:
        self.told: asyncio.Queue[p.InputTranscript] = asyncio.Queue()
        self.asked: asyncio.Queue[tuple[bytes, str]] = asyncio.Queue()
        self.words: asyncio.Queue[str | Exception] = asyncio.Queue()
        self.scribe = SessionScribe(SESSION, self.write_down, self._tell)

    def _tell(self, message: p.FromEngine) -> None:
        assert isinstance(message, p.InputTranscript) and message.final
        self.told.put_nowait(message)

    async def write_down(self, pcm: bytes, language: str) -> str:
        self.asked.put_nowait((pcm, language))
        words = await self.words.get()
        if isinstance(words, Exception):
            raise words
        return words

    def say(self, *numbers: int) -> None:
        for number in numbers:
            self.scribe.take(Unwritten(number, bytes(number), "en"))


async def test_utterances_are_written_down_in_order() -> None:
    desk = Desk()
    desk.say(1, 2)
    desk.words.put_nowait(" good ")
    desk.words.put_nowait("morning")
    told = [await desk.told.get(), await desk.told.get()]
    assert told == [
        p.InputTranscript(SESSION, 1, "good", True),
        p.InputTranscript(SESSION, 2, "morning", True),
    ]
    assert desk.asked.get_nowait() == (bytes(1), "en")
    desk.say(3)
    desk.words.put_nowait("again")
    assert (await desk.told.get()).text == "again"


async def test_steady_noise_has_no_words_and_nobody_is_asked() -> None:
    desk = Desk()
    desk.scribe.take(Unwritten(1, b"", ""))
    assert await desk.told.get() == p.InputTranscript(SESSION, 1, "", True)
    assert desk.asked.empty()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (NotWrittenError("nobody answers"), "nobody answers"),
        (RuntimeError("a secret"), "internal error of the engine"),
    ],
)
async def test_what_fails_is_told_and_the_next_is_written(error: Exception, told: str) -> None:
    desk = Desk()
    desk.say(1, 2)
    desk.words.put_nowait(error)
    desk.words.put_nowait("words")
    failed = await desk.told.get()
    assert (failed.text, failed.error, failed.code) == ("", told, "failed")
    assert (await desk.told.get()).text == "words"


async def test_of_too_many_the_oldest_that_waits_is_left_out() -> None:
    desk = Desk()
    desk.say(1)
    await desk.asked.get()
    desk.say(*range(2, MAX_WAITING + 3))
    left_out = desk.told.get_nowait()
    assert (left_out.utterance, left_out.error) == (2, TOO_MUCH) and desk.told.empty()


async def test_nothing_is_told_after_the_end() -> None:
    desk = Desk()
    desk.say(1, 2)
    await desk.asked.get()
    desk.scribe.close()
    desk.say(3)
    desk.words.put_nowait("too late")
    for _ in range(3):
        await asyncio.sleep(0)
    assert desk.told.empty() and desk.asked.empty()


# ---------------------------------------------------------------- an endpoint

Answer = Callable[[dict[str, Any]], Awaitable[web.Response]]


class Endpoint:
    """`/v1/audio/transcriptions` as the test wants it."""

    def __init__(self) -> None:
        self.forms: list[dict[str, Any]] = []
        self.authorization = ""
        self.answer: Answer = self._words

    async def _words(self, form: dict[str, Any]) -> web.Response:
        return web.json_response({"text": "good morning", "usage": {"type": "duration"}})

    async def serve(self, request: web.Request) -> web.Response:
        self.authorization = request.headers.get("Authorization", "")
        form: dict[str, Any] = dict(await request.post())
        form["file"] = form["file"].file.read()
        self.forms.append(form)
        return await self.answer(form)


@pytest.fixture
async def endpoint() -> AsyncIterator[tuple[Endpoint, str]]:
    served = Endpoint()
    app = web.Application()
    app.router.add_post("/v1/audio/transcriptions", served.serve)
    # Whoever asked and is gone is waited for no longer.
    runner = web.AppRunner(app, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield served, f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    await runner.cleanup()


async def asked(url: str, language: str = "", **settings: Any) -> str:
    scribe = scribe_of(TranscriptionConfig(url=url, **settings), BuiltinConfig())
    assert isinstance(scribe, TranscriptionEndpoint) and scribe.languages == ()
    await scribe.start(lambda text: None)
    try:
        return await scribe.for_session()(b"\1\2\3\4", language)
    finally:
        await scribe.close()


async def test_an_endpoint_gets_a_wav_the_model_the_language_and_the_key(
    endpoint: tuple[Endpoint, str],
) -> None:
    served, url = endpoint
    assert await asked(url + "/", "zh", model="whisper", api_key="k") == "good morning"
    assert await asked(url) == "good morning"
    first, second = served.forms
    with wave.open(io.BytesIO(first.pop("file"))) as sound:
        assert (sound.getframerate(), sound.getnchannels()) == (16_000, 1)
        assert sound.readframes(9) == b"\1\2\3\4"
    assert first == {"model": "whisper", "language": "zh", "response_format": "json"}
    # The second had no key.
    assert served.authorization == "" and set(second) == {"response_format", "file"}


async def stuck(form: dict[str, Any]) -> web.Response:
    await asyncio.sleep(60)
    raise AssertionError


async def refused(form: dict[str, Any]) -> web.Response:
    return web.Response(status=401, text="the key k is wrong")


async def moved(form: dict[str, Any]) -> web.Response:
    raise web.HTTPFound("http://127.0.0.1:1/")


async def malformed(form: dict[str, Any]) -> web.Response:
    return web.json_response({"words": 3})


async def no_text(form: dict[str, Any]) -> web.Response:
    return web.Response(body=b'{"text":"\xff"}')


async def endless(form: dict[str, Any]) -> web.Response:
    return web.json_response({"text": "a" * MAX_ANSWER_BYTES})


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (stuck, "the transcription endpoint took longer than 0.2 s"),
        (refused, "the transcription endpoint refused the request"),
        (moved, "the transcription endpoint refused the request"),
        (malformed, "the transcription endpoint's answer is malformed"),
        (no_text, "the transcription endpoint's answer is malformed"),
        (endless, "the transcription endpoint's answer is too long"),
    ],
)
async def test_an_endpoint_that_does_not_work_is_told_of_in_our_words(
    endpoint: tuple[Endpoint, str], answer: Answer, told: str
) -> None:
    served, url = endpoint
    served.answer = answer
    with pytest.raises(NotWrittenError) as caught:
        await asked(url, timeout_s=0.2 if answer is stuck else 20)
    assert str(caught.value) == told


async def test_an_endpoint_that_is_not_there_is_told_of() -> None:
    with pytest.raises(NotWrittenError) as caught:
        await asked("http://127.0.0.1:1/v1")
    assert str(caught.value) == "the transcription endpoint cannot be reached"


# ---------------------------------------------------------------- the built-in recogniser


def test_nobody_writes_unless_somebody_is_named() -> None:
    assert scribe_of(TranscriptionConfig(), BuiltinConfig()) is None
    assert isinstance(scribe_of(TranscriptionConfig(builtin=True), BuiltinConfig()), BuiltinScribe)


@pytest.mark.loopback
@pytest.mark.parametrize("speech", ["basic", "auto"])
async def test_the_built_in_recogniser_writes_down_what_is_said(
    speech: Literal["basic", "auto"],
) -> None:
    """With omnicall[voice], where it is installed, and without."""
    scribe = BuiltinScribe(BuiltinConfig(speech=speech, recognisers=1))
    await scribe.start(lambda text: None)
    try:
        rate, samples = read_wav(DATA / "what_time.wav")
        pcm = (resample(samples, rate, 16_000) * 32767).astype("<i2").tobytes()
        assert "time" in await scribe.for_session()(pcm, "")
        assert scribe.languages == ("en",)
    finally:
        await scribe.close()
