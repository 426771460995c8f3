"""The front's HTTP application: pages, health, statistics, and the signaling routes."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Awaitable, Callable, Iterable
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Middleware

from server.docs.routes import DocumentationPages
from server.front.addresses import lead_to_page
from server.front.front import Front
from server.front.preset_shelf import PresetShelf
from server.front.sound_packer import SoundPacker
from server.front.telemetry import Telemetry
from signaling.http import audio, calls, chat, live, streams, whip
from signaling.http.auth import PRINCIPAL, Authenticator, install, require
from signaling.http.httperrors import json_error
from signaling.http.ice_servers import IceServers
from signaling.http.proxies import TrustedProxies
from signaling.http.refusals import explain

PAGES = {
    "/": "index.html",
    "/call": "index.html",
    "/faq": "faq.html",
    "/admin": "admin.html",
}
CONTENT_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".json": "application/json",
    ".webmanifest": "application/manifest+json",
    ".png": "image/png",
}
SHEETS = ("base", "layout", "stage", "bar", "talk", "panels", "messages")
"""How the call page looks. It gets them in one answer, `css/call.css`."""
TEXTS = frozenset(CONTENT_TYPES.values()) - {"image/png"}
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' data: blob:; media-src 'self' blob:; "
        "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(self), display-capture=(self)",
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Asset(msgspec.Struct, frozen=True):
    """A file of the pages, read and packed once."""

    body: bytes
    packed: bytes
    """With gzip."""
    content_type: str
    etag: str


def load_assets() -> dict[str, Asset]:
    """Every page and what it needs, by its path below `web/`."""
    root = Path(str(resources.files("web")))
    files = {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.suffix in CONTENT_TYPES and path.is_file()
    }
    files["css/call.css"] = b"\n".join(files[f"css/{name}.css"] for name in SHEETS)
    return {name: _asset(name, body) for name, body in files.items()}


def _asset(name: str, body: bytes) -> Asset:
    # Weak: the packed form has other bytes.
    etag = f'W/"{hashlib.sha256(body).hexdigest()[:16]}"'
    content_type = CONTENT_TYPES[PurePosixPath(name).suffix]
    return Asset(body, gzip.compress(body, mtime=0), content_type, etag)


def _takes_gzip(request: web.Request) -> bool:
    """Whether it lists gzip, and not as what it refuses (RFC 9110 section 12.5.3)."""
    for coding in request.headers.get(hdrs.ACCEPT_ENCODING, "").lower().split(","):
        name, _, weight = coding.partition(";")
        if name.strip() == "gzip":
            return weight.strip().removeprefix("q=").strip("0.") != "" or not weight
    return False


def _serve(asset: Asset) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        # The pages carry no version in their names, so browsers ask each time.
        headers = {"ETag": asset.etag, "Cache-Control": "no-cache", "Vary": "Accept-Encoding"}
        if request.headers.get("If-None-Match") == asset.etag:
            return web.Response(status=304, headers=headers)
        body = asset.body
        if len(asset.packed) < len(body) and _takes_gzip(request):
            body, headers["Content-Encoding"] = asset.packed, "gzip"
        charset = "utf-8" if asset.content_type in TEXTS else None
        return web.Response(
            body=body, content_type=asset.content_type, charset=charset, headers=headers
        )

    return handler


def proxied(proxies: TrustedProxies) -> Middleware:
    """Show every handler the client's address, host and scheme instead of a trusted proxy's."""

    @web.middleware
    async def resolve(request: web.Request, handler: Handler) -> web.StreamResponse:
        return await handler(proxies.resolve(request))

    return resolve


@web.middleware
async def take_no_packed_bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """A megabyte may unpack to a gigabyte; no client of ours packs."""
    coding = request.headers.get(hdrs.CONTENT_ENCODING, "identity")
    if coding.strip().lower() == "identity":
        return await handler(request)
    message = f"Content-Encoding {coding[:40]!r} is not supported: send the body as it is."
    return json_error(415, message, code="unsupported_media_type")


async def secure(request: web.Request, response: web.StreamResponse) -> None:
    """Add the security headers to every answer, before its head is sent."""
    response.headers.update(SECURITY_HEADERS)


def _json(data: Any, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(data),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


class Routes(Protocol):
    """Something that answers requests."""

    def add_to(self, app: web.Application, auth: Authenticator) -> None: ...


class Operations:
    """The routes for those who run the server."""

    def __init__(
        self,
        front: Front,
        telemetry: Telemetry,
        info: dict[str, Any],
        servers: IceServers,
        shelf: PresetShelf,
    ) -> None:
        self._front = front
        self._telemetry = telemetry
        self._info = info
        self._servers = servers
        self._shelf = shelf

    def add_to(self, app: web.Application) -> None:
        app.router.add_get("/health", self.health)
        app.router.add_get("/metrics", self.metrics)
        app.router.add_get("/api/stats", self.stats)
        app.router.add_get("/api/info", self.info)

    async def health(self, request: web.Request) -> web.Response:
        """200 when calls are taken, 503 before and while draining; open to everybody."""
        ready = self._front.is_ready
        children = {c.spec.name: c.state for c in self._front.supervisor.children.values()}
        body = {"status": "ok" if ready else "unavailable", "processes": children}
        return _json(body, 200 if ready else 503)

    async def info(self, request: web.Request) -> web.Response:
        """Tell what a page must know before it calls; open to everybody, but TURN needs a key."""
        engine = {"kind": self._info["kind"], "label": "", "description": "", "video": False}
        for child in self._front.supervisor.children.values():
            if child.ready is not None and child.ready.welcome is not None:
                welcome = child.ready.welcome
                engine |= {
                    "label": welcome.label,
                    "description": welcome.description,
                    "languages": welcome.languages,
                    "voices": welcome.voices,
                    "modes": [one for one in welcome.modes if one in self._info["modes"]],
                    "video": welcome.video,
                    "takes_voices": welcome.takes_voices,
                    "transcribes": welcome.transcribes,
                    "speech": welcome.speech,
                    "unit_ms": welcome.unit_ms,
                    "context_tokens": welcome.context_tokens,
                    "honours": welcome.honours,
                    "options": welcome.options,
                }
                break
        told = {k: v for k, v in self._info.items() if k not in ("kind", "modes")}
        told["ice_servers"] = self._servers.issue(with_turn=PRINCIPAL in request)
        starting = self._front.starting()
        return _json(told | {"engine": engine, "ready": self._front.is_ready, "starting": starting})

    async def stats(self, request: web.Request) -> web.Response:
        """Tell processes, calls, queue and engines, with webrtc-stats; keys of the role admin."""
        require(request, "admin")
        await self._front.stats.refresh(self._front.supervisor)
        read = await self._shelf.refresh()
        presets = {"read": len(read.presets), "left_out": read.bad}
        return _json(self._telemetry.stats() | {"presets": presets})

    async def metrics(self, request: web.Request) -> web.Response:
        """Tell the same as Prometheus text; keys of the role admin."""
        require(request, "admin")
        await self._front.stats.refresh(self._front.supervisor)
        text = self._telemetry.exposition()
        return web.Response(body=text, content_type="text/plain", charset="utf-8")


def build(
    front: Front,
    telemetry: Telemetry,
    auth: Authenticator,
    info: dict[str, Any],
    proxies: TrustedProxies | None = None,
    ice_servers: IceServers | None = None,
    shelf: PresetShelf | None = None,
    routes: Iterable[Routes] = (),
) -> web.Application:
    """The application; it owns nothing that outlives a request."""
    app = web.Application(
        middlewares=[
            take_no_packed_bodies,
            proxied(proxies or TrustedProxies()),
            lead_to_page,
            explain(auth),
        ]
    )
    app.on_response_prepare.append(secure)
    install(app, auth)
    assets = load_assets()
    for path, name in PAGES.items():
        app.router.add_get(path, _serve(assets[name]))
    for name, asset in assets.items():
        app.router.add_get(f"/static/{name}", _serve(asset))
    # A worker of the browser sees to what lies below its own address.
    app.router.add_get("/sw.js", _serve(assets["sw.js"]))
    if "favicon.svg" in assets:
        app.router.add_get("/favicon.ico", _serve(assets["favicon.svg"]))
    servers = ice_servers or IceServers()
    shelf = shelf or PresetShelf()
    Operations(front, telemetry, info, servers, shelf).add_to(app)
    shelf.add_to(app, auth)
    for some in routes:
        some.add_to(app, auth)
    calls.add_routes(app, front.desk, auth, servers)
    pack = SoundPacker().pack
    chat.add_chat_routes(app, front.chats, auth, pack)
    audio.add_audio_routes(app, front.chats, auth, pack)
    streams.add_routes(app, front.desk, auth)
    live.add_routes(app, front.desk, auth)
    whip.add_routes(app, front.desk, auth, servers)
    DocumentationPages(str(info["version"])).add_to(app)
    return app
