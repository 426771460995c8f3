"""Keeps published models as they were when they were first fetched: trust on first use.

Whoever publishes a model may put another one in its place. So the commit and the hash of each file
are kept in `pins.json` when it is first fetched; from then on that commit is asked for, and a file
with another hash is refused. The fetching itself is `huggingface_hub`'s.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct

from engine.builtin.published_models import PublishedFile, PublishedModel
from engine.hub import Fetching, HubError, snapshot

PINS = "pins.json"
COMING = ".coming"
"""The hub's own layout, for as long as something is fetched."""
MOST_BYTES = 4 << 30
"""Of a model: no source may fill the disk. The largest, whisper-large-v3, has three quarters of
that."""
_SHA256 = re.compile(r"[0-9a-f]{64}")


class FetchError(RuntimeError):
    """It could not be fetched, or is not what it was; the message is for people."""


class Pin(Struct, frozen=True):
    """What a file was when it was first fetched."""

    sha256: str
    num_bytes: int
    commit: str


class Fetched(Struct, frozen=True):
    path: Path
    pin: Pin
    is_new: bool
    """It was not known before: nothing but the server vouches for it."""


class ModelFolder:
    """Owns a folder of fetched models, `voices` and `recognisers` in it, and their pins."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._pins: dict[str, Pin] = {}

    def home(self, model: PublishedModel) -> Path:
        """The folder of the configuration for its kind."""
        return self._folder / f"{model.kind}s"

    def fetch(self, model: PublishedModel, source: str, fetching: Fetching) -> list[Fetched]:
        """Fetch what is missing or damaged of a model from a hub; blocks meanwhile.

        Raises `FetchError`; files that were complete stay.
        """
        try:
            with self._alone():
                missing = [file for file in model.files if not self._is_kept(model, file)]
                new = [file for file in missing if self._name(model, file) not in self._pins]
                if missing:
                    self._take(model, missing, source, fetching)
                kept = [(file, self._name(model, file)) for file in model.files]
                return [
                    Fetched(self._folder / name, self._pins[name], file in new)
                    for file, name in kept
                ]
        except HubError as error:
            raise FetchError(f"{model.name} cannot be fetched from {source}: {error}") from error
        except OSError as error:
            raise FetchError(f"{model.name} cannot be kept: {error}") from error

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes away from the folder, and know its pins."""
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder, os.O_RDONLY)
        try:
            _lock(lock, self._folder)
            self._pins = _read_pins(self._folder / PINS)
            yield
        finally:
            os.close(lock)

    def _name(self, model: PublishedModel, file: PublishedFile) -> str:
        return f"{model.kind}s/{file.saved_as}"

    def _is_kept(self, model: PublishedModel, file: PublishedFile) -> bool:
        name = self._name(model, file)
        path = self._folder / name
        return name in self._pins and path.is_file() and _hash_of(path) == self._pins[name].sha256

    def _take(
        self, model: PublishedModel, files: list[PublishedFile], source: str, fetching: Fetching
    ) -> None:
        coming = self._folder / COMING
        paths = [file.path for file in files]
        try:
            folder = snapshot(
                model.repository,
                fetching,
                revision=self._revision(model),
                allow_patterns=paths,
                endpoint=source,
                cache_dir=coming,
                # A user's secret is for none but the hub, whose models are public.
                token=False,
                most_bytes=MOST_BYTES,
            )
            for file in files:
                self._keep(model, file, folder)
        finally:
            shutil.rmtree(coming, ignore_errors=True)

    def _keep(self, model: PublishedModel, file: PublishedFile, folder: Path) -> None:
        """Copy it from the hub's folder, which has the name of its commit, if it is the right one.

        In there it is a link to a file that is named by the hash that the hub told: files with the
        same bytes have but one.
        """
        name = self._name(model, file)
        if not (folder / file.path).is_file():
            raise FetchError(f"{model.repository} has no {file.path}: is there such a model?")
        came = (folder / file.path).resolve()
        found = Pin(_hash_of(came), came.stat().st_size, folder.name)
        pin = self._pins.get(name, found)
        if _SHA256.fullmatch(came.name) and found.sha256 != came.name:
            raise FetchError(f"{name} came damaged: its hash is not what the server told")
        if found.sha256 != pin.sha256:
            raise FetchError(
                f"{name} is refused: it is not the file that was fetched before "
                f"(SHA-256 {found.sha256}, in {PINS} {pin.sha256})"
            )
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        copy = self._folder / COMING / "copy"
        shutil.copyfile(came, copy)
        copy.replace(path)
        self._pins[name] = pin
        self._write_pins()

    def _revision(self, model: PublishedModel) -> str:
        """All files of a model are of one commit."""
        names = [self._name(model, file) for file in model.files]
        commits = [self._pins[name].commit for name in names if name in self._pins]
        return next((commit for commit in commits if commit), model.revision)

    def _write_pins(self) -> None:
        data = msgspec.json.format(msgspec.json.encode(self._pins, order="sorted"))
        part = self._folder / f"{PINS}.part"
        part.write_bytes(data)
        part.replace(self._folder / PINS)


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        told = f"something else is being fetched into {folder}; try again when it is done"
        raise FetchError(told) from error


def _read_pins(path: Path) -> dict[str, Pin]:
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Pin])
    except FileNotFoundError:
        return {}
    except (OSError, msgspec.DecodeError) as error:
        raise FetchError(f"{path}: {error}") from error


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
