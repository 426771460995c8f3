"""One caller with a key who sends every control message there is: only its own call may end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import struct
import time
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any

import pylibsrtp
from aiortc import InvalidStateError

from signaling.realtime.client_events import CLIENT_EVENT_TYPES
from tests.caller import Caller
from tests.faults.measured import KEY, attacked
from tests.fuzz.mutators import packets
from tests.fuzz.targets.datagrams import CHANNEL, MEDIA, WIRE, send
from tests.fuzz.targets.http import ask

CALLS = 2
MAX_MISSING_PERCENT = 5.0
"""More than without an attack: a hole of half a second in ten seconds."""
QUIET_S = 8.0
ATTACK_S = 8.0
COOL_DOWN_S = 2.0

Attack = Callable[[Caller, Random, float], Awaitable[None]]
"""Goes on until a moment of the monotonic clock, or until its own call is over."""


def _chunk(kind: int, body: bytes) -> bytes:
    return CHANNEL + struct.pack("!BBH", kind, 0, len(body) + 4) + body


def _sack(caller: Caller, rng: Random) -> bytes:
    """Gap blocks as wide as they can be, behind what was acknowledged."""
    sctp: Any = caller.pc.sctp
    gaps = struct.pack("!HH", 1, 65_535) * 290
    body = struct.pack("!IIHH", (sctp._local_tsn - 1) % 2**32, 100_000, 290, 0) + gaps
    return _chunk(3, body)


def _nack(caller: Caller, rng: Random) -> bytes:
    """Packets to send again: 17 a word, 280 words."""
    pairs = b"".join(struct.pack("!HH", (17 * i) % 65_536, 65_535) for i in range(280))
    ssrcs = _ssrcs(caller)
    return MEDIA + struct.pack("!BBHII", 0x81, 205, 282, 1, ssrcs[0] if ssrcs else 1) + pairs


def _ssrcs(caller: Caller) -> list[int]:
    """Of what the server sends."""
    found: list[int] = []
    for receiver in caller.pc.getReceivers():
        streams: Any = receiver
        found += list(streams._RTCRtpReceiver__remote_streams)
    return found


def _pli(caller: Caller, rng: Random) -> bytes:
    ssrcs = _ssrcs(caller)
    return MEDIA + struct.pack("!BBHII", 0x81, 206, 2, 1, ssrcs[0] if ssrcs else 1)


def _data(caller: Caller, rng: Random) -> bytes:
    """First fragments of messages that never end, on streams all over."""
    tsn = rng.getrandbits(32)
    head = struct.pack("!IHHI", tsn, rng.getrandbits(16), 0, 51)
    return CHANNEL + struct.pack("!BBH", 0, 2, 1016) + head + bytes(1000)


def _forward_tsn(caller: Caller, rng: Random) -> bytes:
    sctp: Any = caller.pc.sctp
    return _chunk(192, struct.pack("!I", (sctp._local_tsn + 2**31 - 2) % 2**32))


PACKETS: dict[str, Callable[[Caller, Random], bytes]] = {
    "SACK of wide gaps": _sack,
    "NACK of all": _nack,
    "PLI": _pli,
    "RTCP of all kinds": lambda caller, rng: MEDIA + packets.rtcp(rng),
    "RTP of all kinds": lambda caller, rng: MEDIA + packets.rtp(rng),
    "SCTP of all kinds": lambda caller, rng: CHANNEL + packets.sctp(rng, 0, 0)[12:],
    "unfinished messages": _data,
    "FORWARD-TSN": _forward_tsn,
    "SCTP INIT": lambda caller, rng: _chunk(1, rng.randbytes(12) + bytes(4)),
    "SCTP RE-CONFIG": lambda caller, rng: _chunk(130, struct.pack("!HHIII", 13, 16, 1, 1, 1)),
    "STUN of its own": lambda caller, rng: WIRE + packets.stun(rng),
    "DTLS of its own": lambda caller, rng: WIRE + packets.dtls(rng),
}


def by_packets(make: Callable[[Caller, Random], bytes]) -> Attack:
    async def attack(caller: Caller, rng: Random, until: float) -> None:
        while time.monotonic() < until and caller.pc.connectionState == "connected":
            for _ in range(20):
                with contextlib.suppress(ValueError, pylibsrtp.Error):
                    await send(caller, make(caller, rng))
            await asyncio.sleep(0.05)

    return attack


async def by_events(caller: Caller, rng: Random, until: float) -> None:
    """Every event there is, large and small, as fast as they are taken."""
    texts = [json.dumps({"type": name}) for name in CLIENT_EVENT_TYPES]
    texts.append(json.dumps({"type": "session.update", "session": {"instructions": "x" * 60_000}}))
    texts.append("[" * 30_000)
    while time.monotonic() < until and caller.pc.connectionState == "connected":
        with contextlib.suppress(InvalidStateError):
            for _ in range(30):
                caller.channel.send(rng.choice(texts))
        await asyncio.sleep(0.02)


async def by_requests(caller: Caller, rng: Random, until: float) -> None:
    """Offers that never connect, and uploads, with its key."""
    offer = caller.pc.localDescription.sdp.encode()
    key = f"Authorization: Bearer {KEY}\r\n".encode()
    item = json.dumps({"type": "message", "role": "user", "content": [{"type": "input_text"}] * 32})
    while time.monotonic() < until:
        with contextlib.suppress(OSError, TimeoutError):
            await ask(
                *(caller.url + "/", "/v1/realtime/calls"),
                *(key + b"Content-Type: application/sdp", offer),
            )
            await ask(caller.url + "/", f"{caller.location}/items", key + b"X: y", item.encode())


ATTACKS: dict[str, Attack] = {name: by_packets(make) for name, make in PACKETS.items()}
ATTACKS |= {"events": by_events, "requests": by_requests}


async def run(names: Sequence[str] = tuple(ATTACKS), attack_s: float = ATTACK_S) -> dict[str, Any]:
    """Each attack by a caller of its own, beside the calls of others."""
    faults: list[str] = []
    told: dict[str, Any] = {}
    async with attacked(CALLS) as under:
        await under.begin()
        await asyncio.sleep(min(attack_s, QUIET_S))
        quiet = (await under.end())["calls"]
        for name in names:
            caller = Caller(under.server.url.split("?")[0], key=KEY)
            async with caller:
                await caller.hears("session.created")
                await under.begin()
                with contextlib.suppress(ConnectionError):
                    await ATTACKS[name](caller, Random(name), time.monotonic() + attack_s)
                await asyncio.sleep(COOL_DOWN_S)
                found = await under.end()
                with contextlib.suppress(OSError):
                    await caller.hang_up()
                found["its own call"] = caller.pc.connectionState
            told[name] = found
            faults += [f"{name}: the {who} died" for who in found["died"]]
            faults += [f"{name}: {alarm}" for alarm in found["alarms"]]
            for before, loss in zip(quiet, found["calls"], strict=True):
                if loss.over:
                    faults.append(f"{name}: {loss.over}")
                elif before.heard_percent - loss.heard_percent > MAX_MISSING_PERCENT:
                    faults.append(f"{name}: another caller heard {loss.heard_percent} %")
            if found["died"] or any(loss.over for loss in found["calls"]):
                break
    return {"quiet": quiet, "attacks": told, "faults": faults}
