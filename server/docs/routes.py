"""What is served at /docs: made when it is first asked for, from the running server. Front."""

from __future__ import annotations

import asyncio
import hashlib
from functools import partial

import msgspec
from aiohttp import hdrs, web

from server.docs.frame import FRAMES, Language, language_of
from server.docs.openapi import Operation, document, operations
from server.docs.page import page
from server.docs.protocols import protocols


class MadePages(msgspec.Struct, frozen=True):
    """All that is read here."""

    pages: dict[Language, bytes]
    openapi: bytes


class DocumentationPages:
    """Owns the page and the OpenAPI document."""

    def __init__(self, version: str) -> None:
        self._version = version
        self._served: list[Operation] = []
        self._made: asyncio.Future[MadePages] | None = None

    def add_to(self, app: web.Application) -> None:
        """Add the routes; last, for they tell of all others."""
        app.router.add_get("/docs", self.read)
        app.router.add_get("/docs/openapi.json", self.openapi)
        self._served = operations(app)

    async def read(self, request: web.Request) -> web.Response:
        """Read this documentation, its frame in English or Chinese (`?lang=`)."""
        accepted = request.headers.get(hdrs.ACCEPT_LANGUAGE, "")
        language = language_of(request.query.get("lang", ""), accepted)
        answer = _answer(request, (await self._make()).pages[language], "text/html")
        answer.headers[hdrs.VARY] = hdrs.ACCEPT_LANGUAGE
        return answer

    async def openapi(self, request: web.Request) -> web.Response:
        """Get the HTTP routes as OpenAPI 3.1."""
        return _answer(request, (await self._make()).openapi, "application/json")

    async def _make(self) -> MadePages:
        if self._made is None or (self._made.done() and self._made.exception() is not None):
            loop = asyncio.get_running_loop()
            # It parses the source of what tells anything: a second, once.
            self._made = loop.run_in_executor(None, partial(make, self._served, self._version))
        return await asyncio.shield(self._made)


def make(served: list[Operation], version: str) -> MadePages:
    """The page in each language, and the document."""
    known = protocols()
    openapi = msgspec.json.format(msgspec.json.encode(document(served, version)), indent=1)
    pages = {language: page(served, known, version, language).encode() for language in FRAMES}
    return MadePages(pages, openapi)


def _answer(request: web.Request, body: bytes, kind: str) -> web.Response:
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = {hdrs.ETAG: tag, hdrs.CACHE_CONTROL: "no-cache"}
    if request.headers.get(hdrs.IF_NONE_MATCH) == tag:
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type=kind, charset="utf-8", headers=headers)
