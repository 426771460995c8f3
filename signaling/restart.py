"""ICE restart and trickled candidates on one aioice connection. Media worker.

aioice has no restart. It goes on judging checks after it has connected, though, and sends by
whatever pair was nominated last; so a restart is: other credentials, an empty check list, and the
old pair carrying what is sent until the client nominates a new one (RFC 8445 section 9). DTLS and
all above it notice nothing. Private names of aioice (pinned to 0.13.0) are used in this file;
tests/signaling/test_restart.py fails when they are gone.
"""

import asyncio
import secrets
from typing import Any

import aioice.stun
from aioice import Candidate

from signaling.errors import ProtocolError
from signaling.fragment import Credentials
from signaling.prepared import MAX_CANDIDATES

CHECK_PACE_S = 0.02
"""Between two checks that we start: Ta of RFC 8445 section 14, less often than 50 ms for none."""


class IceGeneration(Credentials, frozen=True):
    """The credentials of both sides in one ICE session; ours are `ufrag` and `password`."""

    remote_ufrag: str | None = None
    remote_password: str | None = None

    def is_named(self, username: bytes | None) -> bool:
        """Return whether a check with this USERNAME belongs to the session."""
        ours, colon, theirs = (username or b"").partition(b":")
        is_theirs = self.remote_ufrag is None or theirs == self.remote_ufrag.encode()
        return colon == b":" and ours == self.ufrag.encode() and is_theirs


class IceRestarts:
    """Owns the credentials of one connection, now and before the restart that is under way."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._old: IceGeneration | None = None
        self._old_pairs: dict[int, Any] = {}
        self._trickled = 0
        self._checks: asyncio.Task[None] | None = None

    @property
    def current(self) -> IceGeneration:
        connection = self._connection
        return IceGeneration(
            connection.local_username,
            connection.local_password,
            connection.remote_username,
            connection.remote_password,
        )

    @property
    def previous(self) -> IceGeneration | None:
        """The ICE session that still carries the media; None when no restart is under way."""
        if self._old is not None and self._connection._nominated != self._old_pairs:
            self._old = None
            self._old_pairs = {}
        return self._old

    def named(self, username: bytes | None) -> IceGeneration | None:
        """Return the session to which a check with this USERNAME belongs, if to any."""
        for generation in (self.current, self.previous):
            if generation is not None and generation.is_named(username):
                return generation
        return None

    def of(self, pair: Any) -> IceGeneration:
        """Return the session in which a nominated pair was found."""
        old = self.previous
        return old if old is not None and pair in self._old_pairs.values() else self.current

    def is_changed(self, remote: Credentials) -> bool:
        """Return whether these are other credentials of the client's than the ones known."""
        now = self.current
        return (remote.ufrag, remote.password) != (now.remote_ufrag, now.remote_password)

    def restart(self, remote: Credentials) -> Credentials:
        """Begin a new ICE session with the client's new credentials; return ours for it.

        What was sent goes on to be sent where it was until the client nominates a new pair.
        """
        connection = self._connection
        if connection._closing:
            raise ProtocolError("The call is ending.", code="call_ending", status=409)
        if self.previous is None and connection._nominated:
            self._old, self._old_pairs = self.current, dict(connection._nominated)
        for pair in connection._check_list:
            if pair.task is not None:
                pair.task.cancel()
        connection._check_list.clear()
        connection._remote_candidates.clear()
        connection._nominating.clear()
        connection._local_username = secrets.token_hex(4)
        connection._local_password = secrets.token_hex(16)
        connection.remote_username = remote.ufrag
        connection.remote_password = remote.password
        self._trickled = 0
        now = self.current
        return Credentials(now.ufrag, now.password)

    async def add(self, lines: tuple[str, ...]) -> None:
        """Try more candidates of the client's, MAX_CANDIDATES of an ICE session at most."""
        connection = self._connection
        for line in lines:
            if self._trickled >= MAX_CANDIDATES or connection._remote_candidates_end:
                break
            self._trickled += 1
            await connection.add_remote_candidate(Candidate.from_sdp(line))
        # While it connects, aioice starts the checks itself.
        is_checking = self._checks is not None and not self._checks.done()
        if connection._check_list_done and self.previous is not None and not is_checking:
            self._checks = asyncio.create_task(self._check(), name="ice-restart-checks")

    async def _check(self) -> None:
        """Start the checks of a restart one after the other, until the client has chosen."""
        connection = self._connection
        while self.previous is not None and not connection._closing:
            unchecked = [p for p in connection._check_list if p.task is None and _is_new(p)]
            if not unchecked:
                return
            connection.check_start_task(unchecked[0])
            await asyncio.sleep(CHECK_PACE_S)

    def answer_old_check(self, protocol: Any, data: bytes, address: tuple[str, int]) -> None:
        """Answer a signed check of the session before, which aioice does not know any more.

        The client keeps to the old pair until it has a new one, and asks for consent on it.
        """
        assert self._old is not None
        request = aioice.stun.parse_message(data)
        response = aioice.stun.Message(
            message_method=aioice.stun.Method.BINDING,
            message_class=aioice.stun.Class.RESPONSE,
            transaction_id=request.transaction_id,
        )
        response.attributes["XOR-MAPPED-ADDRESS"] = address
        response.add_message_integrity(self._old.password.encode())
        protocol.send_stun(response, address)


def _is_new(pair: Any) -> bool:
    return pair.state in (pair.State.FROZEN, pair.State.WAITING)
