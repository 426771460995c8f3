"""ICE restart and trickle on real connections: the call goes on, wherever the client went."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aioice.ice
import aioice.stun
import pytest
from aioice import Candidate
from aioice.ice import StunProtocol

from signaling.errors import ProtocolError
from signaling.fragment import Credentials, FragmentPart, parse_fragment
from signaling.ice import IceSettings
from signaling.peer import ICE_RESTARTS_BURST, ICE_UPDATES_BURST, Peer
from signaling.restart import IceRestarts
from tests.signaling.rtc import Client, Recorder, without_candidates
from tests.waiting import until

pytestmark = pytest.mark.loopback

NEW = Credentials("newufrag", "n" * 24)
NEW_LINES = f"a=ice-ufrag:{NEW.ufrag}\r\na=ice-pwd:{NEW.password}\r\n"


class Call:
    """A connected peer and client, and their aioice connections."""

    def __init__(self, peer: Peer, client: Client, listener: Recorder) -> None:
        self.peer, self.client, self.listener = peer, client, listener
        self.theirs: Any = client.pc.sctp.transport.transport._connection  # type: ignore[union-attr]
        assert peer._wire is not None
        (hooks,) = peer._wire._hooks.values()
        self.ours, self.restarts = hooks.connection, hooks._restarts

    async def follow(self, fragment: str) -> None:
        """Have the client use its new credentials and what the peer answered to them."""
        session, line = parse_fragment(fragment)
        assert session.credentials is not None
        client = IceRestarts(self.theirs)
        client.restart(session.credentials)
        self.theirs._local_username, self.theirs._local_password = NEW.ufrag, NEW.password
        self.theirs._remote_candidates_end = False
        await client.add(line.candidates)

    async def says(self, text: str) -> None:
        """The client says something, and the peer answers it."""
        self.client.say(text)
        await until(lambda: text in self.listener.messages)
        self.peer.send(f"heard {text}")
        await until(lambda: f"heard {text}" in self.client.received)

    async def move(self) -> None:
        """Give the client another socket, and take the old one's away."""
        self.client.vanish()
        _, moved = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: StunProtocol(self.theirs), local_addr=("127.0.0.1", 0)
        )
        host, port = moved.transport.get_extra_info("sockname")
        moved.local_candidate = Candidate("1", 1, "udp", 2**31 - 1, host, port, "host")
        self.theirs._protocols.append(moved)


@asynccontextmanager
async def call(**settings: Any) -> AsyncIterator[Call]:
    listener = Recorder()
    peer, client = Peer("rtc_test", IceSettings(loopback="only", **settings), listener), Client()
    await client.call(peer)
    await until(lambda: "channel_open" in listener.told)
    try:
        yield Call(peer, client, listener)
    finally:
        await client.close()
        await peer.close()


@pytest.fixture(autouse=True)
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = ["127.0.0.1"]
    monkeypatch.setattr(aioice.ice, "get_host_addresses", lambda use_ipv4, use_ipv6: addresses)


async def test_a_client_at_another_address_goes_on_after_a_restart() -> None:
    async with call() as made:
        await made.says("before")
        before = made.ours._nominated[1]
        await made.move()
        fragment = await made.peer.update_ice(NEW_LINES)
        assert made.restarts.previous is not None
        await made.follow(fragment)
        await until(lambda: made.restarts.previous is None)
        assert made.ours._nominated[1].remote_addr != before.remote_addr
        await made.says("after")
        assert made.listener.reasons == []


async def test_until_the_client_follows_the_old_pair_goes_on() -> None:
    async with call(consent_interval_s=0.05) as made:
        sessions = set()
        ask = made.ours.build_request

        def build(pair: Any, nominate: bool) -> Any:
            request = ask(pair, nominate)
            sessions.add(made.restarts.of(pair).ufrag)
            return request

        made.ours.build_request = build
        before = made.restarts.current
        assert parse_fragment(await made.peer.update_ice(NEW_LINES))[0].credentials == Credentials(
            made.restarts.current.ufrag, made.restarts.current.password
        )
        assert made.restarts.current.ufrag != before.ufrag
        await made.says("meanwhile")
        # The client asks for consent as before, and is asked so.
        pair = made.theirs._nominated[1]
        request = made.theirs.build_request(pair, nominate=False)
        key = made.theirs.remote_password.encode()
        await pair.protocol.request(request, pair.remote_addr, integrity_key=key)
        (report,) = [s for s in (await made.peer.stats()).values() if s["type"] == "candidate-pair"]
        answered = report["responsesReceived"]
        await asyncio.sleep(0.3)
        (report,) = [s for s in (await made.peer.stats()).values() if s["type"] == "candidate-pair"]
        assert report["responsesReceived"] > answered and sessions == {before.ufrag}


async def test_a_restart_of_a_restart_and_what_is_repeated() -> None:
    async with call() as made:
        other = NEW_LINES.replace(NEW.ufrag, "otherufrag")
        first = await made.peer.update_ice(other)
        second = await made.peer.update_ice(NEW_LINES)
        assert first != second
        # The same credentials again are no restart.
        assert await made.peer.update_ice(NEW_LINES) == ""
        await made.follow(second)
        await until(lambda: made.restarts.previous is None)
        await made.says("after")


async def test_the_old_session_is_over_once_the_client_has_followed() -> None:
    async with call() as made:
        old = made.restarts.current
        await made.follow(await made.peer.update_ice(NEW_LINES))
        await until(lambda: made.restarts.previous is None)
        name = f"{old.ufrag}:{old.remote_ufrag}".encode()
        assert made.restarts.named(name) is None
        name = f"{made.restarts.current.ufrag}:{NEW.ufrag}".encode()
        assert made.restarts.named(name) == made.restarts.current


async def test_our_checks_reach_a_candidate_trickled_after_a_restart() -> None:
    async with call() as made:
        await made.peer.update_ice(NEW_LINES)
        sent: list[tuple[str, int]] = []
        for protocol in made.ours._protocols:
            protocol.send_stun = lambda message, address: sent.append(address)
        line = "a=candidate:1 1 udp 2122260223 192.0.2.77 5000 typ host\r\n"
        assert await made.peer.update_ice("m=audio 9 X 0\r\na=mid:0\r\n" + line) == ""
        await until(lambda: ("192.0.2.77", 5000) in sent)


async def test_a_client_without_candidates_connects_by_those_it_trickles() -> None:
    listener = Recorder()
    peer, client = Peer("rtc_test", IceSettings(loopback="only"), listener), Client()
    offer = await client.offer()
    kept = [line for line in offer.splitlines() if line.startswith("a=candidate")]
    answer = await peer.answer(without_candidates(offer), downlink=client.pc.getSenders()[0].track)
    assert peer._wire is not None
    (hooks,) = peer._wire._hooks.values()
    await asyncio.sleep(0.1)
    assert hooks.connection._check_list == []
    fragment = "m=audio 9 X 0\r\na=mid:0\r\n" + "\r\n".join(kept) + "\r\n"
    assert await peer.update_ice(fragment) == ""
    assert {pair.remote_candidate.type for pair in hooks.connection._check_list} == {"host"}
    await client.accept(answer)
    await until(lambda: "channel_open" in listener.told)
    await client.close()
    await peer.close()


async def test_what_a_client_may_send_is_bounded() -> None:
    async with call() as made:
        lines = "".join(
            f"a=candidate:{n} 1 udp 1 192.0.2.{n} 5000 typ host\r\n" for n in range(1, 200)
        )
        await made.peer.update_ice("m=audio 9 X 0\r\na=mid:0\r\n" + lines)
        assert len(made.ours._remote_candidates) <= 64 + 4
        # A line that is not there, and one of nobody.
        assert await made.peer.update_ice("m=audio 9 X 0\r\na=mid:zz\r\n" + NEW_LINES) == ""
        with pytest.raises(ProtocolError) as caught:
            for _ in range(int(ICE_UPDATES_BURST) + 8):
                await made.peer.update_ice("a=end-of-candidates\r\n")
        assert caught.value.status == 429
        with pytest.raises(ProtocolError) as caught:
            for number in range(int(ICE_RESTARTS_BURST) + 1):
                await made.peer.update_ice(NEW_LINES.replace("new", f"n{number}"))
        assert caught.value.status == 429
        await made.peer.close()
        with pytest.raises(ProtocolError) as caught:
            await made.peer.update_ice(NEW_LINES)
        assert caught.value.status == 409


async def test_lines_without_a_bundle_have_a_session_each() -> None:
    listener = Recorder()
    peer, client = Peer("rtc_test", IceSettings(loopback="only"), listener), Client()
    offer = (await client.offer()).replace("a=group:BUNDLE", "a=x-group:BUNDLE")
    await peer.answer(offer, downlink=client.pc.getSenders()[0].track)
    assert peer._wire is not None and len(peer._wire._hooks) == 2
    only = await peer.update_ice("m=audio 9 X 0\r\na=mid:1\r\n" + NEW_LINES)
    assert [part.mid for part in parse_fragment(only) if part.mid] == ["1"]
    both = await peer.update_ice(NEW_LINES.replace("new", "two"))
    parts = [part for part in parse_fragment(both) if part.mid]
    assert [part.mid for part in parts] == ["0", "1"]
    assert all(isinstance(part, FragmentPart) and part.credentials for part in parts)
    await client.close()
    await peer.close()
