"""The life of a peer: answered, connected, heard, lost, closed; nothing is left behind."""

import asyncio
import fractions
import gc
import re
import threading
import time
from pathlib import Path
from typing import Any

import aiortc
import av
import pytest
from aiortc import MediaStreamTrack, RTCRtpReceiver
from aiortc.exceptions import InvalidStateError

from signaling import peer as peer_module
from signaling.channel import EVENTS_BURST
from signaling.errors import ProtocolError
from signaling.ice import IceSettings
from signaling.liveness import SILENCE_S
from signaling.peer import Peer
from tests.signaling.offers import CHROMIUM_OFFER, only, second_audio, with_codecs, without
from tests.signaling.rtc import Client, Recorder, SilentTrack, without_candidates
from tests.waiting import PATIENCE_S, Clock, until

SETTINGS = IceSettings()


class OneFrame(MediaStreamTrack):
    """Sends the same small VP8 frame ten times a second."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self._sent = 0

    async def recv(self) -> "av.Packet[Any]":
        await asyncio.sleep(0.1)
        packet: av.Packet[Any] = av.Packet(b"\x10\x02\x00\x9d\x01\x2a\x10\x00\x10\x00")
        packet.pts = self._sent * 9000
        packet.time_base = fractions.Fraction(1, 90000)
        self._sent += 1
        return packet


@pytest.fixture(scope="module", autouse=True)
def _little_to_collect() -> None:
    """Let the many collections of this file pass over what was there before it."""
    gc.collect()
    gc.freeze()


def make(listener: Recorder | None = None, **kwargs: Any) -> tuple[Peer, Recorder]:
    listener = listener or Recorder()
    return Peer("rtc_test", SETTINGS, listener, **kwargs), listener


def sockets() -> int:
    found = 0
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found += str(entry.readlink()).startswith("socket:")
        except FileNotFoundError:
            continue
    return found


def resources() -> tuple[int, int, int]:
    gc.collect()
    return sockets(), threading.active_count(), len(asyncio.all_tasks())


async def nothing_more_than(before: tuple[int, int, int]) -> None:
    """Wait until all is freed; what a test before this one left may go meanwhile, too."""
    async with asyncio.timeout(PATIENCE_S):
        # Garbage sets no event; to collect it takes longer than most of what is waited for.
        while any(now > then for now, then in zip(resources(), before, strict=True)):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("offer", "audio", "video"),
    [
        (CHROMIUM_OFFER, True, True),
        (only("audio"), True, False),
        (only("video"), False, True),
        (only("video", "application"), False, True),
        (second_audio(), True, True),
        (CHROMIUM_OFFER.replace("m=video 9", "m=video 0"), True, False),
        (with_codecs("PCMU/8000", "VP8/90000"), False, True),
        (CHROMIUM_OFFER.replace("a=setup:actpass", "a=setup:active"), True, True),
        (CHROMIUM_OFFER.replace("a=sendrecv", "a=recvonly"), False, False),
        (CHROMIUM_OFFER.replace("a=rtcp:9 IN IP4 0.0.0.0", "a=rtcp:x"), True, True),
        (CHROMIUM_OFFER.replace("a=extmap:1 ", "a=extmap:x "), True, True),
    ],
)
async def test_offer_is_answered(offer: str, audio: bool, video: bool) -> None:
    peer, listener = make()
    seen: list[tuple[RTCRtpReceiver | None, RTCRtpReceiver | None]] = []
    answer = await peer.answer(
        offer, downlink=SilentTrack(), on_receivers=lambda a, v: seen.append((a, v))
    )
    assert answer.count("\r\nm=") == offer.count("\r\nm=")
    assert seen == [(peer.audio_receiver, peer.video_receiver)]
    assert [r is not None for r in seen[0]] == [audio, video]
    await peer.close()
    assert listener.reasons == ["hangup"]


@pytest.mark.parametrize("formats", ["111 63", "63 111"])
async def test_redundant_packets_are_taken_and_opus_by_itself_is_sent(formats: str) -> None:
    peer, _ = make()
    answer = await peer.answer(
        CHROMIUM_OFFER.replace("SAVPF 111 63", f"SAVPF {formats}"), downlink=SilentTrack()
    )
    assert f" UDP/TLS/RTP/SAVPF {formats}\r\n" in answer
    assert peer.opus_wishes.red_payload_type == 63
    assert peer._pc is not None
    # What aiortc receives, and of which it sends the first.
    codecs = peer._pc.getTransceivers()[0]._codecs
    assert [(c.payloadType, c.name) for c in codecs] == [(111, "opus"), (63, "red")]
    await peer.close()


@pytest.mark.parametrize(
    ("offer", "status"),
    [
        ("", 400),
        ("hello", 400),
        (without("ice-pwd"), 400),
        (with_codecs("PCMU/8000", "AV1/90000"), 406),
        ("v=0\r\n" + "x" * 1_000_000, 413),
    ],
)
async def test_bad_offer_is_refused_and_leaves_nothing(offer: str, status: int) -> None:
    before = resources()
    peer, listener = make()
    downlink = SilentTrack()
    with pytest.raises(ProtocolError) as caught:
        await peer.answer(offer, downlink=downlink)
    assert (caught.value.status, caught.value.param) == (status, "sdp")
    assert listener.reasons == ["no_answer"]
    assert downlink.readyState == "ended"
    await nothing_more_than(before)


@pytest.mark.parametrize("method", ["setRemoteDescription", "setLocalDescription"])
@pytest.mark.parametrize("error", [ValueError, AttributeError, AssertionError, InvalidStateError])
async def test_what_aiortc_makes_of_an_offer_is_a_refusal(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    method: str,
    error: type[Exception],
) -> None:
    """Even when the half-made connection cannot be closed either."""
    before = resources()

    async def fail(self: object, *description: object) -> None:
        raise error("what a stranger wrote")

    async def fail_to_close(self: object) -> None:
        raise AttributeError("half made")

    with monkeypatch.context() as patched:
        patched.setattr(aiortc.RTCPeerConnection, method, fail)
        patched.setattr(aiortc.RTCPeerConnection, "close", fail_to_close)
        peer, listener = make()
        with pytest.raises(ProtocolError) as caught:
            await peer.answer(CHROMIUM_OFFER, downlink=SilentTrack())
    assert (caught.value.status, caught.value.param) == (400, "sdp")
    assert listener.reasons == ["no_answer"]
    assert "Traceback" not in caplog.text and "stranger" not in caplog.text
    await until(lambda: sockets() <= before[0])


async def test_a_failing_hook_leaves_nothing() -> None:
    before = resources()
    peer, _ = make()

    def fail(audio: object, video: object) -> None:
        raise LookupError("bug")

    with pytest.raises(LookupError):
        await peer.answer(CHROMIUM_OFFER, downlink=SilentTrack(), on_receivers=fail)
    await nothing_more_than(before)


async def test_peers_that_never_connect_leave_nothing() -> None:
    before = resources()
    now = [0.0]
    pairs = [make(clock=lambda: now[0], connect_deadline_s=1.0) for _ in range(12)]
    for peer, _ in pairs:
        await peer.answer(CHROMIUM_OFFER, downlink=SilentTrack())
    assert sockets() >= before[0] + 12
    # In steps that are no standstill: of one that is, most is not counted.
    for now[0] in (0.5, 0.9):
        await asyncio.sleep(0.6)
        assert not any(listener.reasons for _, listener in pairs)
    now[0] = 1.1
    await until(lambda: all(listener.reasons for _, listener in pairs))
    for peer, listener in pairs:
        await peer.close()
        assert listener.reasons == ["connect_timeout"]
    await nothing_more_than(before)


async def test_close_is_idempotent_and_ends_a_stuck_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_module, "CLOSE_TIMEOUT_S", 0.1)
    before = sockets()
    peer, listener = make()
    await peer.answer(CHROMIUM_OFFER, downlink=SilentTrack())
    assert peer._pc is not None
    really_close = peer._pc.close

    async def hang() -> None:
        await asyncio.sleep(60)

    monkeypatch.setattr(peer._pc, "close", hang)
    await asyncio.gather(peer.close("bye"), peer.close(), peer.close())
    assert listener.reasons == ["bye"]
    await asyncio.sleep(0.05)
    assert sockets() == before
    await really_close()


async def test_slow_close_that_the_connection_began_by_itself_is_left_to_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peer_module, "CLOSE_TIMEOUT_S", 0.1)
    before = sockets()
    peer, _ = make()
    await peer.answer(CHROMIUM_OFFER, downlink=SilentTrack())
    assert peer._pc is not None
    transceiver = peer._pc.getTransceivers()[0]
    stop = transceiver.stop

    async def stop_slowly() -> None:
        await asyncio.sleep(0.15)
        await stop()

    monkeypatch.setattr(transceiver, "stop", stop_slowly)
    by_itself = asyncio.ensure_future(peer._pc.close())
    await asyncio.sleep(0)
    await peer.close()
    assert by_itself.done() and by_itself.exception() is None
    assert sockets() == before


async def test_a_failing_listener_ends_its_own_peer_only(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(text: str) -> None:
        raise KeyError("bug")

    peer, listener = make(Recorder(on_message=fail))
    peer._message("{}")
    peer._message("{}")
    assert listener.reasons == ["internal_error"]
    assert caplog.text.count("Traceback") == 1


def end_of_candidates_without_any(sdp: str) -> str:
    return without_candidates(sdp).replace("a=ice-ufrag", "a=end-of-candidates\r\na=ice-ufrag")


@pytest.mark.loopback
@pytest.mark.parametrize(
    "edit", [str, without_candidates, end_of_candidates_without_any], ids=lambda e: e.__name__
)
@pytest.mark.parametrize(("audio", "video"), [(1, 0), (2, 1)])
async def test_connects_and_echoes(edit: Any, audio: int, video: int) -> None:
    peer, listener = make()
    listener.on_message = lambda text: None if peer.send(f"echo {text}") else None
    client = Client(audio=audio, video=video)
    assert peer.send("early") is False
    await client.call(peer, edit)
    assert peer.send("waits") is True
    await until(lambda: "channel_open" in listener.told)
    assert listener.told == ["connected", "channel_open"]
    channel = client.channel
    assert channel is not None
    # Our side may know of it a moment before the client does.
    await until(lambda: channel.readyState == "open")
    channel.send("hello")
    await until(lambda: "echo hello" in client.received)
    assert client.received[0] == "waits"
    await client.close()
    await until(lambda: bool(listener.reasons))
    assert listener.reasons == ["closed"]
    await peer.close()
    assert listener.reasons == ["closed"]


@pytest.mark.loopback
@pytest.mark.parametrize("is_hooked", [True, False])
async def test_receiver_hook_gets_packets_and_an_unhooked_receiver_none(is_hooked: bool) -> None:
    packets: list[Any] = []

    def attach(audio: RTCRtpReceiver | None, video: RTCRtpReceiver | None) -> None:
        async def handle(packet: Any, arrival_time_ms: int) -> None:
            packets.append(packet)

        vars(audio)["_handle_rtp_packet"] = handle

    peer, listener = make()
    client = Client()
    on_receivers = attach if is_hooked else None
    offer = await client.offer()
    answer = await peer.answer(offer, downlink=SilentTrack(), on_receivers=on_receivers)
    await client.accept(answer)
    await until(lambda: "connected" in listener.told)
    await asyncio.sleep(0.5)
    assert bool(packets) is is_hooked
    assert peer.audio_receiver is not None
    track: Any = peer.audio_receiver.track
    assert track._queue.qsize() == 0
    await client.close()
    await peer.close()


@pytest.mark.loopback
@pytest.mark.parametrize(
    ("audio", "video"),
    [
        (["sendrecv"], []),
        (["recvonly"], []),
        (["sendonly"], []),
        (["recvonly", "sendonly"], ["sendonly"]),
        (["sendonly", "recvonly"], ["sendonly"]),
        (["sendrecv"], ["recvonly", "sendonly"]),
        (["recvonly"], ["inactive", "sendonly"]),
    ],
)
async def test_who_sends_is_received_and_who_receives_gets_sound(
    audio: list[str], video: list[str]
) -> None:
    """A real client with m-lines of these directions, its usual bundle policy included."""
    client = Client(audio=0)
    for direction in audio:
        track = SilentTrack() if direction.startswith("send") else "audio"
        client.pc.addTransceiver(track, direction=direction)
    for direction in video:
        client.pc.addTransceiver(OneFrame() if direction == "sendonly" else "video", direction)
    packets: dict[str, int] = {"audio": 0, "video": 0}

    def attach(*receivers: RTCRtpReceiver | None) -> None:
        for kind, receiver in zip(packets, receivers, strict=True):

            async def handle(packet: Any, arrival_time_ms: int, kind: str = kind) -> None:
                packets[kind] += 1

            if receiver is not None:
                vars(receiver)["_handle_rtp_packet"] = handle

    peer, _ = make()
    downlink = SilentTrack()
    listens = any(d in ("sendrecv", "recvonly") for d in audio)
    try:
        answer = await peer.answer(await client.offer(), downlink=downlink, on_receivers=attach)
        await client.accept(answer)
        await until(lambda: peer.is_connected)
        assert (peer.audio_sender is not None) is listens
        await until(lambda: packets["audio"] > 3 or audio == ["recvonly"])
        await until(lambda: packets["video"] > 0 or "sendonly" not in video)
        await until(lambda: downlink._sent > 3 or not listens)
    finally:
        await client.close()
        await peer.close()


@pytest.mark.loopback
@pytest.mark.parametrize("number", [0, 35, 63, 127])
async def test_sound_flows_in_the_payload_type_that_was_offered(number: int) -> None:
    heard: set[int] = set()

    def attach(audio: RTCRtpReceiver | None, video: RTCRtpReceiver | None) -> None:
        async def handle(packet: Any, arrival_time_ms: int) -> None:
            heard.add(packet.payload_type)

        vars(audio)["_handle_rtp_packet"] = handle

    def renumber(sdp: str) -> str:
        sdp = re.sub(r"(m=audio \d+ \S+) [^\r]*", rf"\1 {number}", sdp)
        return re.sub(r"a=(rtpmap|fmtp|rtcp-fb):96 ", rf"a=\1:{number} ", sdp)

    peer, _ = make()
    client = Client(channel=False)
    offer = renumber(await client.offer())
    answer = await peer.answer(offer, downlink=SilentTrack(), on_receivers=attach)
    assert re.search(rf"m=audio \d+ UDP/TLS/RTP/SAVPF {number}\r", answer)
    try:
        await client.accept(answer)
        await until(lambda: heard == {number})
    finally:
        await client.close()
        await peer.close()


@pytest.mark.loopback
async def test_an_outage_of_four_seconds_is_survived_a_client_that_vanishes_is_noticed() -> None:
    peer, listener = make()
    client = Client()
    await client.call(peer)
    await until(lambda: "channel_open" in listener.told)
    client.vanish()
    await asyncio.sleep(4.0)
    client.come_back()
    client.say("back")
    await until(lambda: "back" in listener.messages)
    assert peer.is_connected
    vanished_at = time.monotonic()
    client.vanish()
    await until(lambda: bool(listener.reasons))
    assert listener.reasons == ["vanished"]
    assert listener.gone_at - vanished_at > SILENCE_S - 2.0
    await peer.close()
    await client.close()


@pytest.mark.loopback
async def test_a_client_whose_host_says_that_it_is_gone_is_noticed_sooner() -> None:
    peer, listener = make()
    client = Client()
    await client.call(peer)
    await until(lambda: "channel_open" in listener.told)
    died_at = time.monotonic()
    client.die()
    await until(lambda: bool(listener.reasons))
    assert listener.reasons == ["vanished"]
    assert listener.gone_at - died_at < SILENCE_S
    await peer.close()
    await client.close()


@pytest.mark.loopback
async def test_a_client_that_aborts_its_association_has_closed() -> None:
    peer, listener = make()
    client = Client()
    await client.call(peer)
    await until(lambda: "channel_open" in listener.told)
    assert client.pc.sctp is not None
    await client.pc.sctp._abort()
    await until(lambda: listener.reasons == ["closed"])
    await peer.close()
    await client.close()


@pytest.mark.loopback
async def test_a_client_that_only_listens_is_not_taken_for_gone() -> None:
    peer, listener = make()
    client = Client(audio=0)
    client.pc.addTransceiver("audio", direction="recvonly")
    await client.call(peer)
    await until(lambda: peer.is_connected)
    await asyncio.sleep(4.0)
    assert listener.reasons == []
    await client.close()
    await peer.close()


@pytest.mark.loopback
async def test_a_flood_is_refused_and_the_channel_stays_open() -> None:
    clock = Clock()
    peer, listener = make(clock=clock)
    client = Client()
    await client.call(peer)
    await until(lambda: "channel_open" in listener.told)
    channel = client.channel
    assert channel is not None
    await until(lambda: channel.readyState == "open")
    for _ in range(2000):
        channel.send('{"type": "response.cancel"}')
    await until(lambda: peer.channel.messages_received == 2000)
    assert len(listener.messages) == EVENTS_BURST
    assert len(listener.errors) == 1
    assert listener.reasons == []
    clock.now += 0.5
    client.say("after")
    await until(lambda: "after" in listener.messages)
    await client.close()
    await peer.close()


@pytest.mark.loopback
async def test_twenty_calls_leave_nothing_behind() -> None:
    async def call() -> None:
        peer, listener = make()
        client = Client(video=1)
        await client.call(peer)
        await until(lambda: "channel_open" in listener.told)
        await peer.close()
        await client.close()

    await call()
    before = resources()
    for _ in range(20):
        await call()
    await nothing_more_than(before)
    gc.collect()
    # The last one may still be referenced by the loop's bookkeeping.
    assert sum(isinstance(o, aiortc.RTCPeerConnection) for o in gc.get_objects()) <= 2


@pytest.mark.loopback
async def test_stats_have_w3c_names_and_units() -> None:
    peer, listener = make()
    client = Client()
    await client.call(peer)
    await until(lambda: "channel_open" in listener.told)
    peer.send("x")

    async def by_type() -> dict[str, dict[str, Any]]:
        return {s["type"]: s for s in (await peer.stats()).values()}

    # A consent check each second, receiver reports every 0.5 to 1.5 s.
    stats = await by_type()
    while (
        not stats.get("remote-inbound-rtp", {}).get("roundTripTime")
        or not stats["candidate-pair"].get("currentRoundTripTime")
        or stats["outbound-rtp"]["packetsSent"] <= 20
    ):
        await asyncio.sleep(0.1)
        stats = await by_type()
    assert 0 <= stats["remote-inbound-rtp"]["fractionLost"] <= 1
    assert 0 <= stats["remote-inbound-rtp"]["jitter"] < 0.5
    assert 0 < stats["remote-inbound-rtp"]["roundTripTime"] < 1
    assert 0 < stats["candidate-pair"]["currentRoundTripTime"] < 1
    assert stats["candidate-pair"]["bytesReceived"] == stats["transport"]["bytesReceived"] > 0
    assert stats["transport"]["selectedCandidatePairId"] == stats["candidate-pair"]["id"]
    assert stats["local-candidate"]["candidateType"] == "host"
    assert stats["data-channel"]["messagesSent"] == 1
    assert abs(stats["transport"]["timestamp"] / 1000 - time.time()) < 5
    await client.close()
    await peer.close()
    assert (await peer.stats()) is not None
