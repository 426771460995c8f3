"""The door of one ICE connection: which datagrams may reach aioice and aiortc. Media worker.

aioice hands data of every source address up, and neither it nor aiortc survives all malformed
ones. So nothing passes but

* STUN that is well formed and signed: checks by who was given our password, answers by who was
  asked (of a STUN server, which signs nothing, from its address);
* DTLS and (S)RTP of plausible form (by first byte, RFC 7983) from an address at which a signed
  message proved the peer.

The rest is counted by reason and never logged: it comes at a stranger's rate.
"""

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any

from signaling import records, stun
from signaling.ratelimit import TokenBucket
from signaling.restart import IceRestarts

logger = logging.getLogger(__name__)

MAX_QUEUED_DATAGRAMS = 2048
MAX_DATAGRAM_BYTES = 2048
MAX_RECORD_BYTES = 1500
"""Of a DTLS record with application data: aiortc reads no more of one at a time."""
MIN_RTP_BYTES = 12
MAX_SRTP_BYTES = 1500
"""Of more libsrtp's wrapper makes a ValueError, with which aiortc ends the connection."""
MAX_PEER_ADDRESSES = 64
"""Addresses from which the peer may prove itself: each is answered, and checked in return."""
CHECKS_PER_S = 100.0
CHECKS_BURST = 300.0

Address = tuple[str, int]


class DatagramFilter:
    """Admits the datagrams of one aioice connection, or counts why not.

    `is_encrypted` says whether the DTLS handshake above is done; `restarts` knows whose checks
    are for us.
    """

    def __init__(
        self,
        connection: Any,
        restarts: IceRestarts,
        is_encrypted: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self.heard = 0
        """Signed STUN messages of the peer."""
        self.refusals = 0
        """Times that the selected address was reported as closed by its host (ICMP)."""
        self.turned_away: Counter[str] = Counter()
        """Datagrams by the reason why they went no further."""
        self.take_media: Callable[[bytes], bool] = lambda data: False
        """Handles an SRTP packet at once, or says that it is to wait with all else."""
        self._connection = connection
        self._restarts = restarts
        self._is_encrypted = is_encrypted
        self._clock = clock
        self._checks = TokenBucket(CHECKS_PER_S, CHECKS_BURST)
        self._proven: set[tuple[int, Address]] = set()
        self._has_failed = False

    def take(self, protocol: Any, data: bytes, address: tuple[Any, ...]) -> None:
        """Take one datagram of a socket's. Never raises: this is called by the event loop."""
        try:
            reason = self._take(protocol, data, (address[0], address[1]))
        except Exception:  # noqa: BLE001 - the boundary: a datagram must not reach the loop's handler
            reason = "failed"
            if not self._has_failed:
                self._has_failed = True
                logger.exception("a datagram failed; more of this call's are only counted")
        if reason is not None:
            self.turned_away[reason] += 1

    def restarted(self) -> None:
        """Forget where the peer was, except for where it is sent to."""
        pairs = self._connection._nominated.values()
        self._proven &= {(pair.protocol.id, pair.remote_addr) for pair in pairs}

    def refused(self, addresses: list[Address]) -> None:
        """Take the addresses that the kernel reports as closed."""
        pairs = self._connection._nominated.values()
        self.refusals += any(pair.remote_addr in addresses for pair in pairs)

    def _take(self, protocol: Any, data: bytes, address: Address) -> str | None:
        if not data:
            return "empty"
        kind = data[0]
        if kind < 4:
            return self._take_stun(protocol, data, address)
        if (protocol.id, address) not in self._proven:
            return "unknown_address"
        if len(data) > MAX_DATAGRAM_BYTES:
            return "too_large"
        if 20 <= kind < 64:
            return self._take_dtls(data)
        if 128 <= kind < 192 and len(data) >= MIN_RTP_BYTES:
            if len(data) > MAX_SRTP_BYTES:
                return "too_large"
            return None if self.take_media(data) else self._queue(data)
        return "unknown_kind"

    def _take_stun(self, protocol: Any, data: bytes, address: Address) -> str | None:
        message = stun.read(data)
        if message is None:
            return "malformed_stun"
        if message.kind == stun.BINDING_REQUEST:
            return self._take_check(message, protocol, data, address)
        if message.kind in (stun.BINDING_RESPONSE, stun.BINDING_ERROR):
            reason = self._judge_answer(message, data, protocol, address)
            if reason is None:
                protocol.take_stun(data, address)
            return reason
        return "unknown_stun"

    def _take_check(
        self, message: stun.StunMessage, protocol: Any, data: bytes, address: Address
    ) -> str | None:
        generation = self._restarts.named(message.username)
        if generation is None:
            return "unknown_user"
        if not stun.is_signed(data, message, generation.password.encode()):
            return "unsigned"
        if not message.has_priority:
            return "malformed_stun"
        if not self._checks.take(self._clock()):
            return "too_many_checks"
        reason = self._prove(protocol, address)
        if reason is None and generation == self._restarts.current:
            protocol.take_stun(data, address)
        elif reason is None:
            self._restarts.answer_old_check(protocol, data, address)
        return reason

    def _judge_answer(
        self, message: stun.StunMessage, data: bytes, protocol: Any, address: Address
    ) -> str | None:
        transaction = protocol.transactions.get(message.transaction_id)
        if transaction is None:
            return "unasked"
        key: bytes | None = transaction._Transaction__integrity_key
        if key is None:
            return None if address == transaction._Transaction__addr else "unasked"
        if not stun.is_signed(data, message, key):
            return "unsigned"
        return self._prove(protocol, address)

    def _prove(self, protocol: Any, address: Address) -> str | None:
        where = (protocol.id, address)
        if where not in self._proven and len(self._proven) >= MAX_PEER_ADDRESSES:
            return "too_many_addresses"
        self._proven.add(where)
        self.heard += 1
        return None

    def _take_dtls(self, data: bytes) -> str | None:
        found = records.split(data)
        if found is None:
            return "malformed_dtls"
        is_encrypted = self._is_encrypted()
        if is_encrypted and any(len(record.data) > MAX_RECORD_BYTES for record in found):
            return "too_large"
        kept = [record.data for record in found if _is_kept(record)]
        if not kept:
            return "plaintext"
        if not is_encrypted:
            return self._queue(b"".join(kept))
        # aiortc reads one record of a datagram; the others would wait in OpenSSL, and grow.
        for data in kept:
            if reason := self._queue(data):
                return reason
        return None

    def _queue(self, data: bytes) -> str | None:
        # aioice's queue has no bound.
        queue = self._connection._queue
        if queue.qsize() >= MAX_QUEUED_DATAGRAMS:
            return "queue_full"
        queue.put_nowait((data, 1))
        return None


def _is_kept(record: records.Record) -> bool:
    """Return whether a record without encryption, which anybody can send, is one of a handshake.

    An alert would end the handshake; a peer that really gives up is noticed by the deadline.
    """
    is_handshake = record.content_type in (records.CHANGE_CIPHER_SPEC, records.HANDSHAKE)
    return record.is_encrypted or is_handshake
