"""The HTTP API of calls: shapes, statuses, limits, CORS and the guard of keyless loopback."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from signaling.errors import NoFreeSlot, ProtocolError
from signaling.http import bodies, uploads
from signaling.http.auth import (
    ApiKey,
    Authenticator,
    EphemeralSecrets,
    Limits,
    install,
    require,
)
from signaling.http.calls import PlacedCall, add_routes
from signaling.http.trickle import IceAnswer
from signaling.realtime.client_items import ItemCreate
from signaling.session.items import InputMessage, MessageItem
from signaling.settings import SessionSettings
from tests.signaling.offers import CHROMIUM_OFFER, only
from tests.waiting import until

Start = Callable[..., Awaitable[TestClient[web.Request, web.Application]]]
SDP = {"Content-Type": "application/sdp"}
KEY = {"Authorization": "Bearer sk-user"}
TOKEN = "rtc_abc.secret"


class FakeDesk:
    """Places every call, or raises what it was told to."""

    def __init__(self) -> None:
        self.placed: list[tuple[str, SessionSettings, tuple[str, ...]]] = []
        self.hung_up: list[str] = []
        self.added: list[tuple[str, ItemCreate]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.error: Exception | None = None
        self.tag = '"one"'
        self.updates: list[str] = []
        self.resumed: list[str] = []

    async def update_ice(
        self, call_id: str, fragment: str, tags: frozenset[str] | None
    ) -> IceAnswer | None:
        if tags is not None and self.tag not in tags:
            raise ProtocolError("Another.", code="precondition_failed", status=412)
        self.updates.append(fragment)
        return None if tags else IceAnswer("a=ice-ufrag:ours\r\n", '"two"')

    async def place(
        self,
        sdp: str,
        session: SessionSettings,
        *,
        remote: str,
        callers: tuple[str, ...],
        owner: str | None = None,
        is_resumable: bool = False,
    ) -> PlacedCall:
        assert remote
        if self.error is not None:
            raise self.error
        self.placed.append((sdp, session, callers))
        token = TOKEN if is_resumable else ""
        return PlacedCall(call_id="rtc_abc", sdp="v=0\r\n", tag=self.tag, token=token)

    def check_token(self, token: str) -> None:
        if token != TOKEN:
            raise ProtocolError("None.", code="session_not_found", status=404)

    async def resume(self, token: str, sdp: str) -> PlacedCall:
        self.resumed.append(token)
        return PlacedCall(call_id="rtc_abc", sdp="v=0\r\n", tag=self.tag, token=token)

    def is_lost(self, call_id: str) -> bool:
        return False

    async def hang_up(self, call_id: str, reason: str) -> bool:
        self.hung_up.append(call_id)
        return call_id == "rtc_abc"

    def is_open(self, call_id: str) -> bool:
        return call_id == "rtc_abc"

    def why_closed(self, call_id: str) -> ProtocolError:
        if call_id == "rtc_lost":
            return ProtocolError("Lost.", code="worker_gone", status=410, type="server_error")
        return ProtocolError("There is no such call.", code="call_not_found", status=404)

    async def add_item(self, call_id: str, create: ItemCreate) -> MessageItem:
        if self.error is not None:
            raise self.error
        await self.may_answer.wait()
        assert isinstance(create.item, InputMessage)
        self.added.append((call_id, create))
        return MessageItem(id=create.item.id or "item_1", role="user", status="completed")


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture
async def start(desk: FakeDesk) -> AsyncIterator[Start]:
    clients = []

    async def start(auth: Authenticator | None = None) -> TestClient[Any, Any]:
        auth = auth or Authenticator(is_keyless=True)
        app = web.Application()
        install(app, auth)
        add_routes(app, desk, auth)

        async def stats(request: web.Request) -> web.Response:
            return web.json_response({"role": require(request, "admin").role})

        app.router.add_get("/api/stats", stats)
        clients.append(TestClient(TestServer(app)))
        await clients[-1].start_server()
        return clients[-1]

    yield start
    for client in clients:
        await client.close()


def with_keys(**kwargs: Any) -> Authenticator:
    keys = (ApiKey("u", "sk-user"), ApiKey("a", "sk-admin", "admin"))
    return Authenticator(keys, **kwargs)


async def test_raw_offer_is_answered_201_with_location(start: Start, desk: FakeDesk) -> None:
    client = await start()
    response = await client.post(
        "/v1/realtime/calls?model=m1&x=1", data=CHROMIUM_OFFER, headers=SDP
    )
    assert response.status == 201
    assert response.headers["Location"] == "/v1/realtime/calls/rtc_abc"
    assert response.content_type == "application/sdp"
    assert await response.text() == "v=0\r\n"
    assert desk.placed[0][1].model == "m1"


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/octet-stream"])
async def test_form_is_taken_in_any_part_content_type(
    start: Start, desk: FakeDesk, content_type: str | None
) -> None:
    client = await start()
    form = aiohttp.FormData(default_to_multipart=True)
    form.add_field("sdp", CHROMIUM_OFFER, content_type=content_type)
    session = json.dumps({"model": "m2", "instructions": "hi"})
    form.add_field("session", session.encode(), content_type=content_type, filename="blob")
    response = await client.post("/v1/realtime/calls", data=form)
    assert response.status == 201, await response.text()
    sdp, settings, _ = desk.placed[0]
    assert sdp == CHROMIUM_OFFER
    assert (settings.model, settings.instructions) == ("m2", "hi")


@pytest.mark.parametrize(
    ("session", "modalities", "has_turns"),
    [
        ({}, ("text",), True),
        ({"output_modalities": ["audio"]}, ("audio",), True),
        ({"audio": {"input": {"turn_detection": {"type": "semantic_vad"}}}}, ("text",), False),
    ],
)
async def test_who_offers_a_channel_alone_types_and_reads(
    start: Start,
    desk: FakeDesk,
    session: dict[str, Any],
    modalities: tuple[str, ...],
    has_turns: bool,
) -> None:
    client = await start()
    form = aiohttp.FormData(default_to_multipart=True)
    form.add_field("sdp", only("application"))
    form.add_field("session", json.dumps(session))
    assert (await client.post("/v1/realtime/calls", data=form)).status == 201
    settings = desk.placed[0][1]
    assert settings.output_modalities == modalities
    assert (settings.audio.input.turn_detection is None) == has_turns


async def test_openai_sdk_places_and_hangs_up(start: Start, desk: FakeDesk) -> None:
    client = await start(with_keys())
    url = str(client.make_url("/v1"))

    def use_sdk() -> tuple[str, str, str]:
        sdk = openai.OpenAI(base_url=url, api_key="sk-user", max_retries=0)
        created = sdk.realtime.calls.create(
            sdp=CHROMIUM_OFFER, session={"type": "realtime", "model": "m3", "tools": []}
        )
        sdk.realtime.calls.hangup("rtc_abc")
        secret = sdk.realtime.client_secrets.create(
            expires_after={"anchor": "created_at", "seconds": 60},
            session={"type": "realtime", "model": "m4", "instructions": "from the secret"},
        )
        browser = openai.OpenAI(base_url=url, api_key=secret.value, max_retries=0)
        browser.realtime.calls.create(sdp=CHROMIUM_OFFER)
        return created.response.headers["location"], created.text, secret.session.type

    location, answer, session_type = await asyncio.to_thread(use_sdk)
    assert location == "/v1/realtime/calls/rtc_abc"
    assert answer == "v=0\r\n"
    assert session_type == "realtime"
    assert desk.hung_up == ["rtc_abc"]
    assert [s.model for _, s, _ in desk.placed] == ["m3", "m4"]
    assert desk.placed[1][1].instructions == "from the secret"
    address, secret = desk.placed[1][2]
    assert address == "address:127.0.0.1" and secret.startswith("secret:")
    assert desk.placed[0][2] == ("address:127.0.0.1",), "a key may be a whole service's"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "param"),
    [
        ("", "application/sdp", 400, "sdp"),
        ("hello", "application/sdp", 400, "sdp"),
        (b"\xff\xfe", "application/sdp", 400, "sdp"),
        ("v=0\r\n" + "a=x\r\n" * 200_000, "application/sdp", 413, "sdp"),
        (CHROMIUM_OFFER, "text/plain", 415, None),
        ("{}", "application/json", 415, None),
        (CHROMIUM_OFFER.replace("opus/48000/2", "foo/8000"), "application/sdp", 201, None),
        ("--x\r\n", "multipart/form-data; boundary=x", 400, None),
        ("", "multipart/form-data", 400, None),
    ],
)
async def test_bad_bodies_have_their_status(
    start: Start, body: str | bytes, content_type: str, status: int, param: str | None
) -> None:
    client = await start()
    headers = {"Content-Type": content_type}
    response = await client.post("/v1/realtime/calls", data=body, headers=headers)
    assert response.status == status, await response.text()
    if status != 201:
        error = (await response.json())["error"]
        assert set(error) == {"message", "type", "code", "param"}
        if param is not None:
            assert error["param"] == param


async def test_megabyte_in_a_form_is_413(start: Start) -> None:
    client = await start()
    form = aiohttp.FormData(default_to_multipart=True)
    form.add_field("sdp", "v=0\r\n" + "x" * 1_000_000)
    assert (await client.post("/v1/realtime/calls", data=form)).status == 413


async def test_invalid_session_member_is_named(start: Start) -> None:
    client = await start()
    form = aiohttp.FormData(default_to_multipart=True)
    form.add_field("sdp", CHROMIUM_OFFER)
    form.add_field("session", json.dumps({"audio": {"output": {"speed": 9}}}))
    response = await client.post("/v1/realtime/calls", data=form)
    assert response.status == 400
    assert (await response.json())["error"]["param"] == "session.audio.output.speed"


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (NoFreeSlot(2.2), 503, "3"),
        (NoFreeSlot(None), 503, None),
        (TimeoutError(), 504, None),
        (KeyError("bug"), 500, None),
    ],
)
async def test_desk_errors(
    start: Start, desk: FakeDesk, error: Exception, status: int, retry_after: str | None
) -> None:
    desk.error = error
    client = await start()
    response = await client.post("/v1/realtime/calls", data=CHROMIUM_OFFER, headers=SDP)
    assert response.status == status
    assert response.headers.get("Retry-After") == retry_after
    assert "bug" not in await response.text()


async def test_hang_up_needs_no_key_and_knows_its_calls(start: Start) -> None:
    client = await start(with_keys())
    assert (await client.post("/v1/realtime/calls/rtc_abc/hangup")).status == 200
    assert (await client.delete("/v1/realtime/calls/rtc_abc")).status == 204
    response = await client.post("/v1/realtime/calls/rtc_other/hangup")
    assert response.status == 404
    assert (await response.json())["error"]["code"] == "call_not_found"


async def test_open_call_is_told_from_one_that_is_over(start: Start) -> None:
    client = await start()
    response = await client.get("/v1/realtime/calls/rtc_abc")
    assert response.status == 200 and (await response.json())["id"] == "rtc_abc"
    assert (await client.get("/v1/realtime/calls/rtc_gone")).status == 404


async def test_other_methods_are_405(start: Start) -> None:
    client = await start()
    for method, path in (("GET", "/v1/realtime/calls"), ("PUT", "/v1/realtime/calls/rtc_abc")):
        response = await client.request(method, path)
        assert response.status == 405
        assert "OPTIONS" in response.headers["Allow"]
        assert (await response.json())["error"]["code"] == "method_not_allowed"


async def test_keys_and_roles(start: Start) -> None:
    client = await start(with_keys())

    async def status(path: str, key: str | None, **kwargs: Any) -> int:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return (await client.get(path, headers={**headers, **kwargs.get("more", {})})).status

    assert await status("/api/stats", None) == 401
    assert await status("/api/stats", "wrong") == 401
    assert await status("/api/stats", "sk-user") == 403
    assert await status("/api/stats", "sk-admin") == 200
    assert await status("/api/stats?key=sk-admin", None) == 401
    assert await status("/api/stats?key=sk-admin", None, more={"Accept": "text/html"}) == 200
    response = await client.post("/v1/realtime/calls", data=CHROMIUM_OFFER, headers=SDP)
    assert response.status == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"


async def test_ephemeral_secret_places_calls_only(start: Start) -> None:
    auth = with_keys()
    client = await start(auth)
    value, _ = auth.secrets.issue(60, SessionSettings(), "u")
    headers = {"Authorization": f"Bearer {value}"}
    placed = await client.post(
        "/v1/realtime/calls", data=CHROMIUM_OFFER, headers={**SDP, **headers}
    )
    assert placed.status == 201
    assert (await client.post("/v1/realtime/client_secrets", headers=headers)).status == 403
    assert (await client.get("/api/stats", headers=headers)).status == 403


@pytest.mark.parametrize("seconds", [9, 7201])
async def test_secret_lifetime_is_bounded(start: Start, seconds: int) -> None:
    client = await start()
    body = {"expires_after": {"seconds": seconds}}
    response = await client.post("/v1/realtime/client_secrets", json=body)
    assert response.status == 400
    assert (await response.json())["error"]["param"] == "expires_after.seconds"


def test_secrets_expire_and_are_bounded() -> None:
    now, wall = [50.0], [1000.0]
    secrets = EphemeralSecrets(lambda: now[0], lambda: wall[0], capacity=3)
    first, expires_at = secrets.issue(600, SessionSettings(), None)
    assert expires_at == 1600
    wall[0] = 9000.0
    assert secrets.find(first) is not None, "only the system's time was set"
    now[0] = 650.0
    wall[0] = 500.0
    assert secrets.find(first) is None, "setting the time back revives nothing"
    for _ in range(5):
        secrets.issue(600, SessionSettings(), None)
    assert len(secrets) == 3


class RememberedSecrets(dict[str, bytes]):
    """A memory that outlives what asks it to remember."""

    def remember(self, name: str, data: bytes) -> None:
        self[name] = data

    def forget(self, *names: str) -> None:
        for name in names:
            self.pop(name, None)

    def memories(self, prefix: str) -> dict[str, bytes]:
        return {name: data for name, data in self.items() if name.startswith(prefix)}


def test_secrets_are_good_in_another_process_that_has_the_memory() -> None:
    now, memory = [50.0], RememberedSecrets(other=b"")
    before = EphemeralSecrets(lambda: now[0], capacity=2, memory=memory)
    values = [before.issue(600, SessionSettings(instructions="Be brief."), "k")[0] for _ in "abc"]
    assert not any(value in str(memory) for value in values), "only hashes are kept"
    after = EphemeralSecrets(lambda: now[0], capacity=2, memory=memory)
    assert [after.find(value) for value in values] == [before.find(value) for value in values]
    assert after.find(values[0]) is None and after.find(values[2]) is not None
    now[0] = 650.0
    assert after.find(values[2]) is None
    after.issue(600, SessionSettings(), None)
    assert len(memory) == 2, "what has expired is forgotten"


async def test_calls_are_rate_limited_per_remote(start: Start) -> None:
    now = [0.0]
    limits = Limits(calls_per_minute=60, calls_burst=2)
    auth = Authenticator(is_keyless=True, limits=limits, clock=lambda: now[0])
    client = await start(auth)

    async def place() -> aiohttp.ClientResponse:
        return await client.post("/v1/realtime/calls", data=CHROMIUM_OFFER, headers=SDP)

    assert [(await place()).status for _ in range(3)] == [201, 201, 429]
    assert (await place()).headers["Retry-After"] == "1"
    now[0] = 1.5
    assert (await place()).status == 201


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:1", 201),
        ("127.0.0.1", 201),
        ("[::1]:80", 201),
        ("evil.example", 403),
        ("[", 403),
    ],
)
async def test_keyless_refuses_foreign_hosts(start: Start, host: str, status: int) -> None:
    client = await start()
    headers = {**SDP, "Host": host}
    response = await client.post("/v1/realtime/calls", data=CHROMIUM_OFFER, headers=headers)
    assert response.status == status


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("https://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("http://localhost:3000", 201),
        ("https://app.example", 201),
    ],
)
async def test_keyless_refuses_foreign_origins(start: Start, origin: str, status: int) -> None:
    auth = Authenticator(is_keyless=True, allowed_origins=("https://app.example",))
    client = await start(auth)
    headers = {**SDP, "Origin": origin}
    response = await client.post("/v1/realtime/calls", data=CHROMIUM_OFFER, headers=headers)
    assert response.status == status
    granted = response.headers.get("Access-Control-Allow-Origin")
    assert granted == (origin if status == 201 else None)


async def test_preflight_of_the_agents_sdk(start: Start) -> None:
    client = await start(with_keys(allowed_origins=("https://app.example",)))
    headers = {
        "Origin": "https://app.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,x-openai-agents-sdk,openai-beta,x-evil",
    }
    response = await client.options("/v1/realtime/calls", headers=headers)
    assert response.status == 204
    assert "POST" in response.headers["Access-Control-Allow-Methods"]
    granted = response.headers["Access-Control-Allow-Headers"]
    assert granted == "authorization, x-openai-agents-sdk, openai-beta"
    foreign = {**headers, "Origin": "https://evil.example"}
    response = await client.options("/v1/realtime/calls", headers=foreign)
    assert "Access-Control-Allow-Origin" not in response.headers
    placed = await client.post(
        "/v1/realtime/calls",
        data=CHROMIUM_OFFER,
        headers={**SDP, **KEY, "Origin": "https://app.example"},
    )
    assert "Location" in placed.headers["Access-Control-Expose-Headers"]


# ---------------------------------------------------------------- items

ITEMS = "/v1/realtime/calls/rtc_abc/items"
HELLO = {
    "type": "message",
    "role": "user",
    "content": [{"type": "input_text", "text": "hello"}],
}


async def test_item_is_added_without_a_key_and_its_id_is_told(start: Start, desk: FakeDesk) -> None:
    client = await start(with_keys())
    response = await client.post(ITEMS, json=HELLO | {"id": "mine"})
    assert response.status == 200
    body = await response.json()
    assert (body["id"], body["type"], body["object"]) == ("mine", "message", "realtime.item")
    assert [call_id for call_id, _ in desk.added] == ["rtc_abc"]


async def test_members_of_an_item_that_change_nothing_are_named(start: Start) -> None:
    client = await start()
    part = {"type": "input_text", "text": "hello", "détail\r\nX": "high"}
    response = await client.post(ITEMS, json=HELLO | {"content": [part], "status": "completed"})
    assert response.status == 200
    assert response.headers["Omnicall-Ignored"] == "item.content.0.dtailX"
    assert "Omnicall-Ignored" not in (await client.post(ITEMS, json=HELLO)).headers


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("POST", "/items")])
async def test_call_that_ended_lately_is_410_with_its_reason(
    start: Start, method: str, path: str
) -> None:
    client = await start(with_keys())
    response = await client.request(method, f"/v1/realtime/calls/rtc_lost{path}")
    assert response.status == 410
    assert (await response.json())["error"] == {
        "message": "Lost.",
        "type": "server_error",
        "code": "worker_gone",
        "param": None,
    }


async def test_session_is_resumed_by_its_token_which_is_given_on_request(
    start: Start, desk: FakeDesk
) -> None:
    client = await start(with_keys())
    path = "/v1/realtime/calls"
    plain = await client.post(path, data=CHROMIUM_OFFER, headers=SDP | KEY)
    assert plain.status == 201 and "Omnicall-Resume" not in plain.headers
    asked = SDP | KEY | {"Omnicall-Resume": "new"}
    given = await client.post(path, data=CHROMIUM_OFFER, headers=asked)
    assert given.headers["Omnicall-Resume"] == TOKEN
    # Keys of browsers expire: the token is enough.
    back = await client.post(path, data=CHROMIUM_OFFER, headers=SDP | {"Omnicall-Resume": TOKEN})
    assert back.status == 201 and back.headers["Location"] == given.headers["Location"]
    assert desk.resumed == [TOKEN] and len(desk.placed) == 2


@pytest.mark.parametrize(
    ("token", "offer", "status", "code"),
    [
        ("rtc_abc.guess", CHROMIUM_OFFER, 404, "session_not_found"),
        ("x" * 300, CHROMIUM_OFFER, 400, None),
        (TOKEN, "no offer", 400, "invalid_offer"),
    ],
)
async def test_wrong_tokens_and_offers_resume_nothing(
    start: Start, desk: FakeDesk, token: str, offer: str, status: int, code: str | None
) -> None:
    client = await start(with_keys())
    headers = SDP | {"Omnicall-Resume": token}
    answer = await client.post("/v1/realtime/calls", data=offer, headers=headers)
    assert answer.status == status and desk.resumed == []
    if code is not None:
        assert (await answer.json())["error"]["code"] == code


async def test_item_for_no_call_is_404_and_never_read(start: Start, desk: FakeDesk) -> None:
    client = await start()
    response = await client.post("/v1/realtime/calls/rtc_other/items", json=HELLO)
    assert response.status == 404
    assert (await response.json())["error"]["code"] == "call_not_found"
    assert desk.added == []


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"{", 400, "invalid_json", None),
        (b"{}", 400, "missing_required_parameter", "item.type"),
        (b'{"type": "message", "role": "user"}', 400, "missing_required_parameter", "item.content"),
    ],
)
async def test_bad_item_is_an_error_that_names_the_field(
    start: Start, desk: FakeDesk, body: bytes, status: int, code: str, param: str | None
) -> None:
    client = await start()
    response = await client.post(ITEMS, data=body)
    error = (await response.json())["error"]
    assert (response.status, error["code"], error["param"]) == (status, code, param)
    assert desk.added == []


@pytest.mark.parametrize("has_length", [True, False])
async def test_item_beyond_the_limit_is_413(
    start: Start, monkeypatch: pytest.MonkeyPatch, has_length: bool
) -> None:
    monkeypatch.setattr(uploads, "MAX_BODY_BYTES", 10_000)
    client = await start()

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(11):
            yield b" " * 1000

    response = await client.post(ITEMS, data=b" " * 11_000 if has_length else chunks())
    error = (await response.json())["error"]
    assert (response.status, error["code"], error["param"]) == (413, "too_large", "item")


async def test_body_that_stands_still_is_408(
    start: Start, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "STEP_S", 0.05)
    monkeypatch.setattr(bodies, "LOOK_S", 0.02)
    client = await start()

    async def slow() -> AsyncIterator[bytes]:
        yield b"{"
        await asyncio.sleep(1)

    for path in (ITEMS, "/v1/realtime/calls", "/v1/realtime/client_secrets"):
        response = await client.post(path, data=slow(), headers=SDP)
        assert response.status == 408, path
    assert desk.added == [] and desk.placed == []


async def test_uploads_of_a_call_follow_each_other_and_those_of_others_pass(
    start: Start, desk: FakeDesk, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = await start()
    monkeypatch.setattr(desk, "is_open", lambda call_id: True)
    desk.may_answer.clear()
    mine = [asyncio.create_task(client.post(ITEMS, json=HELLO)) for _ in range(2)]
    other = asyncio.create_task(client.post("/v1/realtime/calls/rtc_b/items", json=HELLO))
    await asyncio.sleep(0.1)
    assert not any(task.done() for task in (*mine, other))
    desk.may_answer.set()
    assert [(await task).status for task in (*mine, other)] == [200] * 3
    assert [call_id for call_id, _ in desk.added][:2] == ["rtc_abc", "rtc_b"]


async def test_item_of_a_million_values_is_413(start: Start, desk: FakeDesk) -> None:
    client = await start()
    body = b'{"type": "message", "content": [' + b"{}," * 1_000_000 + b"{}]}"
    response = await client.post(ITEMS, data=body)
    error = (await response.json())["error"]
    assert (response.status, error["code"], error["param"]) == (413, "too_large", "item")


async def test_body_is_invited_only_after_the_key_was_looked_at(start: Start) -> None:
    client = await start(with_keys())
    head = (
        "POST /v1/realtime/calls HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sdp\r\n"
        f"Content-Length: {len(CHROMIUM_OFFER)}\r\nExpect: 100-continue\r\n"
    )
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(f"{head}\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 401")
    writer.close()
    reader, writer = await asyncio.open_connection(client.host, client.port)
    writer.write(f"{head}Authorization: Bearer sk-user\r\n\r\n".encode())
    assert (await reader.readline()).startswith(b"HTTP/1.1 100")
    writer.write(CHROMIUM_OFFER.encode())
    assert await reader.readline() == b"\r\n"
    assert (await reader.readline()).startswith(b"HTTP/1.1 201")
    writer.close()


@pytest.mark.parametrize("path", [ITEMS, "/v1/realtime/calls", "/v1/realtime/client_secrets"])
async def test_client_that_leaves_within_its_body_is_one_line_of_information(
    start: Start, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = await start()
    # aiohttp's test server cancels such handlers, the real one does not.
    runner = web.AppRunner(client.app, access_log=None)
    with caplog.at_level("INFO"):
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        _, writer = await asyncio.open_connection(*runner.addresses[0])
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/sdp\r\n"
        writer.write(f"{head}Content-Length: 1000\r\n\r\nhalf".encode())
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.transport.abort()
        await until(lambda: caplog.records)
        await asyncio.sleep(0.05)
    await runner.cleanup()
    [record] = caplog.records
    assert record.levelname == "INFO" and record.exc_info is None


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--x",
        b"--x--",
        b"--x\r\n\r\n\r\n--x--",
        b"--x\r\nContent-Disposition: form-data; name=sdp\r\n--x--",
        b"--x\r\nContent-Disposition: form-data\r\nContent-Disposition: form-data\r\n\r\n\r\n--x--",
        b"--x\r\nContent-Type: a/b\r\ncontent-type: a/b\r\n\r\nv=0\r\n--x--\r\n",
        b"--x\r\n: nothing\r\n\r\nv=0\r\n--x--\r\n",
        b"--x\r\n\xff: nothing\r\n\r\nv=0\r\n--x--\r\n",
        b"--x\r\nX: " + b"y" * 5000 + b"\r\n\r\nv=0\r\n--x--\r\n",
        b"--x\r\nContent-Disposition: form-data; name=a\r\n\r\n\r\n" * 20 + b"--x--",
        b'--x\r\nContent-Disposition: form-data; name="sdp\r\n\r\nv=0\r\n--x--\r\n',
    ],
)
async def test_malformed_forms_are_400(start: Start, body: bytes) -> None:
    client = await start()
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = await client.post("/v1/realtime/calls", data=body, headers=headers)
    assert response.status == 400, await response.text()


async def test_encoded_part_is_415(start: Start) -> None:
    client = await start()
    part = b"Content-Disposition: form-data; name=sdp\r\nContent-Encoding: gzip\r\n\r\n\x1f\x8b"
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    body = b"--x\r\n" + part + b"\r\n--x--\r\n"
    response = await client.post("/v1/realtime/calls", data=body, headers=headers)
    assert response.status == 415
