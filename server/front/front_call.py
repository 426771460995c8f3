"""A call as the front knows it, and how many a caller or a key may have. Front."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from server.control import ConversationKept
from server.front.broker import Waiting
from server.front.supervisor import Supervised
from signaling.errors import ProtocolError
from signaling.ratelimit import TokenBucket
from signaling.settings import SessionSettings

RESUMES_PER_S, RESUMES_BURST = 0.5, 10.0
"""Each makes a peer connection."""


class FrontCall:
    """A call as the front knows it."""

    def __init__(
        self,
        call_id: str,
        worker: Supervised,
        remote: str,
        callers: tuple[str, ...],
        now: float,
        owner: str | None = None,
        settings: SessionSettings | None = None,
    ) -> None:
        self.call_id = call_id
        self.worker = worker
        self.remote = remote
        self.callers = callers
        """The callers whose share it counts in; see `signaling.http.auth.Principal.callers`."""
        self.owner = owner
        """The id of the key that it was placed with."""
        self.since = now
        self.is_setting_up = True
        """Until it is connected, or given up."""
        self.kept = ConversationKept(settings or SessionSettings(), ())
        """How its conversation stood last, where it can be resumed."""
        self.is_resumable = False
        self.was_served = False
        """It has had a slot; what needs one again waits in its old turn."""
        self.is_away = False
        """Its client cannot be reached."""
        self.is_hurried = False
        """It was told that others wait for its slot."""
        self.is_orphan = False
        """Its media worker died: it waits to be resumed on another one."""
        self.is_stream = False
        """It is carried by a WebSocket."""
        self.resumed = TokenBucket(RESUMES_PER_S, RESUMES_BURST)
        self.place: Waiting | None = None
        """In the queue, as it was told last."""
        self.asked = 0
        """Number of the latest question about it (`PlaceCall.n`); answers to others are late."""
        self.placing = 0
        """The number of the one by which its media worker has it."""
        self.placed: asyncio.Future[str] = asyncio.get_running_loop().create_future()


def check_share(callers: tuple[str, ...], calls: Collection[FrontCall], most: int) -> None:
    """Raise `ProtocolError` (429) if one of `callers` has `most` calls already."""
    for caller in callers:
        if sum(caller in call.callers for call in calls) >= most:
            raise ProtocolError(
                f"{most} calls of this caller are open already.",
                code="too_many_calls",
                status=429,
            )


def check_key(owner: str | None, calls: Collection[FrontCall], most: int) -> None:
    """Raise `ProtocolError` (429) if the key has `most` calls already; 0: any number is fine."""
    if most and owner is not None and sum(call.owner == owner for call in calls) >= most:
        raise ProtocolError(
            f"{most} calls of this key are open already, which is all that it may have.",
            code="too_many_calls_of_key",
            status=429,
        )
