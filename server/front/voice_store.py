"""Voices that were uploaded, as files: ID.json and ID.wav in a folder of the data folder. Front.

Every function reads or writes the disk: call them in a thread.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from signaling.session.core import UPLOADED_VOICE

log = logging.getLogger(__name__)

PREFIX = UPLOADED_VOICE
_ID = re.compile(PREFIX + r"[A-Za-z0-9_-]{20,40}")
_DEFAULT = "default"
"""A file that holds the id of the voice of those who name none."""

VoiceName = Annotated[str, Meta(min_length=1, max_length=80)]
VoiceLanguage = Annotated[str, Meta(pattern="^([A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*)?$")]


class KeptVoice(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a voice beside its sound."""

    id: str
    name: VoiceName
    seconds: float
    created_at: int
    """Unix seconds."""
    language: VoiceLanguage = ""
    """That is spoken in it, if it was said."""
    owner: str | None = None
    """The id of the key that it was uploaded with."""
    level_dbfs: float = 0.0
    contrast_db: float = 0.0
    """How far its speech stands out of the noise."""


def new_voice_id() -> str:
    """An id that nobody guesses: who knows it can speak with the voice."""
    return PREFIX + secrets.token_urlsafe(18)


def load_all(folder: Path) -> dict[str, KeptVoice]:
    """All voices, the oldest first; what cannot be read is told in the log."""
    found = []
    for path in folder.glob(f"{PREFIX}*.json") if folder.is_dir() else ():
        try:
            voice = msgspec.json.decode(path.read_bytes(), type=KeptVoice)
        except (OSError, msgspec.DecodeError) as error:
            log.warning("voice %s is left out: %s", path.name, error)
            continue
        if voice.id == path.stem and _ID.fullmatch(voice.id) and _sound(folder, voice.id).is_file():
            found.append(voice)
    return {voice.id: voice for voice in sorted(found, key=lambda one: (one.created_at, one.id))}


def save(folder: Path, voice: KeptVoice, sound: bytes | None = None) -> None:
    """Write a voice; without `sound` only what is known of it."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if sound is not None:
        _write(_sound(folder, voice.id), sound)
    _write(folder / f"{voice.id}.json", msgspec.json.encode(voice))


def sound_of(folder: Path, voice_id: str) -> bytes:
    """A WAV file; raises OSError."""
    return _sound(folder, voice_id).read_bytes()


def remove(folder: Path, voice_id: str) -> None:
    """Delete all of a voice."""
    (folder / f"{voice_id}.json").unlink(missing_ok=True)
    _sound(folder, voice_id).unlink(missing_ok=True)


def default_of(folder: Path) -> str:
    """The id of the default voice; empty: the engine's own."""
    try:
        return (folder / _DEFAULT).read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def set_default(folder: Path, voice_id: str) -> None:
    """Remember the default voice; empty: the engine's own."""
    if voice_id:
        _write(folder / _DEFAULT, voice_id.encode())
    else:
        (folder / _DEFAULT).unlink(missing_ok=True)


def _sound(folder: Path, voice_id: str) -> Path:
    return folder / f"{voice_id}.wav"


def _write(path: Path, data: bytes) -> None:
    """Put a file in place whole, for its owner alone."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
