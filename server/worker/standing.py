"""What another front has to know of a media worker's calls, when theirs has died."""

from __future__ import annotations

from msgspec.structs import replace

from server.control import CallStands, PlaceCall, PlaceStream
from server.worker.session import CallSession


class Standing:
    """One call as its front had it placed, and what was asked of it since."""

    def __init__(self, place: PlaceCall | PlaceStream) -> None:
        # The offer was read, and the conversation is the session's.
        self._place = replace(place, kept=None)
        if isinstance(self._place, PlaceCall):
            self._place = replace(self._place, sdp="")
        self.is_connected = False
        self.call_id, self.n = place.call_id, place.n
        self.asked = place.n

    def told(self, session: CallSession) -> CallStands:
        """How the call stands now."""
        place, slot = self._place, session.slot
        return CallStands(
            call_id=self.call_id,
            remote=place.remote,
            callers=place.callers,
            owner=place.owner,
            since=session.since,
            n=self.n,
            asked=self.asked,
            is_stream=isinstance(place, PlaceStream),
            is_connected=self.is_connected,
            was_served=session.was_served,
            engine=slot.engine,
            wants_slot=self.is_connected and slot.is_wanted,
            away_s=session.absence.left_s,
            kept=session.kept_now(),
        )
