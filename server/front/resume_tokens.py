"""What a client shows to come back into its session: unguessable, made of nothing it could know."""

from __future__ import annotations

import hashlib
import hmac
import secrets

from signaling.errors import ProtocolError

MAX_CHARS = 128


def new_secret() -> bytes:
    return secrets.token_bytes(32)


class ResumeTokens:
    """Makes a token of a call's id, and finds the id of one; keeps nothing for each call."""

    def __init__(self, secret: bytes = b"") -> None:
        """`secret`: of the front before, whose tokens are good then."""
        self._secret = secret or new_secret()

    def of(self, call_id: str) -> str:
        """The token of a call; who has it can take the place of the call's client."""
        made = hmac.new(self._secret, call_id.encode(), hashlib.sha256).hexdigest()
        return f"{call_id}.{made}"

    def call_of(self, token: str) -> str:
        """The id of the token's call, which may be over. Raises `ProtocolError` (404)."""
        call_id, dot, _ = token[:MAX_CHARS].rpartition(".")
        if not (dot and token.isascii() and hmac.compare_digest(token, self.of(call_id))):
            raise ProtocolError(
                "There is no session to resume.",
                code="session_not_found",
                param="resume",
                status=404,
            )
        return call_id
