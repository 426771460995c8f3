"""The UDP side of one peer connection: its sockets, doors and guards, as one. Media worker."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from aiortc import InvalidStateError, RTCPeerConnection

from signaling.fragment import FragmentPart
from signaling.hooking import replace
from signaling.ice import ConnectionHooks, IceSettings
from signaling.inbound import Inbound


class Wire:
    """Hooks aioice and aiortc before gathering; tells afterwards what came of it.

    Create it between setRemoteDescription and setLocalDescription. `exceeded` is called when the
    peer's control traffic costs more than a call may.
    """

    def __init__(
        self,
        pc: RTCPeerConnection,
        settings: IceSettings,
        clock: Callable[[], float],
        exceeded: Callable[[], None],
    ) -> None:
        _connect_until_closed(pc)
        self._mids = _transports_by_mid(pc)
        self._hooks: dict[Any, ConnectionHooks] = {}
        self._inbounds: dict[Any, Inbound] = {}
        for dtls in dict.fromkeys(self._mids.values()):
            sctp = pc.sctp if pc.sctp is not None and pc.sctp.transport is dtls else None
            self._hooks[dtls] = ConnectionHooks(dtls, settings, clock)
            inbound = self._inbounds[dtls] = Inbound(dtls, sctp, exceeded, clock)
            self._hooks[dtls].door.take_media = inbound.take_media

    @property
    def heard(self) -> int:
        """What certainly came from the peer: signed checks and answers, decrypted packets."""
        doors = sum(hooks.door.heard for hooks in self._hooks.values())
        return doors + sum(inbound.heard for inbound in self._inbounds.values())

    @property
    def refusals(self) -> int:
        """How often the peer's host said that nobody is there any more (ICMP)."""
        return sum(hooks.door.refusals for hooks in self._hooks.values())

    @property
    def has_left(self) -> bool:
        """Whether the peer said that it is going."""
        return any(inbound.has_left for inbound in self._inbounds.values())

    @property
    def is_delivered(self) -> bool:
        """Whether the peer has acknowledged all events that were sent to it."""
        return all(inbound.is_delivered for inbound in self._inbounds.values())

    def is_restart(self, parts: Iterable[FragmentPart]) -> bool:
        """Return whether a fragment has other credentials than those in use."""
        given = [part.credentials for part in parts if part.credentials is not None]
        return any(hooks.is_changed(one) for hooks in self._hooks.values() for one in given)

    async def update(self, parts: Iterable[FragmentPart]) -> list[FragmentPart]:
        """Take a fragment; our side of each transport that it restarts, none for candidates only.

        Raises ProtocolError 409 when the connection is closing.
        """
        given: dict[Any, list[FragmentPart]] = {}
        for part in parts:
            known = [self._mids.get(part.mid)] if part.mid else list(self._hooks)
            is_whole = bool(part.mid) or len(known) == 1
            for dtls in filter(None, known):
                # Candidates that name no m-line are nobody's where there are several transports.
                told = part if is_whole else FragmentPart("", part.credentials)
                given.setdefault(dtls, []).append(told)
        ours = []
        for dtls, told_parts in given.items():
            # An m-line's own credentials count before those of all.
            told_parts.sort(key=lambda part: not part.mid)
            our_part = await self._hooks[dtls].update(told_parts)
            if our_part is not None:
                mid = next(mid for mid, transport in self._mids.items() if transport is dtls)
                ours.append(msgspec.structs.replace(our_part, mid=mid))
        return ours

    def turned_away(self) -> Iterator[tuple[str, dict[str, int]]]:
        """Yield transport id and the datagrams that were not handled, by reason."""
        for dtls, hooks in self._hooks.items():
            counts = hooks.door.turned_away + self._inbounds[dtls].dropped
            yield dtls._stats_id, dict(counts)

    def candidate_pairs(self) -> Iterator[tuple[str, Any, dict[str, Any]]]:
        """Yield transport id, aioice pair and RTCIceCandidatePairStats members per connection."""
        for dtls, hooks in self._hooks.items():
            if hooks.pair is None:
                continue
            stats: dict[str, Any] = {
                "nominated": True,
                "state": "succeeded",
                "requestsSent": hooks.requests_sent,
                "responsesReceived": hooks.responses_received,
                "totalRoundTripTime": hooks.total_round_trip_s,
            }
            if hooks.round_trip_s is not None:
                stats["currentRoundTripTime"] = hooks.round_trip_s
            yield dtls._stats_id, hooks.pair, stats

    def abort(self) -> None:
        """Close every socket at once, without the farewell that a stuck close waits for."""
        for hooks in self._hooks.values():
            hooks.abort()


def _connect_until_closed(pc: RTCPeerConnection) -> None:
    """Let aiortc's connecting end in silence when the peer is closed in the middle of it.

    It starts one transport after the other and takes no look at whether it still should; nobody
    waits for its task, so that what it raises would be logged as never retrieved.
    """

    async def connect() -> None:
        try:
            await original()
        except InvalidStateError:
            if pc.signalingState != "closed":
                raise

    original = replace(pc, "_RTCPeerConnection__connect", connect)


def _transports_by_mid(pc: RTCPeerConnection) -> dict[str, Any]:
    """Return the DTLS transport of each m-line, in the order of the offer to aiortc."""
    found: list[tuple[str | None, Any]] = [
        (transceiver.mid, transceiver.receiver.transport) for transceiver in pc.getTransceivers()
    ]
    if pc.sctp is not None:
        found.append((pc.sctp.mid, pc.sctp.transport))
    return {mid or "": transport for mid, transport in found}
