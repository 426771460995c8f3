"""The WHIP door: statuses, headers and entity tags of RFC 9725."""

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from signaling.errors import NoFreeSlot, ProtocolError
from signaling.http import calls, whip
from signaling.http.auth import Authenticator, install
from signaling.http.ice_servers import IceServer, IceServers, links
from signaling.ice_servers import TurnLogin
from signaling.offer import AnswerPlan, check_whole_offer
from tests.interop.test_table import TABLE, offer
from tests.signaling.http.test_calls import KEY, SDP, FakeDesk, with_keys
from tests.signaling.offers import CHROMIUM_OFFER, only, second_audio, sections, with_codecs

Start = Callable[..., Awaitable[TestClient[web.Request, web.Application]]]
SESSION = "/whip/rtc_abc"
FRAGMENT = {"Content-Type": "application/trickle-ice-sdpfrag"}
CANDIDATE = "m=audio 9 RTP/AVP 0\r\na=mid:0\r\na=candidate:1 1 udp 9 192.0.2.1 5000 typ host\r\n"
RESTART = "a=ice-ufrag:new1\r\na=ice-pwd:newnewnewnewnewnewnewnew\r\n"
ORIGIN = "https://app.example"
TURN = IceServers(
    ("stun:stun.example",),
    ("turn:turn.example", "turns:turn.example"),
    TurnLogin(secret="s", lifetime_s=60),
)


@pytest.fixture
def desk() -> FakeDesk:
    return FakeDesk()


@pytest.fixture
async def start(desk: FakeDesk) -> AsyncIterator[Start]:
    clients = []

    async def start(
        auth: Authenticator | None = None, servers: IceServers | None = None
    ) -> TestClient[Any, Any]:
        auth = auth or Authenticator(is_keyless=True)
        app = web.Application()
        install(app, auth)
        calls.add_routes(app, desk, auth, servers)
        whip.add_routes(app, desk, auth, servers or IceServers())
        clients.append(TestClient(TestServer(app)))
        await clients[-1].start_server()
        return clients[-1]

    yield start
    for client in clients:
        await client.close()


# ---------------------------------------------------------------- POST


async def test_an_offer_is_answered_with_a_session(start: Start, desk: FakeDesk) -> None:
    client = await start(with_keys(), TURN)
    response = await client.post("/whip?model=m", data=CHROMIUM_OFFER, headers={**SDP, **KEY})
    assert response.status == 201 and response.content_type == "application/sdp"
    assert response.headers["Location"] == SESSION
    assert response.headers["ETag"] == '"one"'
    assert desk.placed[0][1].model == "m"
    stun, turn, turns = response.headers.getall("Link")
    assert stun == '<stun:stun.example>; rel="ice-server"'
    assert turn.startswith('<turn:turn.example>; rel="ice-server"; username="')
    assert turns.endswith('; credential-type="password"')


@pytest.mark.parametrize(
    ("kwargs", "status"),
    [
        ({"data": CHROMIUM_OFFER, "headers": KEY}, 415),
        ({"data": CHROMIUM_OFFER, "headers": {**KEY, "Content-Type": "text/plain"}}, 415),
        ({"data": {"sdp": CHROMIUM_OFFER}, "headers": KEY}, 415),
        ({"data": CHROMIUM_OFFER, "headers": SDP}, 401),
        ({"data": CHROMIUM_OFFER, "headers": {**SDP, "Authorization": "Bearer no"}}, 401),
        ({"data": "hello", "headers": {**SDP, **KEY}}, 400),
        ({"data": b"\xff\xfe", "headers": {**SDP, **KEY}}, 400),
        ({"data": with_codecs("PCMU/8000", "AV1/90000"), "headers": {**SDP, **KEY}}, 406),
        ({"data": second_audio(), "headers": {**SDP, **KEY}}, 406),
        ({"data": "v=0\r\n" + "a=x\r\n" * 20_000, "headers": {**SDP, **KEY}}, 413),
    ],
)
async def test_offers_that_cannot_be_taken(
    start: Start, desk: FakeDesk, kwargs: dict[str, Any], status: int
) -> None:
    client = await start(with_keys())
    response = await client.post("/whip", **kwargs)
    assert response.status == status and desk.placed == []
    assert set((await response.json())["error"]) == {"message", "type", "code", "param"}
    assert ("WWW-Authenticate" in response.headers) == (status == 401)


async def test_a_full_server_says_when_to_come_back(start: Start, desk: FakeDesk) -> None:
    client = await start()
    desk.error = NoFreeSlot(7.2)
    response = await client.post("/whip", data=CHROMIUM_OFFER, headers=SDP)
    assert response.status == 503 and response.headers["Retry-After"] == "8"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (second_audio(), r"audio m-line \(number 4\)"),
        (CHROMIUM_OFFER.replace("VP8/", "AV1/").replace("H264/", "AV1/"), "no codec we know"),
        (CHROMIUM_OFFER.replace("webrtc-datachannel", "x"), "no data channel"),
    ],
)
def test_no_part_of_an_offer_is_declined(text: str, says: str) -> None:
    with pytest.raises(ProtocolError, match=says) as caught:
        check_whole_offer(text)
    assert caught.value.status == 406


@pytest.mark.parametrize("name", [name for name in TABLE if "whip" in name])
def test_offers_of_encoders_are_taken_whole(name: str) -> None:
    assert check_whole_offer(offer(name)).hears is not None


def test_what_is_not_used_needs_no_part() -> None:
    assert check_whole_offer(only("application")) == AnswerPlan(data=0)
    *lines, last = sections(second_audio())
    idle = "".join(lines) + last.replace("a=sendrecv", "a=inactive")
    assert check_whole_offer(idle) == check_whole_offer(CHROMIUM_OFFER)


# ---------------------------------------------------------------- other methods, other pages


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/whip", "POST, OPTIONS"),
        ("HEAD", "/whip", "POST, OPTIONS"),
        ("PUT", "/whip", "POST, OPTIONS"),
        ("GET", SESSION, "PATCH, DELETE, OPTIONS"),
        ("POST", SESSION, "PATCH, DELETE, OPTIONS"),
        ("PUT", SESSION, "PATCH, DELETE, OPTIONS"),
    ],
)
async def test_other_methods_are_405(start: Start, method: str, path: str, allowed: str) -> None:
    client = await start()
    response = await client.request(method, path)
    assert response.status == 405 and response.headers["Allow"] == allowed


@pytest.mark.parametrize(
    ("path", "methods", "told"),
    [
        ("/whip", "POST, OPTIONS, PATCH, DELETE", ("Accept-Post", "application/sdp")),
        (SESSION, "PATCH, DELETE, OPTIONS", ("Accept-Patch", FRAGMENT["Content-Type"])),
    ],
)
async def test_options_tell_what_is_taken_without_a_key(
    start: Start, path: str, methods: str, told: tuple[str, str]
) -> None:
    client = await start(with_keys(allowed_origins=(ORIGIN,)), TURN)
    headers = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization,content-type,if-match",
    }
    response = await client.options(path, headers=headers)
    assert response.status == 204
    assert response.headers[told[0]] == told[1]
    assert response.headers["Access-Control-Allow-Methods"] == methods
    assert response.headers["Access-Control-Allow-Headers"] == (
        "authorization, content-type, if-match"
    )
    assert "Link" not in response.headers, "credentials are for who has a key"


@pytest.mark.parametrize(
    ("headers", "is_told"),
    [(KEY, True), ({}, False), ({"Authorization": "Bearer no"}, False)],
)
async def test_who_has_a_key_may_ask_for_the_servers_first(
    start: Start, headers: dict[str, str], is_told: bool
) -> None:
    client = await start(with_keys(), TURN)
    response = await client.options("/whip", headers=headers)
    assert response.status == 204 and response.headers["Allow"] == "POST, OPTIONS"
    assert len(response.headers.getall("Link", [])) == (3 if is_told else 0)


async def test_other_pages_may_read_what_they_need(start: Start) -> None:
    client = await start(with_keys(allowed_origins=(ORIGIN,)))
    headers = {**SDP, **KEY, "Origin": ORIGIN}
    response = await client.post("/whip", data=CHROMIUM_OFFER, headers=headers)
    exposed = response.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"Location", "ETag", "Link", "Retry-After"} <= set(exposed)


# ---------------------------------------------------------------- DELETE


async def test_a_session_is_deleted_whatever_the_entity_tag(start: Start, desk: FakeDesk) -> None:
    client = await start(with_keys())
    response = await client.delete(SESSION, headers={"If-Match": '"another"'})
    assert response.status == 200 and desk.hung_up == ["rtc_abc"]
    assert (await client.delete("/whip/rtc_nobody")).status == 404
    assert (await client.delete("/whip/rtc_lost")).status == 410


# ---------------------------------------------------------------- PATCH


async def patch(client: Any, body: str, tag: str | None, path: str = SESSION) -> Any:
    headers = FRAGMENT | ({} if tag is None else {"If-Match": tag})
    response: aiohttp.ClientResponse = await client.patch(path, data=body, headers=headers)
    return response


@pytest.mark.parametrize("path", [SESSION, "/v1/realtime/calls/rtc_abc"])
async def test_candidates_are_taken_at_either_door(start: Start, desk: FakeDesk, path: str) -> None:
    client = await start(with_keys())
    response = await patch(client, CANDIDATE, 'W/"x", "one"', path)
    assert response.status == 204 and await response.read() == b""
    assert "ETag" not in response.headers
    assert desk.updates == [CANDIDATE]


async def test_clients_of_early_drafts_send_the_tag_back_as_it_came(start: Start) -> None:
    client = await start()
    for tag, status in (('"one"', 204), ('"zero"', 412)):
        headers = FRAGMENT | {"ETag": tag}
        assert (await client.patch(SESSION, data=CANDIDATE, headers=headers)).status == status


@pytest.mark.parametrize("tag", ["*", '"*"'])
async def test_a_restart_brings_our_side_and_another_entity_tag(start: Start, tag: str) -> None:
    client = await start()
    response = await patch(client, RESTART, tag)
    assert response.status == 200 and response.content_type == FRAGMENT["Content-Type"]
    assert response.headers["ETag"] == '"two"'
    assert await response.text() == "a=ice-ufrag:ours\r\n"


@pytest.mark.parametrize(
    ("body", "tag", "path", "status"),
    [
        (CANDIDATE, None, SESSION, 428),
        (CANDIDATE, '"zero"', SESSION, 412),
        (CANDIDATE, 'W/"one"', SESSION, 412),
        ("hello", '"one"', SESSION, 400),
        ("a=ice-ufrag:x\r\n", "*", SESSION, 400),
        (CANDIDATE, '"one"', "/whip/rtc_nobody", 404),
        (CANDIDATE, '"one"', "/whip/rtc_lost", 410),
        ("v" * 70_000, '"one"', SESSION, 413),
    ],
)
async def test_fragments_that_cannot_be_taken(
    start: Start, desk: FakeDesk, body: str, tag: str | None, path: str, status: int
) -> None:
    client = await start()
    response = await patch(client, body, tag, path)
    assert response.status == status and desk.updates == []
    assert (await response.json())["error"]["message"]


async def test_a_fragment_in_another_type_is_415(start: Start, desk: FakeDesk) -> None:
    client = await start()
    response = await client.patch(SESSION, data=CANDIDATE, headers={**SDP, "If-Match": "*"})
    assert response.status == 415 and desk.updates == []


# ---------------------------------------------------------------- servers for clients


def test_each_issue_lasts_from_its_own_moment() -> None:
    login = TurnLogin(secret="s", lifetime_s=50)
    servers = IceServers((), ("turn:t",), login, wall_clock=lambda: 1000.0)
    (server,) = servers.issue()
    assert server.username is not None and server.username.startswith("1050:")
    assert servers.issue(with_turn=False) == []


def test_without_a_login_nobody_hears_of_turn() -> None:
    assert IceServers(("stun:s",), ("turn:t",)).issue() == [IceServer(("stun:s",))]


def test_fixed_credentials_are_told_as_they_are() -> None:
    servers = IceServers(("stun:s",), ("turn:t",), TurnLogin('o"x', "p\\w"))
    assert servers.issue() == [
        IceServer(("stun:s",)),
        IceServer(("turn:t",), 'o"x', "p\\w"),
    ]
    link = links(servers.issue())[1]
    assert 'username="o\\"x"; credential="p\\\\w"' in link


async def test_the_other_door_tells_the_servers_too(start: Start) -> None:
    client = await start(with_keys(), TURN)
    response = await client.post("/v1/realtime/calls", data=CHROMIUM_OFFER, headers={**SDP, **KEY})
    assert response.status == 201 and len(response.headers.getall("Link")) == 3
