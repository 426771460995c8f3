"""Ten kinds of packets and requests by somebody who has no key, while others talk."""

from __future__ import annotations

import asyncio
import gzip
import socket
import time
from collections.abc import Callable
from random import Random
from typing import Any

from tests.caller import Caller
from tests.faults.measured import KEY, Attacked, attacked
from tests.fuzz.mutators import packets
from tests.fuzz.targets.datagrams import media_addresses

CALLS = 2
REQUEST_SHARE = 0.1
"""Of the rate: the rest are datagrams."""
MAX_CONCEALED_PERCENT = 1.0
MAX_MISSING_PERCENT = 1.0
"""Of the packets that a caller should get. Both are beyond what is missing without an attack."""
QUIET_S = 10.0
MAX_LOG_BYTES = 10_000
UNPACKED_BYTES = 30_000_000

CHECK = b"\0\1\0\x08\x21\x12\xa4\x42" + b"transaction!" + b"\0\x24\0\4" + bytes(4)
"""A binding request that is well formed and of nobody."""
ALERT = b"\x15\xfe\xfd" + bytes(8) + b"\0\2\2\x28"

DATAGRAMS: dict[str, Callable[[Random], bytes]] = {
    "empty": lambda rng: b"",
    "noise": lambda rng: rng.randbytes(rng.choice((1, 20, 600))),
    "malformed STUN": packets.stun,
    "STUN of nobody": lambda rng: CHECK,
    "DTLS": packets.dtls,
    "alert": lambda rng: ALERT,
    "RTP": packets.rtp,
    "RTCP": packets.rtcp,
}


class Requests:
    """What comes over TCP: offers without a key, packed bodies, and requests that never end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._packed = gzip.compress(bytes(UNPACKED_BYTES))
        self._held: list[asyncio.StreamWriter] = []
        self.sent = {"offer without a key": 0, "packed body": 0, "half a request": 0}
        self.refused = 0

    async def one(self, rng: Random) -> None:
        kind = rng.choices(tuple(self.sent), (8, 1, 1))[0]
        try:
            async with asyncio.timeout(5):
                await self._send(kind)
        except (OSError, TimeoutError):
            self.refused += 1
        self.sent[kind] += 1

    async def _send(self, kind: str) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = "POST /v1/realtime/calls HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += "Content-Type: application/sdp\r\n"
        if kind == "half a request":
            writer.write(head.encode())
            self._held.append(writer)
            if len(self._held) > 200:
                self._held.pop(0).close()
            return
        body = b"v=0\r\n"
        if kind == "packed body":
            body, head = self._packed, head + "Content-Encoding: gzip\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await reader.read(1000)
        writer.close()

    def close(self) -> None:
        for writer in self._held:
            writer.close()


async def run(rate: float, seconds: float) -> dict[str, Any]:
    """Attack a server of its own."""
    async with attacked(CALLS) as under:
        # Whose address is attacked: only its own ports are known, the others' are beside them.
        victim = Caller(under.server.url.split("?")[0], key=KEY)
        async with victim:
            await victim.hears("session.created")
            await under.begin()
            await asyncio.sleep(min(seconds, QUIET_S))
            quiet = (await under.end())["calls"]
            await under.begin()
            sent = await _attack(under, media_addresses(victim), rate, seconds)
            found = await under.end()
            is_alive = victim.pc.connectionState == "connected"
            await victim.hang_up()
    faults = [f"the {name} died" for name in found["died"]] + found["alarms"]
    if not is_alive:
        faults.append("the call whose port was hit is over")
    for before, loss in zip(quiet, found["calls"], strict=True):
        if loss.over:
            faults.append(loss.over)
        if loss.concealed_percent - before.concealed_percent > MAX_CONCEALED_PERCENT:
            faults.append(f"{loss.concealed_percent} % of a caller's sound was concealed")
        if before.received_percent - loss.received_percent > MAX_MISSING_PERCENT:
            faults.append(f"a caller got {loss.received_percent} % of the packets")
    if found["log_bytes"] > MAX_LOG_BYTES:
        faults.append(f"the log grew by {found['log_bytes']} bytes")
    return {
        "rate": rate,
        "seconds": seconds,
        "sent": sent,
        "quiet": quiet,
        **found,
        "faults": faults,
    }


async def _attack(
    under: Attacked, addresses: list[tuple[str, int]], rate: float, seconds: float
) -> dict[str, int]:
    port = int(under.server.url.split(":")[2].split("/")[0])
    requests = Requests(port)
    sent = dict.fromkeys(DATAGRAMS, 0)
    flood = asyncio.to_thread(_flood, addresses, rate * (1 - REQUEST_SHARE), seconds, sent)
    rng = Random(2)
    interval_s = 1 / (rate * REQUEST_SHARE)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_awaited(flood))
        began = time.monotonic()
        number = 0
        while (passed := time.monotonic() - began) < seconds:
            while number * interval_s < passed:
                tasks.create_task(requests.one(rng))
                number += 1
            await asyncio.sleep(0.01)
    requests.close()
    return sent | requests.sent | {"requests without an answer": requests.refused}


async def _awaited(flood: Any) -> None:
    await flood


def _flood(
    addresses: list[tuple[str, int]], rate: float, seconds: float, sent: dict[str, int]
) -> None:
    """Datagrams at a steady rate, from a thread."""
    rng = Random(1)
    # Made beforehand: making them must not be what is measured.
    made = [(name, make(rng)) for name, make in DATAGRAMS.items() for _ in range(50)]
    rng.shuffle(made)
    began = time.monotonic()
    number = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        while (passed := time.monotonic() - began) < seconds:
            while number / rate < passed:
                name, datagram = made[number % len(made)]
                stranger.sendto(datagram, addresses[number % len(addresses)])
                sent[name] += 1
                number += 1
            time.sleep(0.005)
