"""What a caller's own control traffic may cost: only its own call, and that it is really judged."""

import asyncio
import gc
import itertools
import logging
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiortc import RTCCertificate, rtcdtlstransport
from aiortc.rtcsctptransport import (
    DataChunk,
    ForwardTsnChunk,
    SackChunk,
    tsn_plus_one,
)
from aiortc.rtp import RtcpPsfbPacket, RtcpRtpfbPacket, RtpPacket
from cryptography.hazmat.primitives.asymmetric import rsa
from google_crc32c import value as crc32c
from OpenSSL import SSL

from signaling.association import MAX_STREAMS
from signaling.ice import IceSettings
from signaling.inbound import MAX_SOURCES, RETRANSMISSIONS_BURST, RETRANSMISSIONS_PER_S, Inbound
from signaling.peer import Peer
from tests.signaling.rtc import Client, Recorder
from tests.signaling.test_sctp import chunk, packet, parameter
from tests.waiting import PATIENCE_S, until

pytestmark = pytest.mark.loopback


class Call:
    """A connected call, with the guards of the peer and what the client needs to be hostile."""

    def __init__(self, peer: Peer, listener: Recorder, client: Client) -> None:
        self.peer, self.listener, self.client = peer, listener, client
        assert peer._wire is not None and client.pc.sctp is not None
        (self.inbound,) = peer._wire._inbounds.values()
        self.sctp: Any = client.pc.sctp
        self.dtls: Any = client.pc.sctp.transport

    async def send_chunk(self, kind: int, body: bytes) -> None:
        head = struct.pack("!HHL", 5000, self.sctp._remote_port, self.sctp._remote_verification_tag)
        made = packet(chunk(kind, body))
        data = head + bytes(4) + made[12:]
        checksum = struct.pack("<L", crc32c(data))
        await self.dtls._send_data(head + checksum + made[12:])

    async def send_rtcp(self, data: bytes) -> None:
        await self.dtls._send_rtp(data)

    async def answers(self) -> None:
        """Wait until the peer has heard what was sent before."""
        self.client.say("done")
        await until(lambda: "done" in self.listener.messages)


@asynccontextmanager
async def call(listener: Recorder | None = None) -> AsyncIterator[Call]:
    listener = listener or Recorder()
    peer, client = Peer("rtc_test", IceSettings(), listener), Client()
    await client.call(peer)
    await until(lambda: "channel_open" in listener.told)
    channel = client.channel
    assert channel is not None
    await until(lambda: channel.readyState == "open")
    try:
        yield Call(peer, listener, client)
    finally:
        await client.close()
        await peer.close()


async def test_what_is_decrypted_passes_the_guard() -> None:
    async with call() as made:
        await until(lambda: made.inbound.heard > 60)
        heard, turn = made.inbound.heard, made.inbound._turn
        await made.answers()
        assert made.inbound.heard > heard
        assert made.inbound._turn > turn
        assert len(made.inbound._sources) == 1
        assert made.inbound._budget._left_s < 2.0, "messages are paid for"
        assert not made.inbound.dropped


async def test_sound_goes_past_the_queue_and_is_counted_with_all_else() -> None:
    async with call() as made:
        assert made.peer._wire is not None
        (hooks,) = made.peer._wire._hooks.values()
        sound: list[bytes] = []
        take = hooks.door.take_media

        def watched(data: bytes) -> bool:
            is_taken = take(data)
            sound.extend([data] if is_taken else [])
            return is_taken

        hooks.door.take_media = watched
        await until(lambda: len(sound) > 20)
        (transport,) = [s for s in (await made.peer.stats()).values() if s["type"] == "transport"]
        assert transport["packetsReceived"] > 20
        assert transport["bytesReceived"] > sum(map(len, sound))
        queued, repeated = made.inbound._turn, sound[-1]
        assert take(repeated), "what was sent twice is known, and is no matter for the queue"
        assert made.inbound.dropped == {"undecipherable": 1}
        assert not take(b"\x80\xc9" + bytes(30)), "a report waits for its turn"
        assert made.inbound._turn == queued
        hooks.door.take_media = take
        pair: Any = hooks.pair
        for kind in (b"\x80\x6f", b"\x80\xc8"):
            # As from a stranger who forges the client's address.
            hooks.door.take(pair.protocol, kind + bytes(1600), pair.remote_addr)
        await made.answers()
        assert hooks.door.turned_away["too_large"] == 2
        assert made.listener.reasons == []
        made.inbound._dtls._set_state(rtcdtlstransport.State.CLOSED)
        assert not take(repeated)


async def test_what_fails_of_what_waited_in_the_queue_is_counted() -> None:
    def fail(data: bytes) -> None:
        raise KeyError("bug")

    async with call() as made:
        vars(made.inbound)["_receive_rtp"] = fail
        for _ in range(2):
            await made.inbound._dtls._handle_rtp_data(b"sound", arrival_time_ms=0)
        assert made.inbound.dropped["failed"] == 2


SACK = struct.pack("!LLHH", 0, 100_000, 290, 0) + struct.pack("!HH", 1, 65_535) * 290


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param((3, SACK), id="sack of 19 million"),
        pytest.param((4, parameter(1, b"", length=0)), id="parameter without end"),
        pytest.param((130, parameter(13, b"", length=0)), id="reconfiguration without end"),
        pytest.param((0, b""), id="empty data"),
        pytest.param((0, bytes(5)), id="short data"),
        pytest.param((192, bytes(6)), id="short forward"),
        pytest.param((1, bytes(16) + parameter(7, b"", length=0)), id="init without end"),
        pytest.param((10, b"no cookie"), id="cookie"),
        pytest.param((7, b""), id="short shutdown"),
        pytest.param((130, parameter(16, bytes(3))), id="short response"),
    ],
)
async def test_a_hostile_chunk_costs_nothing(
    hostile: tuple[int, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    kind, body = hostile
    async with call() as made:
        if kind == 3:
            tsn = (made.sctp._local_tsn - 1) % 2**32
            body = struct.pack("!L", tsn) + body[4:]
        began = time.thread_time()
        await made.send_chunk(kind, body)
        await made.answers()
        assert time.thread_time() - began < 1.0
        assert made.listener.reasons == []
        assert not caplog.records


async def test_impossible_acknowledgements_are_ignored() -> None:
    async with call() as made:
        sack = SackChunk()
        sack.cumulative_tsn = (made.sctp._last_received_tsn + 1000) % 2**32
        await made.sctp._send_chunk(sack)
        await made.answers()
        assert made.inbound.dropped["impossible_sack"] == 1


async def send_data(made: Call, tsn: int, stream: int, data: bytes, flags: int, kind: int) -> None:
    sent = DataChunk(flags=flags)
    sent.tsn, sent.stream_id, sent.protocol, sent.user_data = tsn % 2**32, stream, kind, data
    await made.sctp._send_chunk(sent)


async def test_chunks_behind_a_gap_are_bounded_and_the_gap_is_repaired() -> None:
    async with call() as made:
        # The first one is lost, and sent again only after hundreds that follow.
        first = made.sctp._local_tsn
        for ahead in range(1, 400):
            await send_data(made, first + ahead, 0, b"x", 3, 51)
        await until(lambda: made.inbound.dropped["misordered_sctp"] > 0)
        sctp: Any = made.peer._pc.sctp if made.peer._pc else None
        assert len(sctp._sack_misordered) <= 256
        assert made.listener.reasons == []


async def test_text_that_is_not_utf8_is_replaced() -> None:
    async with call() as made:
        channel: Any = made.client.channel
        made.sctp._data_channel_queue.append((channel, 51, b"half \xf0\x9f of it"))
        channel._addBufferedAmount(12)
        await made.sctp._data_channel_flush()
        await until(lambda: bool(made.listener.messages))
        assert made.listener.messages == ["half \ufffd of it"]
        await made.answers()


async def test_a_broken_opening_of_a_channel_is_dropped() -> None:
    async with call() as made:
        assert made.client.channel is not None
        known = made.client.channel.id
        truncated = b"\3" + bytes(8) + b"\xff\0\0"
        for stream, opening in [(known, b"\3" + bytes(11)), (8, truncated), (6, b"\2")]:
            await made.sctp._send(stream, 50, opening)
        await made.answers()
        assert made.inbound.dropped["malformed_channel"] == 3
        assert made.listener.reasons == []


async def channels(made: Call) -> None:
    for number in range(MAX_STREAMS + 8):
        made.client.pc.createDataChannel(f"more {number}")


async def streams(made: Call) -> None:
    for number in range(MAX_STREAMS + 8):
        await made.sctp._send(100 + number, 51, b"x")


async def fragments(made: Call) -> None:
    tsn = made.sctp._local_tsn
    # Some may be lost, and nobody repairs what the client does not know of.
    for number in itertools.cycle(range(1100)):
        await send_data(made, tsn + number, 0, b"x", 2 if number == 0 else 0, 51)
        if number % 20 == 0:
            await asyncio.sleep(0.02)
            if made.listener.reasons:
                return


async def sources(made: Call) -> None:
    for number in range(MAX_SOURCES + 8):
        packet = RtpPacket(payload_type=96, ssrc=1000 + number, payload=b"x")
        await made.dtls._send_rtp(packet.serialize())
        if number % 20 == 0:
            await asyncio.sleep(0)


@pytest.mark.parametrize("hostile", [channels, streams, fragments, sources])
async def test_who_takes_too_much_loses_its_own_call_and_is_told(
    hostile: Callable[[Call], Awaitable[None]],
) -> None:
    async with call() as made:
        async with asyncio.timeout(PATIENCE_S):
            await hostile(made)
        await until(lambda: bool(made.listener.reasons))
        assert made.listener.reasons == ["flooded"]
        assert made.peer.is_reachable and made.peer.send("why")
        await until(lambda: "why" in made.client.received)


async def test_a_budget_that_is_spent_ends_the_call() -> None:
    cost_s = 0.0

    def expensive(text: str) -> None:
        nonlocal cost_s
        cost_s += 0.5

    async with call(Recorder(on_message=expensive)) as made:
        made.inbound._cpu_time = lambda: cost_s
        for number in range(12):
            made.client.say(f"question {number}")
        await until(lambda: bool(made.listener.reasons))
        assert made.listener.reasons == ["flooded"]
        assert 4 <= len(made.listener.messages) < 12


async def test_streams_named_by_a_forward_tsn_are_not_made() -> None:
    async with call() as made:
        forward = ForwardTsnChunk()
        forward.cumulative_tsn = made.sctp._local_tsn
        made.sctp._local_tsn = tsn_plus_one(made.sctp._local_tsn)
        forward.streams = [(number, 1) for number in range(1000, 1200)]
        await made.sctp._send_chunk(forward)
        await made.answers()
        assert made.peer._pc is not None
        sctp: Any = made.peer._pc.sctp
        assert len(sctp._inbound_streams) == 1


async def test_packets_are_sent_again_at_a_bounded_rate() -> None:
    async with call() as made:
        sender: Any = made.peer.audio_sender
        await until(lambda: len(sender._RTCRtpSender__rtp_history) > 20)
        asked: list[int] = []

        async def retransmit(number: int) -> None:
            asked.append(number)

        sender._retransmit = retransmit
        known = max(p.sequence_number for p in sender._RTCRtpSender__rtp_history.values())
        nack = RtcpRtpfbPacket(fmt=1, ssrc=5, media_ssrc=sender._ssrc)
        body = struct.pack("!HH", known, 0xFFFF) * 280
        head = struct.pack("!BBHLL", 0x81, 205, 2 + 280, nack.ssrc, nack.media_ssrc)
        began = time.monotonic()
        for _ in range(40):
            await made.send_rtcp(head + body)
        await made.answers()
        earned = RETRANSMISSIONS_PER_S * (time.monotonic() - began)
        assert len(set(asked)) == 17
        assert len(asked) <= RETRANSMISSIONS_BURST + earned + 1


async def test_malformed_rtp_and_rtcp_are_dropped_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with call() as made:
        remb = bytes(RtcpPsfbPacket(fmt=15, ssrc=1, media_ssrc=0, fci=b"REMB\xff\0\0\0"))
        await made.send_rtcp(remb)
        await made.send_rtcp(b"\x81\xc9\0\1\0\0\0\5")
        extension = b"\xbe\xde\0\1\x1f\0\0\0"
        await made.dtls._send_rtp(b"\x90\x60" + bytes(10) + extension + b"x")
        await made.answers()
        assert made.inbound.dropped["failed"] == 2
        assert made.inbound.dropped["malformed_rtp"] == 1
        assert made.listener.reasons == []
        assert "Traceback" not in caplog.text


@pytest.mark.parametrize("setup", ["actpass", "active"])
async def test_a_client_with_an_rsa_certificate_connects(
    monkeypatch: pytest.MonkeyPatch, setup: str
) -> None:
    create = RTCCertificate._create_ssl_context

    def generate(cls: type[RTCCertificate]) -> RTCCertificate:
        key: Any = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        return cls(key=key, cert=rtcdtlstransport.generate_certificate(key))

    def context(self: RTCCertificate, srtp_profiles: Any) -> SSL.Context:
        made: SSL.Context = create(self, srtp_profiles)
        made.set_cipher_list(b"ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-GCM-SHA256")
        return made

    listener = Recorder()
    peer = Peer("rtc_test", IceSettings(), listener)
    with monkeypatch.context() as patch:
        patch.setattr(RTCCertificate, "generateCertificate", classmethod(generate))
        client = Client()
    (certificate,) = client.pc._RTCPeerConnection__certificates  # type: ignore[attr-defined]
    certificate._create_ssl_context = context.__get__(certificate)
    await client.call(peer, lambda sdp: sdp.replace("a=setup:actpass", f"a=setup:{setup}"))
    await until(lambda: "channel_open" in listener.told)
    await client.close()
    await peer.close()


def test_a_hook_whose_name_is_gone_is_an_error() -> None:
    class Changed:
        transport = None

    with pytest.raises(RuntimeError, match="Changed has no _handle_rtp_data any more"):
        Inbound(Changed(), None, lambda: None, lambda: 0.0)


# ---------------------------------------------------------------- what is sent to the peer


async def test_delivered_is_what_the_client_has_acknowledged() -> None:
    async with call() as made:
        assert made.peer._wire is not None
        made.peer.send("x")
        assert not made.peer._wire.is_delivered
        await made.peer.delivered(20.0)
        assert made.peer._wire.is_delivered
        # From now on the client hears nothing.
        vars(made.dtls.transport)["_recv"] = lambda: asyncio.get_running_loop().create_future()
        await made.peer.delivered(20.0)
        made.peer.send("y")
        await made.peer.delivered(20.0)
        made.peer.send("z")
        await made.peer.delivered(0.1)
        assert not made.peer._wire.is_delivered


async def test_event_sent_while_the_connection_ends_is_no_error() -> None:
    failures: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: failures.append(what))
    async with call() as made:
        assert made.peer.send("late")
        made.inbound._dtls._set_state(rtcdtlstransport.State.CLOSED)
        await asyncio.sleep(0.05)
        gc.collect()
    assert failures == []


async def test_sending_between_the_farewell_and_the_end_fails_as_after_it() -> None:
    async with call() as made:
        made.inbound._dtls._ssl.shutdown()
        with pytest.raises(ConnectionError):
            await made.inbound._dtls._send_data(b"late")
