"""What can go wrong with a call, in words."""

from __future__ import annotations

ORDERLY = frozenset({"hangup", "goodbye", "max_duration"})
"""Reasons of ends that somebody meant."""


class ClientError(Exception):
    """Every error of this package; the text is for people."""


class Declined(ClientError):
    """The server answered and did not take the call, or a file for it."""

    def __init__(self, message: str, *, status: int, code: str = "", retry_after_s: float = 0.0):
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class NoConnection(ClientError):
    """The server cannot be reached, or no sound gets through."""


class CallOver(ClientError):
    """The call is over; `reason` is the server's word for why, or `hangup`, `lost`."""

    def __init__(self, reason: str, message: str):
        super().__init__(message)
        self.reason = reason

    @property
    def is_orderly(self) -> bool:
        return self.reason in ORDERLY


class RequestFailed(ClientError):
    """The server refused an event, or its answer failed; `code`, `param` as in its `error`."""

    def __init__(self, message: str, *, code: str = "", param: str | None = None):
        super().__init__(message)
        self.code = code
        self.param = param
