"""Tokens of a session, as clients of `openbmb-realtime` count them. Media worker."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from signaling.openbmb.server_messages import HeardTokens, SessionUsage, SpokenTokens
from signaling.session.events import Usage


class Spent:
    """Owned by a door; a kind that no answer has counted is left out."""

    def __init__(self) -> None:
        self._read = self._written = 0
        self._heard: int | None = None
        self._seen: int | None = None
        self._spoken: int | None = None

    def add(self, usage: Usage) -> None:
        """Count what an answer has used."""
        self._read += usage.input_tokens
        self._written += usage.output_tokens
        self._heard = _sum(self._heard, usage.input_shares.audio)
        self._seen = _sum(self._seen, usage.input_shares.image)
        self._spoken = _sum(self._spoken, usage.output_shares.audio)

    def told(self) -> SessionUsage | UnsetType:
        """All of it; nothing while nothing was counted."""
        if not self._read + self._written:
            return UNSET
        heard = HeardTokens(
            audio_tokens=_or_unset(self._heard), vision_tokens=_or_unset(self._seen)
        )
        return SessionUsage(
            input_tokens=self._read,
            output_tokens=self._written,
            total_tokens=self._read + self._written,
            input_tokens_details=UNSET if heard == HeardTokens() else heard,
            output_tokens_details=UNSET
            if self._spoken is None
            else SpokenTokens(audio_tokens=self._spoken),
        )


def _sum(before: int | None, more: int | None) -> int | None:
    return before if more is None else (before or 0) + more


def _or_unset(count: int | None) -> int | UnsetType:
    return UNSET if count is None else count
