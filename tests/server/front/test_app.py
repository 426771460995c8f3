"""The front's HTTP side: pages, health, statistics, keys, and errors in one shape."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from prometheus_client.parser import text_string_to_metric_families

from engine.ipc.child_process import LoopLag
from server.control import CallPlaced, GetStats
from server.front import call_desk, child_stats, media_workers
from server.front.app import PAGES, SECURITY_HEADERS, TEXTS, build, load_assets
from server.front.telemetry import Telemetry
from signaling.http.auth import ApiKey, Authenticator
from signaling.http.ice_servers import IceServers
from signaling.ice_servers import TurnLogin
from tests import ROOT
from tests.server.front.rig import ANSWER, PaperFront, worker_stats
from tests.signaling.offers import CHROMIUM_OFFER
from tests.waiting import until

Client = TestClient[web.Request, web.Application]
Start = Callable[..., Awaitable[Client]]
CALLS = "/v1/realtime/calls"
SDP = {"Content-Type": "application/sdp"}
KEY = "a-key-of-sixteen-or-more"
INFO = {
    "name": "omnicall",
    "version": "1.2.3",
    "auth_required": False,
    "kind": "fake",
    "modes": ["half_duplex", "turn_based"],
}


@pytest.fixture
async def paper(monkeypatch: pytest.MonkeyPatch) -> PaperFront:
    monkeypatch.setattr(child_stats, "STATS_TIMEOUT_S", 0.01)
    return PaperFront()


@pytest.fixture
async def start(paper: PaperFront) -> AsyncIterator[Start]:
    clients: list[Client] = []

    async def start(key: str = "", servers: IceServers | None = None) -> Client:
        keys = (ApiKey("access", key, "admin"),) if key else ()
        auth = Authenticator(keys, is_keyless=not key)
        telemetry = Telemetry(paper.front, "1.2.3", "fake", LoopLag())
        app = build(paper.front, telemetry, auth, INFO, ice_servers=servers)
        client = TestClient(TestServer(app))
        clients.append(client)
        await client.start_server()
        return client

    yield start
    for client in clients:
        await client.close()


# ---------------------------------------------------------------- health and information


async def test_health_is_503_until_ready_and_200_then(paper: PaperFront, start: Start) -> None:
    paper.down("engine-0", "not yet")
    client = await start()
    response = await client.get("/health")
    assert response.status == 503
    assert await response.json() == {
        "status": "unavailable",
        "processes": {"engine-0": "backoff", "worker-0": "ready"},
    }
    paper.up("engine-0")
    response = await client.get("/health")
    assert response.status == 200 and (await response.json())["status"] == "ok"
    assert response.headers["Cache-Control"] == "no-store"
    paper.front.drain()
    assert (await client.get("/health")).status == 503


async def test_information_for_the_page_tells_of_the_engine(
    paper: PaperFront, start: Start
) -> None:
    client = await start()
    info = await (await client.get("/api/info")).json()
    assert (info["name"], info["version"], info["auth_required"]) == ("omnicall", "1.2.3", False)
    engine = info["engine"]
    assert (engine["kind"], engine["label"], engine["video"]) == ("fake", "A fake engine", True)
    assert engine["voices"] == ["one", "two"] and "kind" not in info
    assert info["ready"] and info["starting"] is None
    paper.down("engine-0")
    info = await (await client.get("/api/info")).json()
    assert info["engine"]["label"] == "" and not info["ready"]
    assert set(info["starting"]) == {"doing", "percent", "step_s", "since_s"}


@pytest.mark.parametrize(("key", "urls"), [(KEY, [["stun:s"], ["turn:t"]]), ("", [["stun:s"]])])
async def test_turn_servers_are_for_who_has_the_key(
    start: Start, key: str, urls: list[list[str]]
) -> None:
    servers = IceServers(("stun:s",), ("turn:t",), TurnLogin(secret="s"))
    client = await start(KEY, servers)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    told = (await (await client.get("/api/info", headers=headers)).json())["ice_servers"]
    assert [server["urls"] for server in told] == urls
    assert told[0] == {"urls": ["stun:s"]}
    assert all(set(server) == {"urls", "username", "credential"} for server in told[1:])


# ---------------------------------------------------------------- statistics


async def test_statistics_are_fresh(paper: PaperFront, start: Start) -> None:
    client = await start()
    asking = asyncio.create_task(client.get("/api/stats"))
    await until(lambda: paper.supervisor.of(GetStats))
    paper.says("worker-0", worker_stats())
    response = await asking
    assert response.status == 200 and response.content_type == "application/json"
    stats = await response.json()
    assert [row["name"] for row in stats["processes"]] == ["front", "engine-0", "worker-0"]
    assert stats["processes"][2]["cpu_s"] == 2.0
    assert {"calls", "queue", "slots", "engines", "uptime_s"} <= set(stats)


async def test_metrics_are_what_prometheus_reads(start: Start) -> None:
    client = await start()
    response = await client.get("/metrics")
    assert response.status == 200 and response.content_type == "text/plain"
    names = {f.name for f in text_string_to_metric_families(await response.text())}
    assert {"omnicall_ready", "omnicall_calls", "omnicall_engine_slots"} <= names


# ---------------------------------------------------------------- keys


@pytest.mark.parametrize("path", ["/metrics", "/api/stats"])
async def test_figures_need_the_key_where_one_is_set(start: Start, path: str) -> None:
    client = await start(KEY)
    response = await client.get(path)
    assert response.status == 401 and response.headers["WWW-Authenticate"] == "Bearer"
    assert (await response.json())["error"]["code"] == "missing_api_key"
    wrong = await client.get(path, headers={"Authorization": "Bearer wrong-key-wrong-key"})
    assert wrong.status == 401
    right = await client.get(path, headers={"Authorization": f"Bearer {KEY}"})
    assert right.status == 200


async def test_calls_need_the_key_where_one_is_set(paper: PaperFront, start: Start) -> None:
    client = await start(KEY)
    response = await client.post(CALLS, data=CHROMIUM_OFFER, headers=SDP)
    assert response.status == 401 and paper.supervisor.told == []


@pytest.mark.parametrize("path", ["/", "/admin", "/health", "/api/info", "/static/js/admin.js"])
async def test_pages_and_health_are_open(start: Start, path: str) -> None:
    client = await start(KEY)
    assert (await client.get(path)).status == 200


async def test_rebound_name_is_refused_on_a_keyless_server(start: Start) -> None:
    client = await start()
    response = await client.get("/api/stats", headers={"Host": "evil.example"})
    assert response.status == 403
    assert (await response.json())["error"]["code"] == "forbidden_host"


# ---------------------------------------------------------------- pages


@pytest.mark.parametrize("path", PAGES)
async def test_page_is_html_with_the_security_headers(start: Start, path: str) -> None:
    client = await start()
    response = await client.get(path)
    assert response.status == 200 and response.content_type == "text/html"
    assert (await response.text()).lstrip().lower().startswith("<!doctype html>")
    for name, value in SECURITY_HEADERS.items():
        assert response.headers[name] == value


async def test_page_is_sent_again_only_when_it_changed(start: Start) -> None:
    client = await start()
    first = await client.get("/")
    etag = first.headers["ETag"]
    assert first.headers["Cache-Control"] == "no-cache"
    again = await client.get("/", headers={"If-None-Match": etag})
    assert again.status == 304 and await again.read() == b"" and again.headers["ETag"] == etag
    changed = await client.get("/", headers={"If-None-Match": '"another"'})
    assert changed.status == 200


async def test_everything_that_the_pages_load_is_served(start: Start) -> None:
    client = await start()
    assets = load_assets()
    assert {"index.html", "admin.html"} <= set(assets) and len(assets) > 4
    for name, asset in assets.items():
        response = await client.get(f"/static/{name}")
        assert response.status == 200 and await response.read() == asset.body
        assert response.content_type == asset.content_type


@pytest.mark.parametrize(
    ("accepts", "coding"),
    [("gzip, deflate, br", "gzip"), ("br;q=1.0, gzip;q=0.2", "gzip"), ("gzip;q=0", None)],
)
async def test_pages_are_packed_for_who_takes_it(
    start: Start, accepts: str, coding: str | None
) -> None:
    client = await start()
    plain = await client.get("/", headers={"Accept-Encoding": "identity"})
    body = await plain.read()
    packed = await client.get("/", headers={"Accept-Encoding": accepts})
    assert packed.headers.get("Content-Encoding") == coding
    assert await packed.read() == body and packed.headers["Vary"] == "Accept-Encoding"
    shorter = int(packed.headers["Content-Length"]) < len(body) / 2
    assert shorter == (coding is not None)


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/static/nothing.js",
        "/static/../run.py",
        "/static/%2e%2e/run.py",
        "/static/..%2f..%2fetc/passwd",
        "/static/",
        "/web/index.html",
        "/v1/embeddings",
    ],
)
async def test_what_is_not_there_is_404_with_the_security_headers(start: Start, path: str) -> None:
    client = await start()
    response = await client.get(path)
    assert response.status == 404
    assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_wrong_method_is_405(start: Start) -> None:
    client = await start()
    assert (await client.post("/health")).status == 405
    response = await client.get(CALLS)
    assert response.status == 405 and "POST" in response.headers["Allow"]


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("GET", "/v1", 404, "Nothing is served at GET /v1."),
        ("POST", "/v1/embeddings", 404, "POST /v1/embeddings"),
        ("POST", "/v1/realtime/sessions", 404, "/v1/realtime/client_secrets"),
        ("POST", "/v1/realtime/transcription_sessions", 404, "/v1/realtime/client_secrets"),
        ("POST", "/v1/realtime/translations/calls", 404, "translate"),
        ("POST", "/v1/responses", 404, "/v1/chat/completions"),
        ("POST", "/v1/realtime/calls/rtc_x/accept", 501, "SIP"),
        ("POST", "/v1/realtime/calls/rtc_x/refer", 501, "SIP"),
        ("GET", "/whip/", 404, "GET /whip/"),
        ("PUT", CALLS, 405, "POST"),
    ],
)
async def test_refusals_below_v1_are_errors_that_sdks_show(
    start: Start, method: str, path: str, status: int, says: str
) -> None:
    client = await start()
    origin = "http://localhost:3000"
    response = await client.request(method, path, headers={"Origin": origin})
    assert response.status == status and response.content_type == "application/json"
    error = (await response.json())["error"]
    assert set(error) == {"message", "type", "code", "param"} and says in error["message"]
    assert ("Allow" in response.headers) == (status == 405)
    assert response.headers["Access-Control-Allow-Origin"] == origin
    assert response.headers["X-Content-Type-Options"] == "nosniff"


async def test_routes_of_one_method_tell_the_others_in_json(paper: PaperFront) -> None:
    auth = Authenticator(is_keyless=True)
    app = build(paper.front, Telemetry(paper.front, "1", "fake", LoopLag()), auth, INFO)

    async def models(request: web.Request) -> web.Response:
        return web.json_response({})

    app.router.add_get("/v1/plain", models)
    async with TestClient(TestServer(app)) as client:
        response = await client.post("/v1/plain")
        assert (await response.json())["error"]["code"] == "method_not_allowed"
        assert response.status == 405 and response.headers["Allow"] == "GET, HEAD"
        wanted = {"Origin": "http://localhost", "Access-Control-Request-Method": "GET"}
        response = await client.options("/v1/plain", headers=wanted)
        assert response.status == 204
        assert "GET" in response.headers["Access-Control-Allow-Methods"]
        response = await client.options("/v1/nothing", headers=wanted)
        assert response.status == 204 and "Access-Control-Allow-Origin" in response.headers
        # Outside of the API people read, not SDKs.
        assert (await client.get("/nothing")).content_type == "text/plain"


def test_pages_load_nothing_from_elsewhere() -> None:
    for name, asset in load_assets().items():
        if asset.content_type not in TEXTS:
            continue
        text = asset.body.decode()
        for source in ('src="http', "src='http", 'href="http://', "import 'http", 'from "http'):
            assert source not in text, (name, source)
        assert "onclick=" not in text and "javascript:" not in text, name


# ---------------------------------------------------------------- calls


@pytest.mark.parametrize("word", ["new", "rtc_a.token"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/live/sessions"),
        ("GET", "/v1/live/sessions"),
        ("GET", "/v1/realtime?mode=audio"),
    ],
)
async def test_protocols_without_a_word_for_resuming_say_so(
    paper: PaperFront, start: Start, method: str, path: str, word: str
) -> None:
    client = await start()
    headers = {"Omnicall-Resume": word}
    if method == "GET":
        headers |= {"Connection": "Upgrade", "Upgrade": "websocket"}
        headers |= {"Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA=="}
    answer = await client.request(method, path, headers=headers)
    error = (await answer.json())["error"]
    assert (answer.status, error["code"], error["param"]) == (
        *(400, "not_supported", "Omnicall-Resume"),
    )
    assert paper.front.calls == {}


async def test_offer_is_answered_by_a_worker(paper: PaperFront, start: Start) -> None:
    client = await start()
    posting = asyncio.create_task(client.post(CALLS, data=CHROMIUM_OFFER, headers=SDP))
    await until(lambda: list(paper.asked()))
    [(_, asked)] = paper.asked()
    assert asked.sdp == CHROMIUM_OFFER and asked.remote == "127.0.0.1"
    paper.says("worker-0", CallPlaced(asked.call_id, ANSWER))
    response = await posting
    assert response.status == 201 and await response.text() == ANSWER
    assert response.headers["Location"] == f"{CALLS}/{asked.call_id}"
    assert (await client.delete(response.headers["Location"])).status == 204
    assert paper.hung_up() == [(asked.call_id, "hangup")]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", "application/sdp", 400),
        (b"hello", "application/sdp", 400),
        (b"x" * 1_000_000, "application/sdp", 413),
        (b"{}", "application/json", 415),
    ],
)
async def test_bad_post_is_an_error_in_openais_shape(
    paper: PaperFront, start: Start, body: bytes, content_type: str, status: int
) -> None:
    client = await start()
    response = await client.post(CALLS, data=body, headers={"Content-Type": content_type})
    assert response.status == status
    error = (await response.json())["error"]
    assert set(error) == {"message", "type", "code", "param"} and error["message"]
    assert paper.supervisor.told == [] and paper.front.calls == {}


async def test_starting_server_is_503_with_retry_after(
    paper: PaperFront, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_workers, "RESTART_WAIT_S", 0.01)
    paper.down("worker-0")
    client = await start()
    response = await client.post(CALLS, data=CHROMIUM_OFFER, headers=SDP)
    assert response.status == 503 and response.headers["Retry-After"] == "2"
    assert (await response.json())["error"]["code"] == "no_free_slot"


async def test_worker_that_does_not_answer_is_504(
    paper: PaperFront, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(call_desk, "PLACE_TIMEOUT_S", 0.01)
    client = await start()
    response = await client.post(CALLS, data=CHROMIUM_OFFER, headers=SDP)
    assert response.status == 504
    assert (await response.json())["error"]["code"] == "timeout"
    assert paper.front.calls == {}


async def test_unknown_call_cannot_be_hung_up(start: Start) -> None:
    client = await start()
    response = await client.post(f"{CALLS}/rtc_nobody/hangup")
    assert response.status == 404
    assert (await response.json())["error"]["code"] == "call_not_found"


def test_assets_travel_with_the_package() -> None:
    declared = (ROOT / "pyproject.toml").read_text()
    for name in load_assets():
        assert f'"**/*{Path(name).suffix}"' in declared, name


async def test_pages_may_run_no_script_of_their_own_text(start: Start) -> None:
    client = await start()
    policy = (await client.get("/")).headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy and "unsafe" not in policy


async def test_documentation_is_served_to_everybody_and_asked_for_anew(start: Start) -> None:
    client = await start(KEY)
    page = await client.get("/docs")
    assert page.status == 200 and "input_audio_buffer.append" in await page.text()
    assert page.headers["Content-Security-Policy"] == SECURITY_HEADERS["Content-Security-Policy"]
    again = await client.get("/docs", headers={"If-None-Match": page.headers["ETag"]})
    assert again.status == 304
    told = await (await client.get("/docs/openapi.json")).json()
    assert told["openapi"] == "3.1.0" and "/v1/chat/completions" in told["paths"]
