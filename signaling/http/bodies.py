"""HTTP bodies read within bounds of size and time. Front."""

import asyncio
from collections.abc import Callable
from typing import Any

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from signaling.awake import AwakeClock
from signaling.errors import ProtocolError
from signaling.http.forms import parse_form
from signaling.sdp import MAX_OFFER_BYTES
from signaling.texts import decode_json

MAX_SESSION_BYTES = 512 * 1024
MAX_FORM_BYTES = MAX_OFFER_BYTES + MAX_SESSION_BYTES + 16 * 1024
STEP_BYTES = 64 * 1024
STEP_S = 10.0
"""Each `STEP_BYTES` of a body, or what remains of it, must come within this time."""
LOOK_S = 0.25
BODY_S = 20.0
"""The whole of an offer, a form or a session."""


class ClientLeft(ProtocolError):
    """The connection ended within the body; the answer would not be read."""

    def __init__(self) -> None:
        super().__init__("The connection ended before the body did.", code="incomplete_body")


class BodyProgress:
    """The progress of a request's body, and its deadlines."""

    def __init__(
        self, total_s: float = BODY_S, *, clock: Callable[[], float] | None = None
    ) -> None:
        self._clock = clock or AwakeClock(LOOK_S)
        self.step_at = self._clock()
        """When the newest whole step was complete."""
        self.is_dropped = False
        self._total_s = total_s
        self._ends_at = self.step_at + total_s
        self._bytes = 0
        self._timer: asyncio.Timeout | None = None
        self._next_look: asyncio.TimerHandle | None = None

    def begin(self, timer: asyncio.Timeout) -> None:
        """From now on, to `end`, `timer` runs out when the body does not go on."""
        self._timer = timer
        self.step_at = self._clock()
        self._ends_at = self.step_at + self._total_s
        self._look()

    def end(self) -> None:
        """Its time does not count any more."""
        self._timer = None
        if self._next_look is not None:
            self._next_look.cancel()

    def got(self, size: int) -> None:
        self._bytes += size
        if self._bytes >= STEP_BYTES:
            self._bytes = 0
            self.step_at = self._clock()

    def drop(self) -> None:
        """Read no more of it: others need its place."""
        self.is_dropped = True
        if self._timer is not None and not self._timer.expired():
            self._timer.reschedule(asyncio.get_running_loop().time())

    def _look(self) -> None:
        if self._timer is None or self._timer.expired() or self.is_dropped:
            return
        loop = asyncio.get_running_loop()
        if self._clock() >= min(self.step_at + STEP_S, self._ends_at):
            self._timer.reschedule(loop.time())
        else:
            self._next_look = loop.call_later(LOOK_S, self._look)


async def read_body(
    request: web.Request, limit: int, param: str | None, progress: BodyProgress | None = None
) -> bytes:
    """The whole body, at most `limit` bytes.

    Raises ProtocolError 400 (malformed), 408 (too slow), 413, and ClientLeft.
    """
    if (request.content_length or 0) > limit:
        # Nothing of it needs to be read to know.
        raise _too_large(limit, param)
    progress = progress or BodyProgress()
    body = bytearray()
    try:
        if request.headers.get(hdrs.EXPECT, "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            # aiohttp takes what was written for the beginning of the answer.
            request.writer.output_size = 0
        async with asyncio.timeout(None) as timer:
            progress.begin(timer)
            while chunk := await request.content.readany():
                progress.got(len(chunk))
                body += chunk
                if len(body) > limit:
                    raise _too_large(limit, param)
    except TimeoutError:
        why = "did not go on while others waited" if progress.is_dropped else "came too slowly"
        raise ProtocolError(f"The body {why}.", code="timeout", param=param, status=408) from None
    except ConnectionError:
        raise ClientLeft from None
    except (web.RequestPayloadError, HttpProcessingError):
        raise ProtocolError("The body's framing is malformed.", code="invalid_body") from None
    finally:
        progress.end()
    return bytes(body)


async def read_offer(request: web.Request) -> tuple[str, dict[str, Any]]:
    """Return the offer and the partial session of a POST. Raises as `read_body`, and 415."""
    if request.content_type == "application/sdp":
        return await read_sdp(request, "application/sdp"), {}
    if request.content_type == "multipart/form-data":
        body = await read_body(request, MAX_FORM_BYTES, "sdp")
        return _from_form(parse_form(body, request.headers[hdrs.CONTENT_TYPE]))
    raise _not_taken(request, "application/sdp, or multipart/form-data with sdp and session")


async def read_sdp(request: web.Request, content_type: str) -> str:
    """Return a body of SDP in this type. Raises as `read_body`, and 415."""
    if request.content_type != content_type:
        raise _not_taken(request, content_type)
    return _text(await read_body(request, MAX_OFFER_BYTES, "sdp"))


def _not_taken(request: web.Request, wanted: str) -> ProtocolError:
    return ProtocolError(
        f"Content-Type {request.content_type[:80]!r} is not supported: send {wanted}.",
        code="unsupported_media_type",
        status=415,
    )


def _from_form(parts: list[tuple[str, bytes]]) -> tuple[str, dict[str, Any]]:
    fields = dict(reversed(parts))
    for name, limit in (("sdp", MAX_OFFER_BYTES), ("session", MAX_SESSION_BYTES)):
        if len(fields.get(name, b"")) > limit:
            raise _too_large(limit, name)
    if "sdp" not in fields:
        raise ProtocolError(
            "sdp: this field is required.", code="missing_required_parameter", param="sdp"
        )
    update = read_json(fields.get("session") or b"{}", "session")
    if not isinstance(update, dict):
        raise ProtocolError("session: a JSON object is expected.", param="session")
    return _text(fields["sdp"]), update


def _too_large(limit: int, param: str | None) -> ProtocolError:
    return ProtocolError(
        f"At most {limit} bytes are allowed.", code="too_large", param=param, status=413
    )


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise ProtocolError("The SDP is not UTF-8 text.", param="sdp") from None


def read_json(body: bytes, param: str) -> Any:
    """The value of a JSON body or part; raises ProtocolError."""
    try:
        return decode_json(body)
    except ValueError as error:
        raise ProtocolError(
            f"{param}: this is not JSON: {error}.", code="invalid_json", param=param
        ) from None
