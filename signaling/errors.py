"""The errors of signaling: what a client did wrong, and what it must wait for. Any process."""


class ProtocolError(Exception):
    """The client sent something invalid.

    Over HTTP it becomes `status` with OpenAI's error object; on the data channel an `error` event.
    `param` names the offending field in dotted form, `event_id` the client's event it belongs to.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str = "invalid_value",
        param: str | None = None,
        status: int = 400,
        event_id: str | None = None,
        type: str = "invalid_request_error",
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code
        self.param = param
        self.status = status
        self.event_id = event_id
        self.type = type


class NoFreeSlot(Exception):
    """Every slot is taken and the queue is full: 503, with `Retry-After` where a time is known."""

    def __init__(self, retry_after_s: float | None, message: str = "All slots are taken.") -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
