"""The chat responder against a real local HTTP server: streaming, pictures, every way to fail."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image

from engine.builtin import chat as module
from engine.builtin.answerer import CascadeAnswerer
from engine.builtin.chat import ChatResponder
from engine.builtin.interfaces import Parts, Transcript
from engine.builtin.session import CascadeSession
from engine.builtin.synthesiser import Synthesiser
from engine.config import ChatEndpoint
from engine.files.decoder import FileDecoder
from engine.ipc.protocol import (
    AudioOut,
    AudioPart,
    CancelResponse,
    CreateResponse,
    ImageIn,
    ImagePart,
    ItemIn,
    PartLeftOut,
    ResponseDone,
    ResponseStarted,
    Sampling,
    SessionConfig,
    TextOut,
    TextPart,
    TokenSplit,
)
from tests.engine.builtin.rig import SESSION, Caller, ScriptedRecogniser, say, settle

KEY = "sk-very-secret"
Stream = Callable[[web.StreamResponse], Awaitable[None]]


def event(text: str | None = None, finish: str | None = None, **more: Any) -> bytes:
    delta = {} if text is None else {"content": text}
    body = {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}], **more}
    return f"data: {json.dumps(body)}\n\n".encode()


DONE = b"data: [DONE]\n\n"


class FakeModel:
    """Keeps the requests; answers with what the test gives."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.pieces: list[bytes] = [event("Hello there. "), event("Bye.", "stop"), DONE]
        self.status = 200
        self.content_type = "text/event-stream"
        self.before_headers: asyncio.Event | None = None
        self.after_pieces: asyncio.Event | None = None
        self.cuts = False
        self.drips = b""
        self.was_aborted = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(await request.json())
        self.headers.append(dict(request.headers))
        if self.before_headers is not None:
            await self.before_headers.wait()
        response = web.StreamResponse(
            status=self.status,
            headers={"Content-Type": self.content_type, "Location": "http://127.0.0.1:1/"},
        )
        await response.prepare(request)
        try:
            for piece in self.pieces:
                await response.write(piece)
            while self.drips:
                await response.write(self.drips)
                await asyncio.sleep(0.02)
            if self.after_pieces is not None:
                await self.after_pieces.wait()
        except (asyncio.CancelledError, ConnectionError):
            self.was_aborted.set()
            raise
        if self.cuts and request.transport is not None:
            request.transport.abort()
        return response


@pytest.fixture
async def model() -> AsyncIterator[FakeModel]:
    yield FakeModel()


@asynccontextmanager
async def conversation(
    model: FakeModel,
    *,
    config: SessionConfig | None = None,
    url: str | None = None,
    script: tuple[Transcript, ...] = (),
    **endpoint: Any,
) -> AsyncIterator[Caller]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", model.handle)
    server = TestServer(app, handler_cancellation=True)
    await server.start_server()
    settings = ChatEndpoint(
        url=str(server.make_url("/v1")) if url is None else url,
        model="a-model",
        api_key=KEY,
        **{"timeout_s": 5.0, **endpoint},
    )
    chat, voice = ChatResponder(settings), Synthesiser("en-us", 165)
    await voice.start()
    await chat.start()
    caller = Caller()
    caller.listens = True
    decoder = FileDecoder()
    with ThreadPoolExecutor(1) as eyes:
        parts = Parts(
            ScriptedRecogniser(script), CascadeAnswerer(chat, voice), eyes, decoder, voice.has_voice
        )
        session = CascadeSession(SESSION, config or SessionConfig(), caller.receive, parts)
        caller.connect(session)
        try:
            yield caller
        finally:
            await session.close()
            decoder.close()
            await chat.close()
            await voice.close()
            for gate in (model.before_headers, model.after_pieces):
                if gate is not None:
                    gate.set()
            await server.close()


def png(colour: tuple[int, int, int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGBA", (64, 48), colour).save(file, "PNG")
    return file.getvalue()


def ask(caller: Caller, text: str = "hi", *pictures: bytes) -> None:
    parts: tuple[TextPart | ImagePart, ...] = (TextPart(text),)
    parts += tuple(ImagePart(picture) for picture in pictures)
    caller.session.handle(ItemIn(SESSION, "item", "user", parts))
    caller.session.handle(CreateResponse(SESSION))


def shown(caller: Caller, epoch: int = 1) -> str:
    return "".join(text.text for text in caller.all(TextOut) if text.epoch == epoch)


async def test_model_is_told_of_a_recording_that_it_does_not_get(model: FakeModel) -> None:
    async with conversation(model) as caller:
        parts = (AudioPart(bytes(4800)), TextPart("what was that?"))
        caller.session.handle(ItemIn(SESSION, "item", "user", parts))
        caller.session.handle(CreateResponse(SESSION))
        await caller.wait(ResponseDone)
    content = model.requests[0]["messages"][-1]["content"]
    assert content.startswith("what was that?") and "that recording cannot" in content


async def test_an_answer_is_streamed_and_spoken(model: FakeModel) -> None:
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": 3,
        "prompt_tokens_details": {"cached_tokens": 8, "audio_tokens": None},
    }
    model.pieces = [
        b": a comment\n\nevent: message\n",
        event(None),
        event("Hel"),
        event("lo there. How"),
        event(" are you?", "stop"),
        f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n".encode(),
        DONE,
    ]
    async with conversation(model) as caller:
        ask(caller)
        done = await caller.wait(ResponseDone)
        assert (done.status, done.input_tokens, done.output_tokens) == ("completed", 12, 3)
        assert done.input_split == TokenSplit(text=12, audio=0, image=0, cached=8)
        assert done.output_split == TokenSplit(text=3, audio=0)
        assert shown(caller) == "Hello there. How are you?"
        assert sum(len(sound.pcm) for sound in caller.all(AudioOut)) > 48_000
        assert caller.all(AudioOut)[-1].last


async def test_shares_that_the_endpoint_does_not_tell_are_left_out(model: FakeModel) -> None:
    usage = json.dumps({"choices": [], "usage": {"prompt_tokens": 90, "completion_tokens": 1}})
    model.pieces = [event("Red.", "stop"), f"data: {usage}\n\n".encode(), DONE]
    async with conversation(model) as caller:
        ask(caller, "what is this", png((200, 30, 30, 255)))
        done = await caller.wait(ResponseDone)
    assert (done.input_tokens, done.input_split) == (90, TokenSplit(audio=0))


async def test_the_first_clause_is_spoken_before_the_answer_is_complete(model: FakeModel) -> None:
    model.pieces = [event("Hello there. And")]
    model.after_pieces = asyncio.Event()
    async with conversation(model) as caller:
        ask(caller)
        await caller.wait(AudioOut)
        assert caller.all(ResponseDone) == []


async def test_the_request_says_what_the_session_knows(model: FakeModel) -> None:
    config = SessionConfig(
        instructions="Be kind.",
        appendix="It rains.",
        sampling=Sampling(temperature=0.3, top_p=0.9, max_output_tokens=50, seed=7),
    )
    async with conversation(model, config=config) as caller:
        rgb = np.full((48, 64, 3), 90, np.uint8)
        caller.session.handle(ImageIn(SESSION, 0, 64, 48, rgb.tobytes()))
        ask(caller, "what is this", png((200, 30, 30, 255)), b"\x89PNG not really")
        await caller.wait(ResponseDone)
    (request,) = model.requests
    assert model.headers[0]["Authorization"] == f"Bearer {KEY}"
    assert (request["model"], request["stream"], request["max_tokens"]) == ("a-model", True, 50)
    assert (request["temperature"], request["top_p"], request["seed"]) == (0.3, 0.9, 7)
    system, user = request["messages"]
    assert system["role"] == "system" and system["content"].endswith("Be kind.\n\nIt rains.")
    text, typed, camera = user["content"]
    assert text["text"].startswith("what is this\n[A file was attached that did not reach you")
    [left_out] = caller.all(PartLeftOut)
    assert left_out.part == 2 and "no JPEG" in left_out.reason
    prefix, data = typed["image_url"]["url"].split(",")
    assert prefix == "data:image/jpeg;base64"
    seen = Image.open(io.BytesIO(base64.b64decode(data)))
    assert seen.size == (64, 48) and seen.getpixel((9, 9)) == pytest.approx((200, 30, 30), abs=4)
    prefix, data = camera["image_url"]["url"].split(",")
    assert prefix == "data:image/jpeg;base64"
    assert base64.b64decode(data).startswith(b"\xff\xd8")


async def test_the_camera_picture_stays_here_if_so_configured(model: FakeModel) -> None:
    async with conversation(model, send_picture=False) as caller:
        caller.session.handle(ImageIn(SESSION, 0, 8, 8, bytes(192)))
        ask(caller)
        await caller.wait(ResponseDone)
    assert model.requests[0]["messages"][1]["content"] == "hi"


async def test_history_holds_only_what_was_heard(model: FakeModel) -> None:
    model.pieces = [event("One two three four five six seven eight nine ten.", "stop"), DONE]
    async with conversation(model) as caller:
        ask(caller, "count")
        await caller.wait(ResponseDone)
        caller.heard(1, 24_000, final=True, interrupted=True)
        ask(caller, "and now")
        await caller.wait(ResponseDone, 2)
    roles = [message["role"] for message in model.requests[1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert 5 < len(model.requests[1]["messages"][2]["content"]) < 30
    assert model.requests[1]["messages"][2]["content"].startswith("One two")


async def test_speech_is_answered_by_the_model_but_errors_are_not_sent_to_it(
    model: FakeModel,
) -> None:
    script = (Transcript("tell me more"), Transcript("", error="it stopped"))
    async with conversation(model, script=script) as caller:
        await caller.hear(say("what_time"))
        await caller.wait(ResponseDone)
        caller.heard(1, 10**6, final=True)
        await caller.hear(say("what_time"))
        await caller.wait(ResponseDone, 2)
        assert shown(caller, 2) == "Sorry, my speech recogniser failed. Please say that again."
    assert [request["messages"][-1]["content"] for request in model.requests] == ["tell me more"]


async def test_a_server_that_does_not_stream_is_understood(model: FakeModel) -> None:
    model.content_type = "application/json"
    answer = {"choices": [{"message": {"content": "All at once."}, "finish_reason": "stop"}]}
    model.pieces = [json.dumps(answer).encode()]
    async with conversation(model) as caller:
        ask(caller)
        assert (await caller.wait(ResponseDone)).status == "completed"
        assert shown(caller) == "All at once."


@pytest.mark.parametrize(
    "reason, text", [("length", "token limit"), ("content_filter", "content filter")]
)
async def test_a_shortened_answer_is_marked_incomplete(
    model: FakeModel, reason: str, text: str
) -> None:
    model.pieces = [event("Half an", reason), DONE]
    async with conversation(model) as caller:
        ask(caller)
        done = await caller.wait(ResponseDone)
        assert done.status == "incomplete" and text in done.reason


JSON_TYPE = "application/json"
ERRORS: list[tuple[dict[str, Any], str, str]] = [
    ({"status": 401, "pieces": [b'{"error": {"message": "bad key"}}']}, "refused", "refused"),
    ({"status": 404, "pieces": [b"<html>"], "content_type": "text/html"}, "refused", "refused"),
    ({"status": 429, "pieces": [b"slow down"], "content_type": "text/plain"}, "refused", "refused"),
    ({"status": 302, "pieces": []}, "refused", "refused"),
    ({"status": 500, "pieces": [b"oops"]}, "is not working", "not working"),
    ({"status": 503, "pieces": []}, "is not working", "not working"),
    ({"status": 401, "pieces": [KEY.encode()], "content_type": "text/plain"}, "refused", "refused"),
    ({"pieces": [b"data: {nonsense\n\n"]}, "do not understand", "malformed"),
    ({"pieces": [b"data: [1, 2]\n\n"]}, "do not understand", "malformed"),
    ({"pieces": [b"data: " + b"[" * 50_000 + b"\n\n"]}, "do not understand", "malformed"),
    ({"pieces": [b"<html>hello</html>\n"]}, "do not understand", "malformed"),
    ({"pieces": [b'data: {"choices": [5]}\n\n']}, "do not understand", "malformed"),
    ({"pieces": [b'data: {"choices": [{"delta": {"content": 5}}]}\n\n']}, "do not", "malformed"),
    ({"pieces": [b"data: " + b"x" * 400_000]}, "do not understand", "malformed"),
    ({"pieces": [b'data: {"error": {"message": "bad key"}}\n\n']}, "reported", "an error"),
    ({"pieces": [b'data: {"error": "bad key"}\n\n']}, "reported", "an error"),
    ({"pieces": []}, "cut off", "early"),
    ({"pieces": [DONE]}, "no answer", "empty"),
    ({"pieces": [b"{}"], "content_type": JSON_TYPE}, "do not understand", "malformed"),
    ({"pieces": [b"[]"], "content_type": JSON_TYPE}, "do not understand", "malformed"),
]


@pytest.mark.parametrize("behaviour, spoken, reason", ERRORS)
async def test_an_error_is_spoken_shown_and_told_in_our_words(
    model: FakeModel,
    behaviour: dict[str, Any],
    spoken: str,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in behaviour.items():
        setattr(model, name, value)
    caplog.set_level("DEBUG", "engine.builtin.chat")
    async with conversation(model) as caller:
        ask(caller)
        done = await caller.wait(ResponseDone)
        assert done.status == "failed" and reason in done.reason
        assert spoken in shown(caller)
        assert sum(len(sound.pcm) for sound in caller.all(AudioOut)) > 24_000
        assert caller.all(AudioOut)[-1].last and caller.all(TextOut)[-1].last
    told = f"{done.reason} {shown(caller)}"
    loud = [record for record in caplog.records if record.levelname != "DEBUG"]
    for theirs in ("bad key", "slow", "oops", "html", "choices", "endpoint", "http", KEY):
        assert theirs not in told.lower()
        assert theirs == "endpoint" or not any(theirs in record.getMessage() for record in loud)
    assert KEY not in caplog.text
    if b"bad key" in b"".join(model.pieces):
        assert "bad key" in caplog.text


async def test_an_answer_cut_in_the_middle_is_spoken_as_far_as_it_came(model: FakeModel) -> None:
    model.pieces = [event("This came. And this is"), event(" half")]
    model.cuts = True
    async with conversation(model) as caller:
        ask(caller)
        done = await caller.wait(ResponseDone)
        assert done.status == "failed" and "early" in done.reason
        # The end of what was under way may be lost with the connection.
        assert shown(caller).startswith("This came. And this is")
        assert "cut off" in shown(caller)


async def test_no_server_at_all_is_told(model: FakeModel) -> None:
    async with conversation(model, url="http://127.0.0.1:9/v1") as caller:
        ask(caller)
        done = await caller.wait(ResponseDone)
        assert done.status == "failed" and done.reason == "the language model cannot be reached"
        assert "cannot reach" in shown(caller)


@pytest.mark.parametrize("url", ["no url", "http://", "ftp://127.0.0.1/v1"])
async def test_a_wrong_url_is_told(model: FakeModel, url: str) -> None:
    async with conversation(model, url=url) as caller:
        ask(caller)
        assert (await caller.wait(ResponseDone)).status == "failed"


@pytest.mark.parametrize("when", ["before the headers", "before the first", "between deltas"])
async def test_silence_ends_in_a_timeout_never_in_a_hang(model: FakeModel, when: str) -> None:
    if when == "before the headers":
        model.before_headers = asyncio.Event()
    else:
        model.after_pieces = asyncio.Event()
        model.pieces = [event("Well. And ")] if when == "between deltas" else []
    async with conversation(model, timeout_s=0.2) as caller:
        ask(caller)
        done = await caller.wait(ResponseDone)
        assert done.status == "failed" and "nothing for 0.2 s" in done.reason
        assert "took too long" in shown(caller)


async def test_cancelling_ends_the_generation_at_the_server(model: FakeModel) -> None:
    model.pieces = [event("Hello there. And")]
    model.after_pieces = asyncio.Event()
    async with conversation(model) as caller:
        ask(caller)
        await caller.wait(AudioOut)
        caller.session.handle(CancelResponse(SESSION, 1))
        assert caller.all(ResponseDone)[0].status == "cancelled"
        async with asyncio.timeout(5):
            await model.was_aborted.wait()
        model.after_pieces.set()
        num_messages = len(caller.log)
        await settle()
        assert len(caller.log) == num_messages


async def test_a_text_only_answer_needs_no_voice(model: FakeModel) -> None:
    async with conversation(model, config=SessionConfig(modalities=("text",))) as caller:
        ask(caller)
        await caller.wait(ResponseDone)
        assert caller.all(ResponseStarted)[0].modality == "text"
        assert caller.all(AudioOut) == []
        assert shown(caller) == "Hello there. Bye."


async def test_an_endless_answer_is_ended(model: FakeModel) -> None:
    model.pieces = [event("blah " * 1_000)] * 9
    config = SessionConfig(modalities=("text",))
    async with conversation(model, config=config) as caller:
        ask(caller)
        done = await caller.wait(ResponseDone)
        assert (done.status, done.reason) == ("incomplete", "the answer is too long")


KEEPALIVES = {
    "comments": b": processing\n\n",
    "empty deltas": event(""),
    "deltas without content": event(None),
    "blanks": event(" "),
    "events without choices": b'data: {"choices": []}\n\n',
}


@pytest.mark.parametrize("said", ["", "Well. And "])
@pytest.mark.parametrize("kind", KEEPALIVES)
async def test_signs_of_life_without_words_buy_no_time(
    model: FakeModel, kind: str, said: str
) -> None:
    model.pieces = [event(said)] if said else []
    model.drips = KEEPALIVES[kind]
    async with conversation(model, timeout_s=0.3) as caller:
        ask(caller)
        async with asyncio.timeout(5):
            done = await caller.wait(ResponseDone)
            assert done.status == "failed" and "nothing for 0.3 s" in done.reason
            assert shown(caller).startswith(said) and "took too long" in shown(caller)
            await model.was_aborted.wait()


async def test_an_answer_with_a_finish_reason_needs_no_end_mark(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "END_GRACE_S", 0.1)
    model.pieces = [event("Hello there.", "stop")]
    model.drips = KEEPALIVES["comments"]
    async with conversation(model) as caller:
        ask(caller)
        async with asyncio.timeout(4):
            assert (await caller.wait(ResponseDone)).status == "completed"


async def test_time_in_which_the_answer_is_spoken_is_no_silence(model: FakeModel) -> None:
    model.pieces = [event("One two three. "), event("Four five six.", "stop"), DONE]
    async with conversation(model, timeout_s=1.0) as caller:
        caller.listens = False
        model.pieces.insert(1, event("seven eight nine ten. " * 5))
        ask(caller)
        await caller.wait(AudioOut)
        await asyncio.sleep(1.3)
        assert not caller.all(ResponseDone)
        caller.listens = True
        caller.heard(1, 10**6, final=False)
        assert (await caller.wait(ResponseDone)).status == "completed"


@pytest.mark.parametrize(
    "deltas, right",
    [
        (["Hi \ud83d", "\ude00 you."], "Hi 😀 you."),
        (["Hi \ud83d", " you."], "Hi \ufffd you."),
        (["Hi you.", "\ude00"], "Hi you.\ufffd"),
        (["Hi you. \ud83d"], "Hi you. \ufffd"),
    ],
)
async def test_a_character_cut_in_two_is_joined_or_replaced(
    model: FakeModel, deltas: list[str], right: str
) -> None:
    model.pieces = [*(event(delta) for delta in deltas), event(None, "stop"), DONE]
    async with conversation(model) as caller:
        ask(caller)
        assert (await caller.wait(ResponseDone)).status == "completed"
        assert shown(caller) == right


async def test_a_whole_answer_may_come_in_pieces(model: FakeModel) -> None:
    model.content_type = JSON_TYPE
    choice = {"message": {"content": "All at once \ud83d."}, "finish_reason": "stop"}
    answer = json.dumps({"padding": "x" * 300_000, "choices": [choice]}).encode()
    model.pieces = [answer[:90_000], answer[90_000:200_000], answer[200_000:]]
    async with conversation(model) as caller:
        ask(caller)
        assert (await caller.wait(ResponseDone)).status == "completed"
        assert shown(caller) == "All at once \ufffd."


async def test_a_stream_that_is_all_husk_is_ended(
    model: FakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_STREAM_BYTES", 100_000)
    model.pieces = [b": " + b"x" * 50_000 + b"\n"] * 4 + [event("Late.", "stop"), DONE]
    async with conversation(model) as caller:
        ask(caller)
        assert (await caller.wait(ResponseDone)).status == "failed"
