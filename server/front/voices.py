"""The voices of this server: uploaded ones, checked and kept, and what engines make of them. Front.

Each engine is given one voice at a time, and the next one when it has said what became of it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from engine.ipc.protocol import Message
from engine.ipc.supervision import DefaultVoice, DropVoice, KeepVoice, VoiceReport
from server.front import voice_store
from server.front.helper_process import HelperProcesses
from server.front.voice_store import KeptVoice
from signaling.errors import ProtocolError

log = logging.getLogger(__name__)

CHECK_LIMIT_S = 40.0
Send = Callable[[Message], bool]
State = Literal["waiting", "ready", "failed", "unsupported"]


class VoiceUse(msgspec.Struct, frozen=True):
    """What an engine made of a voice."""

    engine: str
    state: State
    reason: str = ""
    """For people, where it can not be used."""


class _VoiceEngine:
    """One life of an engine."""

    def __init__(self, send: Send) -> None:
        self.send = send
        self.reports: dict[str, VoiceReport] = {}
        self.is_busy = False


class VoiceDesk:
    """Owns the uploaded voices; `load` comes first."""

    def __init__(
        self,
        folder: Path,
        most: int,
        check: Callable[[bytes], Awaitable[bytes]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`most`: voices kept. `check`: as `media.voice_file.answer`; a process if not given."""
        self._folder = folder
        self._most = most
        self._clock = clock
        self._check = check or HelperProcesses("media.voice_file", limit_s=CHECK_LIMIT_S).run
        self._voices: dict[str, KeptVoice] = {}
        self._engines: dict[str, _VoiceEngine] = {}
        self._sending: set[asyncio.Task[None]] = set()
        self._disk = asyncio.Lock()
        self.default = ""
        """The id of the voice of those who name none; empty: the engine's own choice."""

    async def load(self) -> None:
        """Read what was kept by earlier runs."""
        self._voices = await asyncio.to_thread(voice_store.load_all, self._folder)
        default = await asyncio.to_thread(voice_store.default_of, self._folder)
        self.default = default if default in self._voices else ""

    # ------------------------------------------------------------------ for callers

    @property
    def voices(self) -> tuple[KeptVoice, ...]:
        return tuple(self._voices.values())

    def voice(self, voice_id: str) -> KeptVoice:
        """Raises `ProtocolError` 404."""
        found = self._voices.get(voice_id)
        if found is None:
            raise ProtocolError("There is no such voice.", code="voice_not_found", status=404)
        return found

    def uses(self, voice_id: str) -> tuple[VoiceUse, ...]:
        """What each engine that is ready made of a voice."""
        uses = []
        for name, engine in self._engines.items():
            report = engine.reports.get(voice_id)
            use = VoiceUse(name, "waiting")
            if report is not None:
                use = VoiceUse(name, report.state, report.reason)
            uses.append(use)
        return tuple(uses)

    async def sound(self, voice_id: str) -> bytes:
        """The recording as a WAV file."""
        self.voice(voice_id)
        try:
            return await asyncio.to_thread(voice_store.sound_of, self._folder, voice_id)
        except OSError:
            raise ProtocolError(
                "There is no such voice.", code="voice_not_found", status=404
            ) from None

    async def add(
        self, data: bytes, name: str, language: str = "", owner: str | None = None
    ) -> KeptVoice:
        """Check a recording and keep it; raises `ProtocolError` with the reason in words."""
        self._check_room()
        told, sound = await self._checked(data)
        if "code" in told:
            code = f"voice_{told['code']}"
            raise ProtocolError(f"file: {told['message']}", code=code, param="file")
        voice = KeptVoice(
            id=voice_store.new_voice_id(),
            name=name,
            seconds=told["seconds"],
            created_at=int(self._clock()),
            language=language,
            owner=owner,
            level_dbfs=told["level_dbfs"],
            contrast_db=told["contrast_db"],
        )
        async with self._disk:
            self._check_room()
            await self._write(voice_store.save, self._folder, voice, sound)
            self._voices[voice.id] = voice
        self._pump_all()
        return voice

    async def change(
        self, voice_id: str, name: str | None = None, language: str | None = None
    ) -> KeptVoice:
        """Give a voice another name or language."""
        async with self._disk:
            before = self.voice(voice_id)
            voice = msgspec.structs.replace(
                before,
                name=before.name if name is None else name,
                language=before.language if language is None else language,
            )
            await self._write(voice_store.save, self._folder, voice)
            self._voices[voice_id] = voice
        return voice

    async def make_default(self, voice_id: str) -> None:
        """Give this voice to those who name none; empty: the engine's own choice."""
        async with self._disk:
            if voice_id:
                self.voice(voice_id)
            await self._write(voice_store.set_default, self._folder, voice_id)
            self.default = voice_id
        for engine in self._engines.values():
            engine.send(DefaultVoice(voice_id))

    async def remove(self, voice_id: str) -> None:
        """Delete a voice; calls that speak with it keep it to their end."""
        self.voice(voice_id)
        if voice_id == self.default:
            await self.make_default("")
        async with self._disk:
            if self._voices.pop(voice_id, None) is None:
                return
            await self._write(voice_store.remove, self._folder, voice_id)
        for engine in self._engines.values():
            engine.reports.pop(voice_id, None)
            engine.send(DropVoice(voice_id))

    def _check_room(self) -> None:
        if len(self._voices) >= self._most:
            raise ProtocolError(
                f"{self._most} voices are kept already, which is all that fit: delete one.",
                code="too_many_voices",
                status=409,
            )

    async def _checked(self, data: bytes) -> tuple[dict[str, Any], bytes]:
        try:
            line, _, sound = (await self._check(data)).partition(b"\n")
            return msgspec.json.decode(line, type=dict[str, Any]), sound
        except (OSError, TimeoutError, msgspec.DecodeError) as error:
            log.warning("a recording could not be checked: %r", error)
            raise ProtocolError(
                "file: It is not a sound file that can be read.",
                code="voice_unreadable",
                param="file",
            ) from None

    async def _write(self, write: Callable[..., None], *arguments: Any) -> None:
        try:
            await asyncio.to_thread(write, *arguments)
        except OSError as error:
            log.error("the folder of voices cannot be written: %s", error)
            raise ProtocolError(
                "Voices cannot be kept: the server's data folder cannot be written.",
                code="storage_failed",
                type="server_error",
                status=500,
            ) from None

    # ------------------------------------------------------------------ for engines

    def engine_up(self, name: str, send: Send) -> None:
        """An engine is ready: it gets every voice."""
        engine = self._engines[name] = _VoiceEngine(send)
        if self.default:
            send(DefaultVoice(self.default))
        self._pump(engine)

    def engine_down(self, name: str) -> None:
        self._engines.pop(name, None)

    def report(self, name: str, report: VoiceReport) -> None:
        """An engine says what became of a voice."""
        engine = self._engines.get(name)
        if engine is None:
            return
        engine.is_busy = False
        if report.voice in self._voices:
            engine.reports[report.voice] = report
            if report.state == "failed":
                log.warning("%s cannot use voice %s: %s", name, report.voice, report.reason)
        self._pump(engine)

    def _pump_all(self) -> None:
        for engine in self._engines.values():
            self._pump(engine)

    def _pump(self, engine: _VoiceEngine) -> None:
        """Give an engine the next voice that it has not judged."""
        if engine.is_busy:
            return
        # The default one first: everybody waits for it.
        order = sorted(self._voices, key=lambda one: one != self.default)
        voice_id = next((one for one in order if one not in engine.reports), None)
        if voice_id is None:
            return
        engine.is_busy = True
        task = asyncio.get_running_loop().create_task(self._give(engine, voice_id))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _give(self, engine: _VoiceEngine, voice_id: str) -> None:
        try:
            sound = await asyncio.to_thread(voice_store.sound_of, self._folder, voice_id)
            if voice_id in self._voices and engine.send(KeepVoice(voice_id, sound)):
                return
            reason = "the engine does not take it at the moment"
        except OSError as error:
            reason = f"its recording cannot be read: {error.strerror}"
        engine.is_busy = False
        if voice_id in self._voices:
            engine.reports[voice_id] = VoiceReport(voice_id, "failed", reason)
        self._pump(engine)
