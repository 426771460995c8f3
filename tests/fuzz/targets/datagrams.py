"""Datagrams at the port of a call under way, from a stranger and from the client itself."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from pathlib import Path
from random import Random
from typing import Any

import aioice.stun
import pylibsrtp

from tests.caller import Caller
from tests.fuzz.mutators import packets
from tests.fuzz.mutators.raw import mutate_bytes
from tests.fuzz.target import Target

PAUSE_S = 0.002
WIRE, MEDIA, CHANNEL = b"w", b"r", b"s"
SCTP_HEADER = 12


async def called(url: str) -> Caller:
    caller = await Caller(url).__aenter__()
    await caller.hears("session.created")
    return caller


def media_addresses(caller: Caller) -> list[tuple[str, int]]:
    """Where the server takes this call's datagrams (IPv4)."""
    found = re.findall(
        r"a=candidate:\S+ 1 udp \d+ ([0-9.]+) (\d+) typ host", caller.pc.remoteDescription.sdp
    )
    return list(dict.fromkeys((host, int(port)) for host, port in found))


def parsed(datagram: bytes) -> str:
    """What aioice and the kinds of RFC 7983 make of a datagram."""
    first = datagram[0] if datagram else -1
    if not 0 <= first < 4:
        return f"{first} {len(datagram).bit_length()}"
    try:
        message = aioice.stun.parse_message(datagram)
    except (ValueError, LookupError, struct.error) as error:
        return re.sub(r"\d+", "#", f"{type(error).__name__} {error}")
    return f"{message.message_method} {message.message_class} {sorted(message.attributes)}"


class StrangerDatagrams(Target):
    """A case is a datagram, sent to a call's ports from a socket that has nothing to do with it."""

    name = "udp-stranger"

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._caller: Caller | None = None
        self._addresses: list[tuple[str, int]] = []

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        if rng.random() < 0.3:
            return mutate_bytes(rng, parent, other, limit=packets.MAX_DATAGRAM)
        return rng.choice(packets.STRANGE)(rng)

    def signature(self, case: bytes) -> str:
        return parsed(case)

    async def open(self, url: str, folder: Path) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._caller = await called(url)
        self._addresses = media_addresses(self._caller)

    async def try_case(self, case: bytes) -> str:
        assert self._socket is not None
        for address in self._addresses:
            self._socket.sendto(case, address)
        await asyncio.sleep(PAUSE_S)
        return ""

    async def settle(self) -> str:
        assert self._caller is not None
        state = self._caller.pc.connectionState
        return "" if state == "connected" else f"a stranger ended the call ({state})"

    async def close(self) -> None:
        if self._socket is not None and self._caller is not None:
            self._socket.close()
            await self._caller.hang_up()
            await self._caller.__aexit__(None, None, None)
            self._socket = self._caller = None


class ClientDatagrams(Target):
    """From the client's own address: bare, or sealed as its RTP, RTCP or SCTP.

    A case is a letter for the layer and what goes there; of SCTP the tag and the checksum are made
    right when it is sent. The call may end by it, others may not.
    """

    name = "udp-client"

    def __init__(self) -> None:
        self._url = ""
        self._caller: Caller | None = None
        self.calls = 0

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        layer, body = parent[:1], parent[1:]
        if rng.random() < 0.4:
            return layer + mutate_bytes(rng, body, other[1:], limit=packets.MAX_DATAGRAM - 200)
        match rng.randrange(3):
            case 0:
                return WIRE + rng.choice(packets.STRANGE)(rng)
            case 1:
                return MEDIA + rng.choice((packets.rtp, packets.rtcp))(rng)
            case _:
                return CHANNEL + packets.sctp(rng, 0, 0)[SCTP_HEADER:]

    def signature(self, case: bytes) -> str:
        if case[:1] != WIRE:
            return f"{case[:3]!r} {len(case).bit_length()}"
        return parsed(case[1:])

    async def open(self, url: str, folder: Path) -> None:
        self._url = url
        self._caller = await called(url)
        self.calls = 1

    async def try_case(self, case: bytes) -> str:
        caller = self._caller
        assert caller is not None
        if caller.pc.connectionState != "connected":
            await self.close()
            self._caller = caller = await called(self._url)
            self.calls += 1
        try:
            await send(caller, case)
        except (ConnectionError, ValueError, pylibsrtp.Error):
            # The call is over, and the next case gets a new one; or it cannot be sealed at all.
            return ""
        await asyncio.sleep(PAUSE_S)
        return ""

    async def close(self) -> None:
        if self._caller is not None:
            await self._caller.hang_up()
            await self._caller.__aexit__(None, None, None)
            self._caller = None


async def send(caller: Caller, case: bytes) -> None:
    """Send one case in the caller's name. Raises ConnectionError when its transport is closed."""
    sctp: Any = caller.pc.sctp
    dtls = sctp.transport
    layer, body = case[:1], case[1:]
    if layer == MEDIA:
        if body:
            await dtls._send_rtp(body)
    elif layer == CHANNEL:
        await dtls._send_data(packets.sealed(body, sctp._remote_verification_tag))
    else:
        pair = dtls.transport._connection._nominated.get(1)
        if pair is None:
            raise ConnectionError
        pair.protocol.transport.sendto(body, pair.remote_addr)
