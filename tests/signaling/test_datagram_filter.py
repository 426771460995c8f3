"""What a stranger's packet may reach: nothing, whatever it is and whenever it comes."""

import asyncio
import logging
import os
import random
import socket
import struct
from types import SimpleNamespace
from typing import Any

import aioice.stun
import pylibsrtp
import pytest
from aioice.stun import Class, Method

from signaling.datagram_filter import (
    MAX_PEER_ADDRESSES,
    MAX_QUEUED_DATAGRAMS,
    MAX_SRTP_BYTES,
    DatagramFilter,
)
from signaling.ice import IceSettings
from signaling.peer import Peer
from signaling.restart import IceRestarts
from tests.signaling.rtc import Client, Recorder, SilentTrack
from tests.waiting import until

PEER, STRANGER = ("192.0.2.1", 5000), ("198.51.100.9", 5000)
CLIENT_HELLO = b"\x16\xfe\xff\0\0\0\0\0\0\0\0\0\x40\x01\0\0\x34\0\0\0\0\0\0\0\x34\xfe\xfd" + bytes(
    50
)
ALERT = b"\x15\xfe\xfd\0\0\0\0\0\0\0\0\0\x02\x02\x28"
DATA = b"\x17\xfe\xfd\0\1\0\0\0\0\0\0\0\x04data"
RTP = b"\x80\x6f" + bytes(30)


class End:
    """Stands for an aioice protocol: keeps what it is handed."""

    id = 3

    def __init__(self) -> None:
        self.transactions: dict[bytes, Any] = {}
        self.taken: list[bytes] = []

    def take_stun(self, data: bytes, address: tuple[str, int]) -> None:
        self.taken.append(data)


class Setup:
    """A door with a peer that may have proven itself."""

    def __init__(self) -> None:
        self.connection = SimpleNamespace(
            local_username="ours",
            local_password="p" * 22,
            remote_username="theirs",
            remote_password="q" * 22,
            _queue=asyncio.Queue(),
            _nominated={},
        )
        self.is_encrypted = False
        self.now = 0.0
        self.end = End()
        self.restarts = IceRestarts(self.connection)
        self.door = DatagramFilter(
            self.connection, self.restarts, lambda: self.is_encrypted, lambda: self.now
        )

    def take(self, data: bytes, address: tuple[Any, ...] = PEER) -> str | None:
        """Why the datagram was turned away, None if it was not."""
        before = self.door.turned_away.copy()
        self.door.take(self.end, data, address)
        (reason,) = (self.door.turned_away - before) or (None,)
        return reason

    def prove(self, address: tuple[Any, ...] = PEER) -> str | None:
        return self.take(check(), address)

    def queued(self) -> list[bytes]:
        queue = self.connection._queue
        return [queue.get_nowait()[0] for _ in range(queue.qsize())]


def check(user: str = "ours:theirs", key: bytes = b"p" * 22, **more: object) -> bytes:
    message = aioice.stun.Message(Method.BINDING, Class.REQUEST)
    message.attributes.update({"USERNAME": user, "PRIORITY": 1} | more)
    message.add_message_integrity(key)
    return bytes(message)


def unsigned(kind: Class = Class.REQUEST) -> bytes:
    message = aioice.stun.Message(Method.BINDING, kind)
    message.attributes.update({"USERNAME": "ours:theirs", "PRIORITY": 1})
    return bytes(message)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0", "malformed_stun"),
        (unsigned()[:-4], "malformed_stun"),
        (unsigned(), "unsigned"),
        (unsigned(Class.INDICATION), "unknown_stun"),
        (unsigned(Class.RESPONSE), "unasked"),
        (check(user="ours:another"), "unknown_user"),
        (check(user="another:theirs"), "unknown_user"),
        (check(key=b"guessed"), "unsigned"),
        (CLIENT_HELLO, "unknown_address"),
        (ALERT, "unknown_address"),
        (DATA, "unknown_address"),
        (RTP, "unknown_address"),
        (b"\xff" * 40, "unknown_address"),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{len(value)}_bytes",
)
def test_a_stranger_reaches_nothing(data: bytes, reason: str) -> None:
    setup = Setup()
    setup.prove(PEER)
    setup.end.taken.clear()
    assert setup.take(data, STRANGER) == reason
    assert not setup.end.taken and not setup.queued()
    assert setup.door.heard == 1


def test_the_peer_proves_its_address_by_a_signed_check() -> None:
    setup = Setup()
    assert setup.take(CLIENT_HELLO) == "unknown_address"
    assert setup.prove() is None
    assert setup.take(CLIENT_HELLO) is None
    assert setup.take(RTP, (*PEER, 0, 0)) is None
    assert setup.queued() == [CLIENT_HELLO, RTP]
    assert setup.take(RTP, ("192.0.2.1", 5001)) == "unknown_address"


def test_media_is_never_taken_for_stun() -> None:
    # aioice's parser would read this one as a Binding request, and raise.
    packet = bytes([0x80, 0x01]) + struct.pack("!H", 8) + bytes(16)
    packet += struct.pack("!HHI", 0x24, 0, 0)
    setup = Setup()
    setup.prove()
    setup.end.taken.clear()
    assert setup.take(packet) is None
    assert setup.queued() == [packet] and not setup.end.taken


def test_answers_are_taken_from_who_was_asked() -> None:
    setup = Setup()
    answer = aioice.stun.Message(Method.BINDING, Class.RESPONSE)
    ours = SimpleNamespace(_Transaction__integrity_key=b"k", _Transaction__addr=PEER)
    server = SimpleNamespace(_Transaction__integrity_key=None, _Transaction__addr=PEER)
    setup.end.transactions[answer.transaction_id] = ours
    assert setup.take(bytes(answer), PEER) == "unsigned"
    setup.end.transactions[answer.transaction_id] = server
    assert setup.take(bytes(answer), STRANGER) == "unasked"
    assert setup.take(bytes(answer), PEER) is None
    assert setup.door.heard == 0
    setup.end.transactions[answer.transaction_id] = ours
    answer.add_message_integrity(b"k")
    assert setup.take(bytes(answer), PEER) is None
    assert setup.door.heard == 1
    assert setup.take(RTP) is None


def test_forged_records_from_the_peers_address() -> None:
    setup = Setup()
    setup.prove()
    assert setup.take(ALERT) == "plaintext"
    assert setup.take(CLIENT_HELLO + ALERT) is None
    assert setup.queued() == [CLIENT_HELLO]
    assert setup.take(b"\x17\xfe\xfd" + bytes(10)) == "malformed_dtls"
    setup.is_encrypted = True
    assert setup.take(ALERT) == "plaintext"
    assert setup.take(DATA[:3] + b"\0\0" + DATA[5:]) == "plaintext"
    assert setup.take(DATA * 3) is None
    assert setup.queued() == [DATA] * 3, "aiortc reads one record of a datagram"
    assert setup.take(b"\x17\xfe\xfd\0\1" + bytes(6) + b"\x07\0" + bytes(0x700)) == "too_large"


@pytest.mark.parametrize("kind", [b"\x80\x6f", b"\x80\xc8"], ids=["sound", "report"])
def test_no_packet_is_longer_than_can_be_decrypted(kind: bytes) -> None:
    setup = Setup()
    setup.prove()
    longest = kind + bytes(MAX_SRTP_BYTES - len(kind))
    policy = pylibsrtp.Policy(key=bytes(30), ssrc_type=pylibsrtp.Policy.SSRC_ANY_INBOUND)
    with pytest.raises(pylibsrtp.Error):
        pylibsrtp.Session(policy).unprotect(longest)
    with pytest.raises(ValueError, match="too long"):
        pylibsrtp.Session(policy).unprotect(longest + b"x")
    assert setup.take(longest) is None
    assert setup.take(longest + b"x") == "too_large"
    assert setup.queued() == [longest]


def test_everything_is_bounded() -> None:
    setup = Setup()
    for port in range(MAX_PEER_ADDRESSES):
        assert setup.prove(("192.0.2.1", port)) is None
    assert setup.prove(("192.0.2.1", 9999)) == "too_many_addresses"
    for _ in range(MAX_QUEUED_DATAGRAMS):
        assert setup.take(RTP, ("192.0.2.1", 1)) is None
    assert setup.take(RTP, ("192.0.2.1", 1)) == "queue_full"
    assert setup.take(RTP * 100, ("192.0.2.1", 1)) == "too_large"
    data = check()
    while (reason := setup.take(data, ("192.0.2.1", 1))) is None:
        assert len(setup.end.taken) < 1000
    assert reason == "too_many_checks"
    setup.now += 1.0
    assert setup.take(data, ("192.0.2.1", 1)) is None


def test_a_bug_reaches_the_log_once_and_the_loop_never(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*args: object) -> None:
        raise KeyError("bug")

    setup = Setup()
    monkeypatch.setattr(setup.end, "take_stun", fail)
    for _ in range(5):
        assert setup.prove() == "failed"
    assert caplog.text.count("Traceback") == 1


def test_random_datagrams_never_raise() -> None:
    setup = Setup()
    setup.prove()
    chance = random.Random(11)
    firsts = [0, 1, 20, 21, 22, 23, 24, 0x2C, 0x3F, 128, 191, 255]
    for _ in range(4000):
        setup.is_encrypted = chance.random() < 0.5
        data = bytes([chance.choice(firsts)]) + chance.randbytes(chance.randrange(60))
        setup.door.take(setup.end, data, PEER)
    assert setup.door.turned_away["failed"] == 0


def stray() -> list[bytes]:
    """Ten kinds of packets that need no key."""
    chance = random.Random(5)
    return [
        b"",
        CLIENT_HELLO,
        ALERT,
        DATA,
        RTP,
        b"\x81\xc9" + bytes(30),
        struct.pack("!HHI", 1, 8, 0x2112A442) + os.urandom(12) + struct.pack("!HHI", 0x24, 0, 7),
        unsigned(),
        check(key=b"guessed"),
        b"\x17\xfe\xfd" + bytes(10),
        *(chance.randbytes(chance.randrange(1, 300)) for _ in range(40)),
    ]


async def ports_of(peer: Peer) -> list[tuple[str, int]]:
    assert peer._wire is not None
    hooks = peer._wire._hooks.values()
    found = [p.transport.get_extra_info("sockname") for h in hooks for p in h.connection._protocols]
    return [name[:2] for name in found if ":" not in name[0]]


@pytest.mark.loopback
async def test_a_call_is_set_up_and_goes_on_under_strangers_packets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    unhandled: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context))
    listener, client = Recorder(), Client()
    peer = Peer("rtc_test", IceSettings(), listener)
    offer = await client.offer()
    answer = await peer.answer(offer, downlink=SilentTrack())
    sending = asyncio.create_task(flood(await ports_of(peer)))
    await client.accept(answer)
    await until(lambda: "channel_open" in listener.told)
    await asyncio.sleep(2.0)
    client.say("still here")
    await until(lambda: "still here" in listener.messages)
    sending.cancel()
    assert listener.reasons == []
    stats = await peer.stats()
    (transport,) = (s for s in stats.values() if s["type"] == "transport")
    turned_away = transport["datagramsTurnedAway"]
    assert {"empty", "malformed_stun", "unknown_user", "unknown_address"} <= set(turned_away)
    assert "failed" not in turned_away
    assert not unhandled and not caplog.records
    await client.close()
    await peer.close()


async def flood(targets: list[tuple[str, int]]) -> None:
    packets = stray()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        while True:
            for packet in packets:
                stranger.sendto(packet, targets[0])
            await asyncio.sleep(0.05)
