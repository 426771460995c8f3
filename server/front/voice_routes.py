"""/api/voices: list, upload, listen to, rename and delete voices. Front."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Literal

import msgspec
from aiohttp import hdrs, web
from msgspec.structs import replace

from engine.ipc.protocol import Welcome
from engine.ipc.supervision import OWN_VOICES_ONLY
from server.config import UploadPolicy
from server.front.voice_store import KeptVoice, VoiceLanguage, VoiceName
from server.front.voices import VoiceDesk, VoiceUse
from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.http.auth import Authenticator, Principal, RateLimited, require, require_key
from signaling.http.bodies import read_body, read_json
from signaling.http.forms import parse_form
from signaling.http.large_bodies import LargeBodies
from signaling.http.resources import add_resource
from signaling.ratelimit import KeyedBuckets

MAX_FILE_BYTES = 12 * 1024 * 1024
MAX_FORM_BYTES = MAX_FILE_BYTES + 16 * 1024
BURST = 4
PATH = "/api/voices"


class VoiceEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A voice that a session can name in `audio.output.voice`."""

    id: str
    name: str
    source: Literal["engine", "uploaded"]
    """Whether the engine brought it, or somebody uploaded it."""
    is_default: bool
    language: str = ""
    seconds: float | None = None
    created_at: int | None = None
    """Unix seconds."""
    is_mine: bool = False
    """Whether this key may rename and delete it."""
    state: Literal["waiting", "ready", "failed", "unsupported"]
    """Of the engine that is furthest: waiting until it is prepared."""
    engines: tuple[VoiceUse, ...] = ()
    sound: str | None = None
    """Where to listen to it."""


class VoiceRules(msgspec.Struct, frozen=True, kw_only=True):
    """What may be uploaded, by who asks."""

    allowed: bool
    reason: str = ""
    """Why not, or why no engine could use it; for people."""
    code: Literal["", "uploads_off", "not_yours", "own_voices_only", "networks_missing"] = ""
    """The same for programs."""
    min_seconds: float = 3.0
    max_seconds: float = 20.0
    max_bytes: int = MAX_FILE_BYTES
    max_count: int


class VoiceList(msgspec.Struct, frozen=True, kw_only=True):
    """All voices, those of the engine first."""

    voices: tuple[VoiceEntry, ...]
    upload: VoiceRules


class VoiceChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to change of a voice; what is absent stays."""

    name: VoiceName | None = None
    language: VoiceLanguage | None = None
    is_default: bool | None = None
    """Whether who names no voice gets this one; for keys of the role admin."""


class VoiceUpload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The fields of an upload beside `file`."""

    name: VoiceName = "Voice"
    language: VoiceLanguage = ""


_FORM_FIELDS = ("name", "language")


class VoiceRoutes:
    """Owns who uploaded how often."""

    def __init__(
        self,
        desk: VoiceDesk,
        welcomes: Callable[[], list[Welcome]],
        *,
        policy: UploadPolicy = "user",
        most: int = 64,
        per_minute: int = 6,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._desk = desk
        self._welcomes = welcomes
        self._policy = policy
        self._most = most
        self._clock = clock
        self._uploads = KeyedBuckets(per_minute / 60, BURST)
        self._bodies = LargeBodies()

    def add_to(self, app: web.Application, auth: Authenticator) -> None:
        get, post = hdrs.METH_GET, hdrs.METH_POST
        add_resource(app, PATH, auth, {get: self.list, post: self.upload})
        one = {hdrs.METH_PATCH: self.change, hdrs.METH_DELETE: self.delete}
        add_resource(app, f"{PATH}/{{voice_id}}", auth, one)
        add_resource(app, f"{PATH}/{{voice_id}}/sound", auth, {get: self.sound})

    async def list(self, request: web.Request) -> web.Response:
        """List the voices that sessions may name, and what may be uploaded."""
        principal = require(request)
        names = dict.fromkeys(name for welcome in self._welcomes() for name in welcome.voices)
        default = self._desk.default
        brought = [
            VoiceEntry(
                id=name,
                name=name,
                source="engine",
                # Engines name their own choice first.
                is_default=not default and place == 0,
                state="ready",
            )
            for place, name in enumerate(names)
        ]
        uploaded = [self._told(voice, principal) for voice in self._desk.voices]
        told = VoiceList(voices=(*brought, *uploaded), upload=self._rules(principal))
        return _json(told)

    async def upload(self, request: web.Request) -> web.Response:
        """Keep a recording as a voice: `file`, `name` and `language` as a form, or the file alone.

        3 to 20 s of one person who speaks, in any format that FFmpeg reads. What is too short, too
        long, silent, clipped or too noisy is refused with the reason. Prepared when engines have
        time: see `state` in the list.
        """
        principal = require_key(request)
        rules = self._rules(principal)
        if not rules.allowed:
            raise ProtocolError(rules.reason, code="forbidden", status=403)
        self._count(request, principal)
        async with AsyncExitStack() as stack:
            body = await self._bodies.read(request, MAX_FORM_BYTES, stack)
            given, file = await asyncio.to_thread(_parse, request, body)
            del body
            voice = await self._desk.add(file, given.name, given.language, principal.key_id)
        answer = _json(self._told(voice, principal), 201)
        answer.headers[hdrs.LOCATION] = f"{PATH}/{voice.id}"
        return answer

    async def sound(self, request: web.Request) -> web.Response:
        """Listen to a voice: its recording as a WAV file."""
        require_key(request)
        body = await self._desk.sound(request.match_info["voice_id"])
        headers = {hdrs.CACHE_CONTROL: "private, no-cache"}
        return web.Response(body=body, content_type="audio/wav", headers=headers)

    async def change(self, request: web.Request) -> web.Response:
        """Rename a voice, say its language, or make it the default one."""
        principal = require_key(request)
        voice_id = request.match_info["voice_id"]
        body = await read_body(request, 4096, None)
        change = convert(read_json(body, "body"), VoiceChange)
        self._check_own(voice_id, principal)
        if change.is_default is not None:
            require(request, "admin")
            if change.is_default or self._desk.default == voice_id:
                await self._desk.make_default(voice_id if change.is_default else "")
        voice = await self._desk.change(voice_id, change.name, change.language)
        return _json(self._told(voice, principal))

    async def delete(self, request: web.Request) -> web.Response:
        """Delete a voice; calls that speak with it keep it to their end."""
        principal = require_key(request)
        voice_id = request.match_info["voice_id"]
        self._check_own(voice_id, principal)
        await self._desk.remove(voice_id)
        return web.Response(status=204)

    # ------------------------------------------------------------------ details

    def _told(self, voice: KeptVoice, principal: Principal) -> VoiceEntry:
        uses = self._desk.uses(voice.id)
        states = {use.state for use in uses} or {"waiting"}
        order: tuple[Literal["ready", "waiting", "failed", "unsupported"], ...]
        order = ("ready", "waiting", "failed", "unsupported")
        return VoiceEntry(
            id=voice.id,
            name=voice.name,
            source="uploaded",
            is_default=voice.id == self._desk.default,
            language=voice.language,
            seconds=voice.seconds,
            created_at=voice.created_at,
            is_mine=_owns(voice, principal),
            state=next(state for state in order if state in states),
            engines=uses,
            sound=f"{PATH}/{voice.id}/sound",
        )

    def _rules(self, principal: Principal) -> VoiceRules:
        rules = VoiceRules(allowed=False, max_count=self._most)
        if self._policy == "nobody":
            told = "No voices can be uploaded to this server (voices.upload)."
            return replace(rules, code="uploads_off", reason=told)
        if principal.is_ephemeral or (self._policy == "admin" and principal.role != "admin"):
            return replace(rules, code="not_yours", reason="This key may not upload voices.")
        rules = replace(rules, allowed=True)
        welcomes = self._welcomes()
        if not welcomes or any(welcome.takes_voices for welcome in welcomes):
            return rules
        lacking = next(filter(None, (welcome.voices_lack for welcome in welcomes)), "")
        if lacking:
            return replace(rules, code="networks_missing", reason=lacking)
        return replace(rules, code="own_voices_only", reason=OWN_VOICES_ONLY)

    def _count(self, request: web.Request, principal: Principal) -> None:
        keys = [*principal.callers(request.remote), f"key:{principal.key_id}"]
        wait_s = max(self._uploads.take(key, self._clock()) for key in keys)
        if wait_s > 0:
            raise RateLimited(wait_s, "uploads of voices")

    def _check_own(self, voice_id: str, principal: Principal) -> None:
        if not _owns(self._desk.voice(voice_id), principal):
            raise ProtocolError(
                "This voice was uploaded with another key.", code="forbidden", status=403
            )


def _owns(voice: KeptVoice, principal: Principal) -> bool:
    if principal.is_ephemeral:
        return False
    return principal.role == "admin" or voice.owner == principal.key_id


def _parse(request: web.Request, body: bytes) -> tuple[VoiceUpload, bytes]:
    """The fields and the file of an upload; raises ProtocolError."""
    if request.content_type == "multipart/form-data":
        parts = dict(reversed(parse_form(body, request.headers[hdrs.CONTENT_TYPE])))
        file = parts.get("file")
        try:
            given = {name: parts[name].decode() for name in _FORM_FIELDS if name in parts}
        except UnicodeDecodeError:
            raise ProtocolError("name: this is not UTF-8 text.", param="name") from None
    else:
        file = body
        given = {name: request.query[name] for name in _FORM_FIELDS if name in request.query}
    if not file:
        raise ProtocolError(
            "file: this field is required.", code="missing_required_parameter", param="file"
        )
    if len(file) > MAX_FILE_BYTES:
        raise ProtocolError(
            f"file: at most {MAX_FILE_BYTES} bytes are allowed.",
            code="too_large",
            param="file",
            status=413,
        )
    return convert({name: text.strip() for name, text in given.items()}, VoiceUpload), file


def _json(told: msgspec.Struct, status: int = 200) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(told),
        status=status,
        content_type="application/json",
        headers={hdrs.CACHE_CONTROL: "no-store"},
    )
