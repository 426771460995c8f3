"""STUN and TURN servers: URLs, passwords that expire, and servers that rest."""

import base64
import hashlib
import hmac

import pytest

from signaling.ice_servers import MAX_REST_S, REST_S, Resting, TurnLogin, parse_url, time_limited
from tests.waiting import Clock


@pytest.mark.parametrize(
    ("text", "host", "port", "is_turn", "is_tcp", "is_tls"),
    [
        ("stun:stun.example", "stun.example", 3478, False, False, False),
        ("stun:192.0.2.1:19302", "192.0.2.1", 19302, False, False, False),
        ("turn:turn.example", "turn.example", 3478, True, False, False),
        ("turn:turn.example:80?transport=udp", "turn.example", 80, True, False, False),
        ("turn:turn.example?transport=tcp", "turn.example", 3478, True, True, False),
        ("turns:turn.example", "turn.example", 5349, True, True, True),
        ("turns:[2001:db8::1]:443?transport=tcp", "2001:db8::1", 443, True, True, True),
    ],
)
def test_urls(text: str, host: str, port: int, is_turn: bool, is_tcp: bool, is_tls: bool) -> None:
    url = parse_url(text)
    assert (url.text, url.host, url.port) == (text, host, port)
    assert (url.is_turn, url.is_tcp, url.is_tls) == (is_turn, is_tcp, is_tls)


@pytest.mark.parametrize(
    "text",
    [
        *("", "stun:", "stun.example", "http://stun.example", "turn:a b", "stun:a:0"),
        *("turn:a:70000", "stun:a?transport=tcp", "turns:a?transport=udp", "turn:a?transport=sctp"),
    ],
)
def test_what_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected|transport|TCP"):
        parse_url(text)


def test_credentials_are_those_that_coturn_computes() -> None:
    username, password = time_limited("north", 1_800_000_000)
    expires_at, _, tail = username.partition(":")
    assert expires_at == "1800000000" and tail
    # As turnserver does with use-auth-secret: base64(HMAC-SHA1(secret, user name)).
    expected = hmac.new(b"north", username.encode(), hashlib.sha1).digest()
    assert base64.b64decode(password) == expected
    assert time_limited("north", 1_800_000_000)[0] != username, "each has its own"


def test_a_login_is_made_anew_or_is_fixed() -> None:
    assert TurnLogin(secret="s", lifetime_s=60).credentials(1000.7)[0].startswith("1060:")
    assert TurnLogin("user", "password").credentials(1000.0) == ("user", "password")


def test_a_dead_server_rests_ever_longer_until_it_answers() -> None:
    clock = Clock()
    resting = Resting(clock)
    url, other = parse_url("stun:a"), parse_url("stun:b")
    rests = []
    for _ in range(7):
        resting.failed(url)
        assert resting.rests(url) and not resting.rests(other)
        began = clock.now
        while resting.rests(url):
            clock.now += 1
        rests.append(clock.now - began)
    assert rests[:3] == [REST_S, 2 * REST_S, 4 * REST_S] and rests[-1] == MAX_REST_S
    resting.answered(url)
    resting.failed(url)
    clock.now += REST_S
    assert not resting.rests(url)
