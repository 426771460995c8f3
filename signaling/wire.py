"""The UDP side of one peer connection: its sockets, doors and guards, as one. Media worker."""

from collections.abc import Callable, Iterator
from typing import Any

from aiortc import InvalidStateError, RTCPeerConnection

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
        self._hooks: dict[Any, ConnectionHooks] = {}
        self._inbounds: dict[Any, Inbound] = {}
        for dtls in _dtls_transports(pc):
            sctp = pc.sctp if pc.sctp is not None and pc.sctp.transport is dtls else None
            self._hooks[dtls] = ConnectionHooks(dtls, settings, clock)
            self._inbounds[dtls] = Inbound(dtls, sctp, exceeded, clock)

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


def _dtls_transports(pc: RTCPeerConnection) -> list[Any]:
    found: list[Any] = [t.receiver.transport for t in pc.getTransceivers()]
    if pc.sctp is not None:
        found.append(pc.sctp.transport)
    return list(dict.fromkeys(found))
