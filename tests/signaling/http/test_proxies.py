"""Who a request is from behind reverse proxies: never what its sender invents."""

from __future__ import annotations

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer, make_mocked_request
from multidict import CIMultiDict

from server.front.app import proxied
from signaling.http.proxies import Header, TrustedProxies, neighbourhood, parse_address


def seen(
    headers: list[tuple[str, str]],
    *,
    trusted: tuple[str, ...] = ("192.0.2.0/28",),
    header: Header = "x-forwarded-for",
    peer: str = "192.0.2.1",
) -> str:
    """The address that a request over a connection from `peer` counts for."""
    request = make_mocked_request("GET", "/", CIMultiDict(headers)).clone(remote=peer)
    assert isinstance(request, web.Request)
    return TrustedProxies(trusted, header).resolve(request).remote or ""


FOR = "X-Forwarded-For"


@pytest.mark.parametrize(
    ("headers", "address"),
    [
        ([], "192.0.2.1"),
        ([(FOR, "203.0.113.9")], "203.0.113.9"),
        ([(FOR, "1.1.1.1, 203.0.113.9")], "203.0.113.9"),
        ([(FOR, "1.1.1.1"), (FOR, "203.0.113.9")], "203.0.113.9"),
        ([(FOR, "1.1.1.1, 203.0.113.9, 192.0.2.2")], "203.0.113.9"),
        ([(FOR, "192.0.2.3, 192.0.2.2")], "192.0.2.3"),
        ([(FOR, "203.0.113.9:4711")], "203.0.113.9"),
        ([(FOR, "[2001:db8::1]:4711")], "2001:db8::1"),
        ([(FOR, "::ffff:203.0.113.9")], "203.0.113.9"),
        ([(FOR, "1.1.1.1, unknown")], "192.0.2.1"),
        ([(FOR, "1.1.1.1, nonsense, 192.0.2.2")], "192.0.2.2"),
        ([(FOR, "1.1.1.1, " * 5000 + "203.0.113.9")], "203.0.113.9"),
        ([("Forwarded", "for=1.1.1.1")], "192.0.2.1"),
    ],
)
def test_client_is_the_last_hop_that_is_not_trusted(
    headers: list[tuple[str, str]], address: str
) -> None:
    assert seen(headers) == address


def test_word_of_others_is_not_taken() -> None:
    headers = [(FOR, "203.0.113.9"), ("Forwarded", "for=203.0.113.9")]
    assert seen(headers, peer="192.0.2.99") == "192.0.2.99"
    assert seen(headers, trusted=()) == "192.0.2.1"
    assert seen(headers, peer="") == ""


@pytest.mark.parametrize(
    ("value", "address"),
    [
        ("for=203.0.113.9;proto=https;by=192.0.2.1", "203.0.113.9"),
        ('for="[2001:db8::1]:4711"', "2001:db8::1"),
        ("for=1.1.1.1, For=203.0.113.9 ; host=a.example", "203.0.113.9"),
        ("for=1.1.1.1, for=unknown", "192.0.2.1"),
        ("for=1.1.1.1, for=_hidden", "192.0.2.1"),
        ("for=1.1.1.1, secret=yes", "192.0.2.1"),
        ('for="1.1.1.1, ;;==', "192.0.2.1"),
    ],
)
def test_forwarded_is_read_where_it_is_configured(value: str, address: str) -> None:
    headers = [("Forwarded", value), (FOR, "1.2.3.4")]
    assert seen(headers, header="forwarded") == address


async def test_host_and_scheme_are_the_clients() -> None:
    async def show(request: web.Request) -> web.Response:
        return web.json_response([request.remote, request.host, request.scheme])

    app = web.Application(middlewares=[proxied(TrustedProxies(["127.0.0.1"]))])
    app.router.add_get("/", show)
    async with TestClient(TestServer(app)) as client:
        headers = {
            FOR: "203.0.113.9",
            "X-Forwarded-Host": "a.example",
            "X-Forwarded-Proto": "https",
        }
        answer = await (await client.get("/", headers=headers)).json()
        assert answer == ["203.0.113.9", "a.example", "https"]
        headers["X-Forwarded-Proto"] = "gopher"
        assert (await (await client.get("/", headers=headers)).json())[2] == "http"


def test_networks_are_checked() -> None:
    for wrong in ("10.0.0.1/8", "proxy.example", "10.0.0.0/33"):
        with pytest.raises(ValueError):
            TrustedProxies([wrong])


@pytest.mark.parametrize(
    ("text", "caller"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("fe80::1%eth0", "fe80::/64"),
        (None, ""),
        ("a.sock", "a.sock"),
    ],
)
def test_subscriber_of_ipv6_is_one_caller(text: str | None, caller: str) -> None:
    assert neighbourhood(text) == caller


def test_addresses_are_parsed_as_they_come() -> None:
    assert parse_address("") is None and parse_address("[") is None and parse_address(":") is None
