"""The door for clients of `openbmb-realtime`: full duplex, sound in the messages. Media worker."""

import base64
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET

from signaling.data_urls import decode_base64
from signaling.errors import ProtocolError
from signaling.openbmb import server_messages as wire
from signaling.openbmb.client_messages import (
    HZ,
    MAX_APPEND_S,
    SAMPLE_BYTES,
    ClientClose,
    DuplexInput,
    InitPayload,
    parse_message,
)
from signaling.openbmb.spent import Spent
from signaling.session import events as ev
from signaling.session.core import SessionCore, SoundPort

MAX_SLICES = 2
NO_EFFECT = "is taken, as the client sends it, and has no effect here"


class OpenBmbDoor:
    """Owned by one connection. Any `error` is the end to these clients: others are warnings."""

    def __init__(
        self,
        core: SessionCore,
        send: Callable[[str], object],
        *,
        port: SoundPort | None = None,
        has_track: bool = False,
        tells_extensions: bool = True,
    ) -> None:
        """`port`: the way of sound and pictures."""
        self._core = core
        self._send = send
        self._port = port
        self._is_served = False
        self._is_created = False
        self._is_closing = False
        self._is_queued = False
        self._init: InitPayload | None = None
        self._is_forced = False
        self._answers: dict[str, bool] = {}
        """The responses under way: whether anything of them was told."""
        self._spent = Spent()
        self._told: set[str] = set()

    # ------------------------------------------------------------------ from the client

    @property
    def is_started(self) -> bool:
        """Whether `session.init` came."""
        return self._init is not None

    def receive(self, text: str) -> None:
        """Take one message; one that cannot be used ends the session."""
        if self._is_closing:
            return
        try:
            match parse_message(text):
                case InitPayload() as payload:
                    self._begin(payload)
                case DuplexInput() as unit:
                    self._take(unit)
                case ClientClose():
                    self._is_closing = True
                    self._core.hang_up()
        except ProtocolError as error:
            if error.code in ("unknown_event", "engine_unavailable"):
                self._warn(error.code, error.message)
            else:
                self.refuse(error)

    def refuse(self, error: ProtocolError) -> None:
        """Say what cannot be used, and end the session."""
        if not self._is_closing:
            self._is_closing = True
            self._tell(_error(error.code, error.message, is_ours=error.type == "server_error"))
            self._core.hang_up("bad_input")

    def _begin(self, payload: InitPayload) -> None:
        if self._init is not None:
            told = "session.init was sent already; a session begins once."
            self._warn("already_initialised", told)
            return
        self._init = payload
        if self._is_served:
            self._create(payload)
        # Else a client that did not wait for its turn: it begins with the engine.

    def _create(self, payload: InitPayload) -> None:
        if changes := _changes(payload):
            self._core.update(changes)
        self._is_created = True
        self._tell(wire.DuplexCreated(session_id=self._core.session_id))
        for name in _unused(payload):
            self._warn("unused_setting", f"{name} {NO_EFFECT}.")

    def _take(self, unit: DuplexInput) -> None:
        if not self._is_created or self._port is None:
            told = "Sound before session.created is not heard."
            self._warn("not_ready", told, once=True)
            return
        pcm = decode_base64(unit.audio, "input.audio")
        if len(pcm) > MAX_APPEND_S * HZ * SAMPLE_BYTES:
            raise _bad_audio(f"at most {MAX_APPEND_S} s are taken at once")
        if unit.force_listen:
            self._force_listen()
        try:
            self._port.append(pcm)
        except ValueError as error:
            raise _bad_audio(str(error)) from None
        if unit.video_frames and self._core.settings.video.enabled:
            where = f"input.video_frames.{len(unit.video_frames) - 1}"
            self._port.see(decode_base64(unit.video_frames[-1], where))

    def _force_listen(self) -> None:
        self._core.clear_output()
        self._core.force_listen(True)
        self._is_forced = True
        if not self._hears_in_units:
            self._listen_freely()

    def _listen_freely(self) -> None:
        self._core.force_listen(False)
        self._is_forced = False

    # ------------------------------------------------------------------ from the session

    def tell(self, event: ev.SessionEvent, asked_as: str | None = None) -> None:
        """Render one event; nothing of this protocol names what it answers."""
        match event:
            case ev.SessionReady():
                self._ready()
            case ev.Figures(decision="listen") if self._is_forced:
                with suppress(ProtocolError):
                    # An engine that does not keep up is told after the next unit.
                    self._listen_freely()
        for told in self._rendered(event):
            self._tell(told)

    def _ready(self) -> None:
        if self._is_served or self._is_closing:
            return
        self._is_served = True
        abilities = self._core.abilities
        if self._core.settings.video.enabled and abilities is not None and not abilities.sees:
            told = "mode: this server's engine sees nothing; allowed: audio."
            self.refuse(ProtocolError(told, code="video_unsupported", param="mode"))
            return
        self._tell(wire.WaitOver())
        if self._init is not None:
            try:
                self._create(self._init)
            except ProtocolError as error:
                self.refuse(error)

    def _rendered(self, event: ev.SessionEvent) -> Iterator[wire.OpenBmbServerMessage]:
        match event:
            case ev.QueueMoved() if not self._is_served:
                kind = wire.WaitWentOn if self._is_queued else wire.WaitBegan
                self._is_queued = True
                wait_s = UNSET if event.eta_s is None else event.eta_s
                yield kind(position=event.position, estimated_wait_s=wait_s)
            case ev.Notice() | ev.Refusal():
                self._note(event)
            case ev.SessionOver():
                yield from self._over(event)
            case _ if self._is_created and not self._is_closing:
                yield from self._talk(event)

    def _talk(self, event: ev.SessionEvent) -> Iterator[wire.OpenBmbServerMessage]:
        match event:
            case ev.TranscriptCompleted() if event.text:
                yield wire.DuplexTranscript(transcript=event.text)
            case ev.ResponseBegan() if not event.response.is_out_of_band:
                self._answers[event.response.id] = False
            case ev.WordsReleased() if event.response_id in self._answers:
                self._answers[event.response_id] = True
                yield wire.DuplexWords(text=event.text, end_of_turn=False)
            case ev.SpeechReleased() if event.response_id in self._answers:
                self._answers[event.response_id] = True
                assert self._port is not None, "only a port makes sound be sent"
                sound = base64.b64encode(self._port.encode(event.pcm)).decode()
                yield wire.DuplexSound(audio=sound)
            case ev.ResponseEnded():
                yield from self._answered(event.response)
            case ev.Figures(decision="listen") if self._hears_in_units and not self._answers:
                # Until an answer was sent whole it counts as speaking, whatever is decided.
                yield wire.DuplexListen(usage=self._spent.told())

    def _answered(self, response: ev.ResponseInfo) -> Iterator[wire.OpenBmbServerMessage]:
        if response.usage is not None:
            self._spent.add(response.usage)
        if self._answers.pop(response.id, False):
            yield wire.DuplexWords(text="", end_of_turn=True)
            if not self._answers:
                yield wire.DuplexListen(usage=self._spent.told())

    def _over(self, event: ev.SessionOver) -> Iterator[wire.OpenBmbServerMessage]:
        self._is_closing = True
        if event.is_failure:
            yield _error(event.reason, event.message, is_ours=True)
        reason = wire.close_reason(event.reason, is_failure=event.is_failure)
        yield wire.DuplexClosed(reason=reason, message=event.message, usage=self._spent.told())

    # ------------------------------------------------------------------ within

    @property
    def _hears_in_units(self) -> bool:
        abilities = self._core.abilities
        return abilities is not None and abilities.hears_in_units

    def _note(self, event: ev.Notice | ev.Refusal) -> None:
        noted = event if isinstance(event, ev.Notice) else event.error
        self._warn(noted.code, noted.message)

    def _warn(self, code: str, message: str, *, once: bool = False) -> None:
        if once and code in self._told:
            return
        self._told.add(code)
        self._tell(wire.DuplexWarning(code=code, message=message))

    def _tell(self, event: wire.OpenBmbServerMessage) -> None:
        self._send(msgspec.json.encode(event).decode())


def _changes(payload: InitPayload) -> dict[str, Any]:
    """What a session is to be, as a partial session object."""
    config = payload.config
    changes: dict[str, Any] = {}
    if payload.system_prompt:
        changes["instructions"] = payload.system_prompt
    if config.tts_enabled is not None:
        changes["output_modalities"] = ["audio" if config.tts_enabled else "text"]
    if config.vision_hd or (payload.max_slice_nums or 1) > 1:
        changes["video"] = {"detail": "high"}
    sampling = {"temperature": config.temperature, "length_penalty": config.length_penalty}
    chosen = {name: value for name, value in sampling.items() if value is not None}
    return changes | ({"engine": chosen} if chosen else {})


def _unused(payload: InitPayload) -> list[str]:
    config, voice = payload.config, payload.voice
    asked = {
        "config.max_tokens": config.max_tokens is not None,
        "config.max_kv_tokens": config.max_kv_tokens is not None,
        "voice.ref_audio_base64": bool(voice.ref_audio_base64),
        "voice.tts_ref_audio_base64": bool(voice.tts_ref_audio_base64),
        f"max_slice_nums beyond {MAX_SLICES}": (payload.max_slice_nums or 1) > MAX_SLICES,
    }
    return [f"payload.{name}" for name, is_asked in asked.items() if is_asked]


def _bad_audio(why: str) -> ProtocolError:
    return ProtocolError(
        f"input.audio: {why}; float32, little endian, {HZ} Hz, mono is expected.",
        code="invalid_audio",
        param="input.audio",
    )


def _error(code: str, message: str, *, is_ours: bool) -> wire.DuplexError:
    kind: Any = "server_error" if is_ours else "client_error"
    return wire.DuplexError(error=wire.DuplexFault(code=code, message=message, type=kind))
