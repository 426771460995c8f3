"""The folder of a checkpoint: a path, or a Hugging Face hub id that is fetched. Needs no torch."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

Fetching = Callable[[str, int, int], None]
"""Told what is being fetched, the bytes that are there, and all bytes as far as they are known."""

TELL_S = 1.0


class HubError(RuntimeError):
    """There is no such folder and it cannot be fetched; the message says which commands do it."""


def unheard(model: str, done_bytes: int, total_bytes: int) -> None:
    """Where nobody wants to know how far a download is."""


def locate(model: str | Path, fetching: Fetching = unheard, *, revision: str | None = None) -> Path:
    """The folder of a checkpoint given as a path or as a hub id; blocks while it is fetched.

    Raises `HubError`. `fetching` is called from threads of the download.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    text = str(model)
    if folder.is_absolute() or text.startswith(("./", "../", "~")) or text.count("/") != 1:
        raise HubError(f"{folder} is not a folder.\n{_how_to_fetch('openbmb/MiniCPM-o-4_5')}")
    try:
        return snapshot(text, fetching, revision=revision)
    except HubError as error:
        told = f"{text} is not a folder and cannot be fetched: {error}\n{_how_to_fetch(text)}"
        raise HubError(told) from error


def snapshot(
    repository: str, fetching: Fetching, *, most_bytes: int | None = None, **wanted: Any
) -> Path:
    """The folder of a repository, fetched; blocks meanwhile. `most_bytes`: of all that comes.
    `wanted`: which revision, what of it, from where and into which cache, as
    `huggingface_hub.snapshot_download` takes them.

    Raises `HubError` with the reason alone.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise HubError("huggingface-hub is not installed (pip install huggingface-hub)") from None
    fetching(repository, 0, 0)
    try:
        bars = _bars(repository, fetching, most_bytes)
        found = snapshot_download(repository, tqdm_class=bars, **wanted)
    except Exception as error:  # noqa: BLE001 - the boundary: it lets its HTTP client's through
        raise HubError(str(error) or f"the download broke off ({type(error).__name__})") from error
    return Path(found)


def _bars(model: str, fetching: Fetching, most_bytes: int | None) -> type[Any]:
    """A class of progress bars that draw nothing and tell `fetching` of bytes instead; they end the
    download by `HubError` where it is of more than `most_bytes`.

    The hub's client makes several: of bytes received, of bytes written, of files done.
    """
    from tqdm import tqdm  # type: ignore[import-untyped]

    lock, told_at = Lock(), 0.0

    class Bar(tqdm):  # type: ignore[misc]
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **options | {"file": io.StringIO(), "disable": False})

        def update(self, n: float | None = 1) -> Any:
            nonlocal told_at
            shown = super().update(n)
            done, total = int(self.n), int(self.total or 0)
            if self.unit == "B" and most_bytes is not None and max(done, total) > most_bytes:
                raise HubError(f"there are more than {most_bytes} bytes of it")
            with lock:
                now = time.monotonic()
                is_due = now - told_at >= TELL_S or done == total
                if self.unit != "B" or not total or not is_due:
                    return shown
                told_at = now
            fetching(model, done, total)
            return shown

        def refresh(self, *args: Any, **options: Any) -> None:
            """Nobody looks at it."""

    return Bar


def _how_to_fetch(model: str) -> str:
    return (
        "Fetch it on a machine with a network:\n"
        "  pip install huggingface-hub\n"
        f"  hf download {model} --local-dir DIR\n"
        "and start with --model DIR."
    )
