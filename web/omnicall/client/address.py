"""Where a server is, who asks, and what its refusals say."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp

from omnicall.client.errors import CallOver, Declined, NoConnection

ASK_TIMEOUT_S = 5.0
CALL_TIMEOUT_S = 20.0
RESUME_TIMEOUT_S = 4.0
"""Who comes back tries again rather than wait."""
RESUME, NEW = "Omnicall-Resume", "new"
UPLOAD_TIMEOUT_S = 130.0
"""As long as the server waits for the body, and a little."""

WORDS = {
    401: "The server did not accept the key.",
    403: "This key may not do that.",
    404: "There is no such thing on this server.",
    429: "Too many requests; try again later.",
    503: "The server takes no more calls at the moment.",
}


Read = TypeVar("Read")


class Answered(NamedTuple):
    """The answer to an offer."""

    sdp: str
    call_id: str
    token: str
    """Resumes the session over another connection; empty if nothing does."""


class Address:
    """The server's HTTP interface for one caller; `url` may have the path prefix of a proxy."""

    def __init__(self, http: aiohttp.ClientSession, url: str, key: str | None) -> None:
        self.http = http
        self._base = url.rstrip("/")
        parts = urlsplit(self._base)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        """For messages."""
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"url: http:// or https:// is expected, got {url!r}")
        self.headers = {"Authorization": f"Bearer {key}"} if key else {}

    def path(self, *parts: str) -> str:
        return "/".join((self._base, *map(quote, parts)))

    async def info(self) -> dict[str, Any]:
        """What the server tells everybody; empty where it does not."""

        async def read(answer: aiohttp.ClientResponse) -> dict[str, Any]:
            found: dict[str, Any] = await answer.json()
            return found

        try:
            return await self._request("GET", self.path("api", "info"), read, ASK_TIMEOUT_S)
        except (Declined, NoConnection):
            return {}

    async def offer(self, sdp: str, session: dict[str, Any], token: str) -> Answered:
        """Offer a connection; `token`: of a session that has lost its own, which goes on over this
        one. Raises `Declined`, `NoConnection`.
        """
        form = aiohttp.FormData()
        form.add_field("sdp", sdp, content_type="application/sdp")
        form.add_field("session", json.dumps(session), content_type="application/json")

        async def read(answer: aiohttp.ClientResponse) -> Answered:
            # Only the id: behind a proxy the server may name a place that is none from here.
            call_id = answer.headers.get("Location", "").rpartition("/")[2]
            return Answered(await answer.text(), call_id, answer.headers.get(RESUME, ""))

        url = self.path("v1", "realtime", "calls")
        timeout_s = RESUME_TIMEOUT_S if token else CALL_TIMEOUT_S
        headers = {RESUME: token or NEW}
        return await self._request("POST", url, read, timeout_s, more=headers, data=form)

    async def add_item(self, call_id: str, item: dict[str, Any]) -> None:
        """Put an item that may be large into a call. Raises `Declined`, `NoConnection`."""
        url = self.path("v1", "realtime", "calls", call_id, "items")
        await self._request("POST", url, _nothing, UPLOAD_TIMEOUT_S, json=item)

    async def hang_up(self, call_id: str) -> None:
        url = self.path("v1", "realtime", "calls", call_id, "hangup")
        try:
            await self._request("POST", url, _nothing, ASK_TIMEOUT_S)
        except (Declined, NoConnection):
            # The server notices by itself, only later.
            return

    async def check(self, call_id: str, timeout_s: float = ASK_TIMEOUT_S) -> bool:
        """Return whether the server could be asked. Raise `CallOver` where it does not have the
        call any more, or not its connection.
        """
        url = self.path("v1", "realtime", "calls", call_id)

        async def read(answer: aiohttp.ClientResponse) -> bool:
            found = await answer.json()
            return isinstance(found, dict) and found.get("state") == "lost"

        try:
            if await self._request("GET", url, read, timeout_s):
                raise CallOver("lost", "The server lost the connection of this call.")
        except Declined as refused:
            if refused.status == 410:
                raise CallOver(refused.code, str(refused)) from None
            if refused.status == 404:
                raise CallOver("lost", "The server does not know this call any more.") from None
        except NoConnection:
            # The network may be what is gone, and that may come back.
            return False
        return True

    async def _request(
        self,
        method: str,
        url: str,
        read: Callable[[aiohttp.ClientResponse], Awaitable[Read]],
        timeout_s: float,
        more: dict[str, str] | None = None,
        **body: Any,
    ) -> Read:
        headers = self.headers | (more or {})
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self.http.request(
                method, url, headers=headers, timeout=timeout, **body
            ) as answer:
                if answer.status >= 300:
                    raise refusal(answer.status, await answer.read(), answer.headers)
                return await read(answer)
        except (aiohttp.ClientError, OSError) as error:
            raise NoConnection(f"{self.origin} cannot be reached: {error}") from error
        except TimeoutError as error:
            raise NoConnection(f"{self.origin} did not answer in time.") from error


async def _nothing(answer: aiohttp.ClientResponse) -> None:
    await answer.read()


def refusal(status: int, body: bytes, headers: Any) -> Declined:
    """The error of an answer that is none of 2xx."""
    try:
        error = json.loads(body).get("error", {})
    except (ValueError, AttributeError):
        # A proxy's page says no more than the status.
        error = {}
    message = str(error.get("message") or WORDS.get(status, f"The server answered {status}."))
    wait = str(headers.get("Retry-After", ""))
    return Declined(
        message,
        status=status,
        code=str(error.get("code") or ""),
        retry_after_s=float(wait) if wait.isdigit() else 0.0,
    )
