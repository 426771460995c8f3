"""Presets: ready-made sessions from TOML files, those that ship with us and the operator's own.

A file's name without `.toml` is the preset's id; one of the operator's replaces ours of that name.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from engine.ipc.session_config import Mode, Sampling
from signaling.errors import ProtocolError
from signaling.fields import convert
from signaling.settings import (
    MAX_ENGINE_OPTIONS,
    MAX_INSTRUCTIONS_CHARS,
    Name,
    Option,
    SessionSettings,
)

SHIPPED = Path(__file__).parent.parent / "presets"
MAX_PRESETS = 256
MAX_FILE_BYTES = 256 * 1024
MAX_MEDIA_BYTES = 12 * 1024 * 1024
MEDIA_TYPES = {
    ".png": "image/png",
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".webp": "image/webp",
    ".wav": "audio/wav",
    ".mp3": "audio/mpeg",
    ".m4a": "audio/mp4",
    ".ogg": "audio/ogg",
    ".flac": "audio/flac",
    ".mp4": "video/mp4",
    ".webm": "video/webm",
}
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TURNS: dict[Mode, dict[str, str] | None] = {
    "full_duplex": {"type": "semantic_vad"},
    "half_duplex": {"type": "server_vad"},
    "turn_based": None,
}


class PresetFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a file of a preset holds."""

    name: Annotated[str, Meta(min_length=1, max_length=80)]
    mode: Mode
    language: Annotated[str, Meta(pattern="^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$")]
    """Of name and prompt, as `en` or `zh`; a call should be in the language of its prompt."""
    prompt: Annotated[str, Meta(max_length=MAX_INSTRUCTIONS_CHARS)] = ""
    description: Annotated[str, Meta(max_length=300)] = ""
    media: Annotated[tuple[Annotated[str, Meta(max_length=120)], ...], Meta(max_length=8)] = ()
    """Names of files beside it: pictures, sound, films that the conversation begins with."""
    camera: bool = False
    """Made for a caller who shows something."""
    voice: Name = "default"
    prompt_voice: Annotated[str, Meta(max_length=256)] = ""
    """The voice that the model hears in its prompt; empty: the one that it speaks with."""
    is_spoken: bool = msgspec.field(default=True, name="spoken")
    is_hd: bool = msgspec.field(default=False, name="hd")
    """Pictures are read in more detail, which takes three times the context."""
    sampling: Annotated[dict[Name, Option], Meta(max_length=MAX_ENGINE_OPTIONS)] = {}
    """How words are chosen, by the names of `session.engine`; and `max_output_tokens`."""
    order: Annotated[int, Meta(ge=0, le=9999)] = 999
    """Lower ones are shown first."""
    is_hidden: bool = msgspec.field(default=False, name="hidden")
    """Takes ours of the same name away."""


class PresetMedia(msgspec.Struct, frozen=True, kw_only=True):
    """A file that the conversation begins with."""

    kind: Literal["image", "audio", "video"]
    name: str
    content_type: str
    bytes: int
    url: str
    """Where to get it, with the key as for the rest of the API."""


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """A ready-made session."""

    id: str
    name: str
    description: str
    mode: Mode
    language: str
    camera: bool
    voice: str
    hd: bool
    source: Literal["shipped", "own"]
    """Who it is from: us, or the operator of this server."""
    order: int
    session: dict[str, Any]
    """A partial session object, for `session.update` or the creation of a call."""
    media: tuple[PresetMedia, ...] = ()
    """To be added to the conversation as a message of the user before the first turn."""


class BadPreset(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is no preset, and why."""

    file: str
    reason: str


class PresetList(msgspec.Struct, frozen=True, kw_only=True):
    """All presets, in the order in which to show them."""

    presets: tuple[Preset, ...]
    modes: tuple[Mode, ...] = tuple(_TURNS)


class PresetsRead(msgspec.Struct, frozen=True):
    """What was found in the folders at one moment."""

    presets: dict[str, Preset] = {}
    media: dict[str, tuple[Path, ...]] = {}
    """By the preset's id, in the order of `Preset.media`."""
    bad: tuple[BadPreset, ...] = ()


Stamp = tuple[tuple[str, int, int], ...]


def stamp(folders: tuple[Path, ...]) -> Stamp:
    """What changes when a file of one of these folders does. Reads the disk."""
    found = []
    for folder in folders:
        for path in _files(folder):
            status = path.stat()
            found.append((str(path), status.st_mtime_ns, status.st_size))
    return tuple(found)


def read(own: Path | None, shipped: Path = SHIPPED) -> PresetsRead:
    """All presets of both folders; bad files are told, not raised. Reads the disk."""
    presets: dict[str, Preset] = {}
    media: dict[str, tuple[Path, ...]] = {}
    bad = []
    if own is not None and not own.is_dir():
        bad.append(BadPreset(file=str(own), reason="presets.dir: there is no such folder."))
    sources: tuple[tuple[Literal["shipped", "own"], Path | None], ...] = (
        ("shipped", shipped),
        ("own", own),
    )
    for source, folder in sources:
        for path in () if folder is None else _files(folder, ".toml"):
            try:
                given = _parse(path)
                preset, paths = _preset(given, path, source)
                if len(presets) >= MAX_PRESETS:
                    raise ProtocolError(f"At most {MAX_PRESETS} presets are read.")
            except ProtocolError as error:
                bad.append(BadPreset(file=path.name, reason=error.message))
                continue
            presets.pop(preset.id, None)
            if not given.is_hidden:
                presets[preset.id], media[preset.id] = preset, paths
    shown = sorted(presets.values(), key=lambda one: (one.order, one.id))
    return PresetsRead({one.id: one for one in shown}, media, tuple(bad))


def _files(folder: Path, suffix: str = "") -> list[Path]:
    try:
        return sorted(
            path for path in folder.iterdir() if path.is_file() and path.name.endswith(suffix)
        )
    except OSError:
        return []


def _parse(path: Path) -> PresetFile:
    """Raises `ProtocolError` that names the member, or the line."""
    if not _ID.fullmatch(path.stem):
        raise ProtocolError("The file's name may hold letters, digits, _ . and - only.")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE_BYTES + 1)
        if len(text) > MAX_FILE_BYTES:
            raise ProtocolError(f"At most {MAX_FILE_BYTES} bytes are read.")
        table = tomllib.loads(text.decode())
    except OSError as error:
        raise ProtocolError(f"It cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"This is not TOML: {error}.") from None
    return convert(table, PresetFile)


def _preset(
    given: PresetFile, path: Path, source: Literal["shipped", "own"]
) -> tuple[Preset, tuple[Path, ...]]:
    """The preset of a file and the paths of its media; raises `ProtocolError`."""
    session = _session(given)
    SessionSettings().merge(session)
    paths = tuple(path.parent / name for name in given.media)
    media = tuple(
        _media(path.stem, index, one, name)
        for index, (one, name) in enumerate(zip(paths, given.media, strict=True))
    )
    preset = Preset(
        id=path.stem,
        name=given.name,
        description=given.description,
        mode=given.mode,
        language=given.language,
        camera=given.camera,
        voice=given.voice,
        hd=given.is_hd,
        source=source,
        order=given.order,
        session=session,
        media=media,
    )
    return preset, paths


def _session(given: PresetFile) -> dict[str, Any]:
    options: dict[str, Any] = dict(given.sampling)
    _check_sampling(options)
    limit = options.pop("max_output_tokens", None)
    if given.prompt_voice:
        options["prompt_voice"] = given.prompt_voice
    session: dict[str, Any] = {
        "instructions": given.prompt.strip(),
        "output_modalities": ["audio" if given.is_spoken else "text"],
        "audio": {
            "input": {"turn_detection": _TURNS[given.mode]},
            "output": {"voice": given.voice},
        },
        "video": {"detail": "high" if given.is_hd else "auto"},
    }
    if options:
        session["engine"] = options
    if limit is not None:
        session["max_output_tokens"] = limit
    return session


def _check_sampling(options: Mapping[str, Option]) -> None:
    """Names that only some engine knows are its own business."""
    known = {name: value for name, value in options.items() if name in Sampling.__struct_fields__}
    convert(known, Sampling, prefix="sampling")


def _media(preset: str, index: int, path: Path, name: str) -> PresetMedia:
    where = f"media.{index}"
    if name != Path(name).name or name.startswith("."):
        raise ProtocolError(f"{where}: the name of a file in the same folder is expected.")
    content_type = MEDIA_TYPES.get(path.suffix.lower())
    if content_type is None:
        raise ProtocolError(f"{where}: expected one of {', '.join(MEDIA_TYPES)}, got {name!r}.")
    try:
        size = path.stat().st_size
    except OSError:
        raise ProtocolError(f"{where}: there is no file {name!r}.") from None
    if size > MAX_MEDIA_BYTES:
        raise ProtocolError(f"{where}: {name} has more than {MAX_MEDIA_BYTES} bytes.")
    kind: Any = content_type.partition("/")[0]
    url = f"/api/presets/{preset}/media/{index}"
    return PresetMedia(kind=kind, name=name, content_type=content_type, bytes=size, url=url)
