"""TURN with a real coturn: callers who have nothing but a relay, and passwords that expire."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import aioice.stun
import pytest
from aioice.ice import StunProtocol
from aiortc import RTCConfiguration, RTCIceServer
from aiortc.rtcconfiguration import RTCIceTransportPolicy

from server.front.certificates import ensure
from signaling.ice_servers import parse_url, time_limited
from signaling.relay import connect_relay
from tests.caller import Caller
from tests.coturn import SECRET, coturn_server
from tests.serving import Serving
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.loopback


@pytest.fixture(scope="module")
def coturn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a TURN server listens, by UDP and TCP."""
    with coturn_server(tmp_path_factory.mktemp("coturn")) as where:
        yield where


@pytest.fixture(scope="module")
def server(coturn: str) -> Iterator[Serving]:
    urls = f"turn:{coturn},turn:{coturn}?transport=tcp"
    secret = f"media.turn_secret={SECRET}"
    with Serving("--engine", "echo", "--set", f"media.turn={urls}", "--set", secret) as serving:
        yield serving


@pytest.fixture(scope="module")
def hidden(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    """A server that is reached by a relay over TLS and by nothing else."""
    folder = tmp_path_factory.mktemp("tls")
    certificate = ensure(folder, "127.0.0.1")
    trusted = {"SSL_CERT_FILE": str(certificate.cert)}
    with (
        pytest.MonkeyPatch.context() as patch,
        coturn_server(folder, certificate) as where,
        Serving(
            *("--engine", "echo", "--set", f"media.turn=turns:{where}"),
            *("--set", f"media.turn_secret={SECRET}"),
            *("--set", "media.ice_transport_policy=relay"),
            environment=trusted,
        ) as serving,
    ):
        # The caller's side, too, trusts whom OpenSSL trusts.
        patch.setenv("SSL_CERT_FILE", trusted["SSL_CERT_FILE"])
        yield serving


def relay_only(server: Serving, transport: str) -> RTCConfiguration:
    """As the server tells it, with the URL of one transport."""
    (told,) = server.get("/api/info")[1]["ice_servers"]
    marks = {"tcp": "transport=tcp", "tls": "turns:"}
    (url,) = [
        url
        for url in told["urls"]
        if next((name for name, mark in marks.items() if mark in url), "udp") == transport
    ]
    return RTCConfiguration(
        iceServers=[RTCIceServer([url], told["username"], told["credential"])],
        iceTransportPolicy=RTCIceTransportPolicy.RELAY,
    )


@pytest.mark.parametrize("transport", ["udp", "tcp"])
async def test_a_caller_who_has_only_a_relay_converses(server: Serving, transport: str) -> None:
    async with Caller(server.url, ice=relay_only(server, transport)) as caller:
        await caller.hears("session.created")
        caller.voice.say("hello")
        await until(lambda: caller.loud_samples > 4_800)
        ice: Any = caller.pc.getSenders()[0].transport.transport
        pair = ice._connection._nominated[1]
        assert pair.local_candidate.type == "relay"
        assert "typ relay" in caller.pc.remoteDescription.sdp, "the server has its own"
        assert await caller.hang_up() == 200


async def test_a_server_that_shows_no_address_of_its_own_is_reached_over_tls(
    hidden: Serving,
) -> None:
    async with Caller(hidden.url, ice=relay_only(hidden, "tls")) as caller:
        await caller.hears("session.created")
        caller.voice.say("hello")
        await until(lambda: caller.loud_samples > 4_800)
        offered = [line for line in caller.pc.remoteDescription.sdp.splitlines() if " typ " in line]
        assert offered and all(" typ relay raddr 0.0.0.0 rport 9" in line for line in offered)
        assert await caller.hang_up() == 200


@pytest.mark.parametrize("query", ["", "?transport=tcp"])
@pytest.mark.parametrize(
    ("secret", "left_s", "is_taken"),
    [(SECRET, 60, True), (SECRET, -60, False), ("another", 60, False)],
)
async def test_credentials_that_expired_or_are_forged_are_refused(
    coturn: str, query: str, secret: str, left_s: int, is_taken: bool
) -> None:
    class Receiver:
        def protocol_lost(self, protocol: Any) -> None: ...

    url = parse_url(f"turn:{coturn}{query}")
    credentials = time_limited(secret, int(time.time()) + left_s)
    connecting = connect_relay(url, credentials, lambda: StunProtocol(Receiver()))  # type: ignore[arg-type]
    async with asyncio.timeout(PATIENCE_S):
        if not is_taken:
            with pytest.raises(aioice.stun.TransactionFailed):
                await connecting
            return
        protocol = await connecting
        assert protocol.transport.get_extra_info("sockname")[0] == "127.0.0.1"
        await protocol.close()
