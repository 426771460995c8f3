"""Fetches published models and remembers what they were: trust on first use.

Whoever publishes a model may put another one in its place. So the commit and the hash of each file
are kept in `pins.json` when it is first fetched; from then on that commit is asked for, and a file
with another hash is refused.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import aiohttp
import msgspec
from msgspec import Struct

from engine.builtin.published_models import PublishedFile, PublishedModel

MOST_BYTES = 4_000_000_000
MOST_SMALL_BYTES = 16_000_000
"""Of settings and vocabularies."""
CHUNK = 1 << 20
STILL_S = 60.0
"""A server that sends nothing for so long is given up."""
PINS = "pins.json"
COMMIT_HEADER = "X-Repo-Commit"
HASH_HEADER = "X-Linked-Etag"
"""Of large files, from the server that knows them: their SHA-256."""
_SHA256 = re.compile(r'"?([0-9a-f]{64})"?')
_COMMIT = re.compile(r"[0-9a-f]{40,64}")

Progress = Callable[[str, int, int], None]
"""Told the file, the bytes that are there and all of them; 0: not known."""


class FetchError(RuntimeError):
    """It could not be fetched, or is not what it was; the message is for people."""


class Pin(Struct, frozen=True):
    """What a file was when it was first fetched."""

    sha256: str
    num_bytes: int
    commit: str = ""
    """Empty: the server did not say."""


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

    async def fetch(self, model: PublishedModel, source: str, progress: Progress) -> list[Fetched]:
        """Fetch what is missing or damaged of a model from a server that has the hub's paths.

        Raises `FetchError`; files that were complete stay.
        """
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=STILL_S, sock_read=STILL_S)
        try:
            with self._alone():
                async with aiohttp.ClientSession(timeout=timeout) as http:
                    return [
                        await self._fetch(http, model, file, source, progress)
                        for file in model.files
                    ]
        except (aiohttp.ClientError, TimeoutError) as error:
            told = str(error) or type(error).__name__
            raise FetchError(f"{model.name} cannot be fetched from {source}: {told}") from error
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

    async def _fetch(
        self,
        http: aiohttp.ClientSession,
        model: PublishedModel,
        file: PublishedFile,
        source: str,
        progress: Progress,
    ) -> Fetched:
        path = self.home(model) / file.saved_as
        name = path.relative_to(self._folder).as_posix()
        pin = self._pins.get(name)
        if pin is not None and path.is_file() and _hash_of(path) == pin.sha256:
            return Fetched(path, pin, is_new=False)
        revision = pin.commit if pin is not None and pin.commit else self._revision(model)
        url = f"{source.rstrip('/')}/{model.repository}/resolve/{revision}/{file.path}"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        try:
            found, told = await _download(
                http, url, part, lambda done, of: progress(name, done, of)
            )
            if told and found.sha256 != told:
                raise FetchError(f"{name} came damaged: its hash is not what the server told")
            if pin is not None and found.sha256 != pin.sha256:
                raise FetchError(
                    f"{name} is refused: it is not the file that was fetched before "
                    f"(SHA-256 {found.sha256}, in {PINS} {pin.sha256})"
                )
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        self._pins[name] = pin or found
        self._write_pins()
        return Fetched(path, self._pins[name], is_new=pin is None)

    def _revision(self, model: PublishedModel) -> str:
        """All files of a model are of one commit."""
        home = self.home(model).relative_to(self._folder).as_posix()
        names = [f"{home}/{file.saved_as}" for file in model.files]
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


async def _download(
    http: aiohttp.ClientSession, url: str, path: Path, progress: Callable[[int, int], None]
) -> tuple[Pin, str]:
    """What came, and the hash that the server told; empty: it told none."""
    most = MOST_BYTES if path.name.endswith((".bin.part", ".onnx.part")) else MOST_SMALL_BYTES
    async with http.get(url) as answer:
        if answer.status != 200:
            raise FetchError(f"{url} answers {answer.status}: is there such a model?")
        told, commit = _told(answer, HASH_HEADER, _SHA256), _told(answer, COMMIT_HEADER, _COMMIT)
        total = answer.content_length or 0
        found = hashlib.sha256()
        done = 0
        with path.open("wb") as out:
            async for chunk in answer.content.iter_chunked(CHUNK):
                done += len(chunk)
                if max(done, total) > most:
                    raise FetchError(f"{url} is larger than {most // 1_000_000} MB")
                found.update(chunk)
                out.write(chunk)
                progress(done, total)
    return Pin(found.hexdigest(), done, commit), told


def _told(answer: aiohttp.ClientResponse, header: str, form: re.Pattern[str]) -> str:
    """From the first answer that has it: the hub knows it, and not the store it redirects to."""
    for one in (*answer.history, answer):
        match = form.fullmatch(one.headers.get(header, ""))
        if match is not None:
            return match[match.lastindex or 0]
    return ""


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
