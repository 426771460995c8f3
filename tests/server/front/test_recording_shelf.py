"""Recorded calls: who may list, fetch and delete them, and which ones go by themselves."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from server.front import recording_shelf
from server.front.feedback import FeedbackBox
from server.front.recording_shelf import RecordingEntry, RecordingShelf
from server.recordings import ABOUT, FEEDBACK, PICTURES, SEEN, RecordedCall
from signaling.http.auth import ApiKey, Authenticator, install
from tests.server.front.test_feedback import Calls
from tests.waiting import Clock, until

DAY = 86_400.0
ADMIN, USER = "admin-key-of-sixteen", "a-user-key-of-sixteen"


class Shelf:
    """Asks with a key; `keep` puts a recording there."""

    def __init__(self, folder: Path, shelf: RecordingShelf, http: TestClient[Any, Any]) -> None:
        self.folder = folder
        self.shelf = shelf
        self.http = http
        self.types: list[str] = []

    def keep(self, call_id: str, began_at: float, num_bytes: int = 4096) -> None:
        place = self.folder / call_id
        place.mkdir(parents=True)
        told = RecordedCall(call_id=call_id, began_at=began_at, ended_at=began_at + 60)
        (place / ABOUT).write_bytes(msgspec.json.encode(told))
        (place / "user.wav").write_bytes(b"s" * num_bytes)

    async def ask(self, path: str = "", method: str = "GET", key: str = ADMIN) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"}
        answer = await self.http.request(method, f"/api/recordings{path}", headers=headers)
        body = await answer.read()
        self.types.append(answer.content_type)
        return answer.status, await answer.json() if "/json" in answer.content_type else body


@pytest.fixture
async def shelf(tmp_path: Path) -> AsyncIterator[Shelf]:
    app = web.Application()
    auth = Authenticator((ApiKey("a", ADMIN, "admin"), ApiKey("u", USER)))
    install(app, auth)
    folder = tmp_path / "recordings"
    kept = RecordingShelf(
        folder,
        Calls(),
        enabled=True,
        max_bytes=100_000,
        max_days=2.0,
        wall_clock=Clock(10 * DAY),
    )
    kept.add_to(app, auth)
    FeedbackBox(tmp_path / "feedback", Calls(), folder, Clock(), Clock(1.0)).add_to(app, auth)
    async with TestClient(TestServer(app)) as http:
        yield Shelf(folder, kept, http)


async def test_recordings_are_listed_fetched_and_deleted(shelf: Shelf) -> None:
    assert await shelf.ask() == (200, {"enabled": True, "recordings": []})
    shelf.keep("older", 9 * DAY)
    (shelf.folder / "older" / PICTURES).write_bytes(b"jpeg")
    (shelf.folder / "older" / SEEN).write_bytes(b"{}")
    shelf.keep("open", 9.5 * DAY)
    _, told = await shelf.ask()
    assert [(one["call_id"], one["is_open"]) for one in told["recordings"]] == [
        ("open", True),
        ("older", False),
    ]
    files = {file["name"]: file["bytes"] for file in told["recordings"][1]["files"]}
    assert files == {ABOUT: files[ABOUT], "user.wav": 4096, PICTURES: 4, SEEN: 2}
    for name, type_, body in (
        ("user.wav", "audio/wav", b"s" * 4096),
        (PICTURES, "video/x-motion-jpeg", b"jpeg"),
        (SEEN, "application/jsonl", {}),
    ):
        assert await shelf.ask(f"/older/{name}") == (200, body)
        assert shelf.types[-1] == type_
    status, told = await shelf.ask("/open", "DELETE")
    assert (status, told["error"]["code"]) == (409, "call_open")
    assert (await shelf.ask("/older", "DELETE"))[0] == 204
    assert not (shelf.folder / "older").exists()
    assert (await shelf.ask("/older", "DELETE"))[0] == 404


@pytest.mark.parametrize(
    "path",
    ["/open/other.wav", "/open/..%2F..%2Fsecret", "/..%2Fopen/user.wav", "/none/user.wav"],
)
async def test_nothing_else_is_given(shelf: Shelf, path: str) -> None:
    shelf.keep("open", 1.0)
    (shelf.folder / "open" / "other.wav").write_bytes(b"x")
    assert (await shelf.ask(path))[0] == 404


async def test_only_administrators_get_them(shelf: Shelf) -> None:
    shelf.keep("older", 9 * DAY)
    for path, method in (("", "GET"), ("/older/user.wav", "GET"), ("/older", "DELETE")):
        assert (await shelf.ask(path, method, USER))[0] == 403
        assert (await shelf.ask(path, method, "no-key"))[0] == 401
    assert (shelf.folder / "older").exists()


async def test_what_is_too_old_or_too_much_goes_but_no_open_call(shelf: Shelf) -> None:
    shelf.keep("old", 7 * DAY)
    shelf.keep("open", 6 * DAY)
    for number in range(3):
        shelf.keep(f"new_{number}", 9 * DAY + number, 40_960)
    await shelf.shelf.sweep()
    assert sorted(path.name for path in shelf.folder.iterdir()) == ["new_1", "new_2", "open"]


async def test_what_is_still_written_to_stays_though_its_call_is_not_known(shelf: Shelf) -> None:
    """A front that takes over may not have heard of it yet."""
    for call_id, ended_at, ago_s in (
        ("going", None, 60.0),
        ("broken", None, 600.0),
        ("ended", 7 * DAY, 60.0),
    ):
        shelf.keep(call_id, 7 * DAY)
        told = RecordedCall(call_id=call_id, began_at=7 * DAY, ended_at=ended_at)
        (shelf.folder / call_id / ABOUT).write_bytes(msgspec.json.encode(told))
        for path in (shelf.folder / call_id).iterdir():
            os.utime(path, (0.0, 10 * DAY - ago_s))
    status, told_why = await shelf.ask("/going", "DELETE")
    assert (status, told_why["error"]["code"]) == (409, "call_open")
    await shelf.shelf.sweep()
    assert [path.name for path in shelf.folder.iterdir()] == ["going"]


async def test_ratings_are_kept_beside(shelf: Shelf) -> None:
    shelf.keep("open", 9 * DAY)
    for item, rating in (("a", "up"), ("b", "up"), ("b", "down"), ("c", None)):
        body = {"item_id": item, "rating": rating}
        answer = await shelf.http.post("/v1/realtime/calls/open/feedback", json=body)
        assert answer.status == 204
    _, told = await shelf.ask()
    (entry,) = told["recordings"]
    assert (entry["up"], entry["down"]) == (1, 1)
    assert "feedback.jsonl" in [file["name"] for file in entry["files"]]


@pytest.fixture
def gone(monkeypatch: pytest.MonkeyPatch) -> str:
    """A recording that is deleted while it is read."""
    listed = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "gone":
            raise FileNotFoundError(2, "No such file or directory")
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    return "gone"


async def test_a_recording_that_goes_meanwhile_hides_no_other(shelf: Shelf, gone: str) -> None:
    shelf.keep("newer", 9 * DAY)
    shelf.keep(gone, 9 * DAY)
    shelf.keep("halfway", 9 * DAY)
    (shelf.folder / "halfway" / "user-2.wav").symlink_to(shelf.folder / "nowhere")
    status, told = await shelf.ask()
    assert (status, [one["call_id"] for one in told["recordings"]]) == (200, ["newer"])
    shelf.keep("old", 7 * DAY)
    await shelf.shelf.sweep()
    assert not (shelf.folder / "old").exists() and (shelf.folder / "newer").exists()


@pytest.mark.parametrize("left", [b'{"call_id": "\xff"}', b'{"x": ' + b"[" * 20_000, b"{"])
async def test_a_damaged_file_hides_no_other(shelf: Shelf, left: bytes) -> None:
    shelf.keep("damaged", 9 * DAY)
    (shelf.folder / "damaged" / ABOUT).write_bytes(left)
    shelf.keep("rated", 9 * DAY)
    (shelf.folder / "rated" / FEEDBACK).write_bytes(left + b"\n")
    await shelf.shelf.sweep()
    status, told = await shelf.ask()
    assert (status, [one["call_id"] for one in told["recordings"]]) == (200, ["rated"])


async def test_a_disk_that_fails_ends_no_server(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording_shelf, "SWEEP_S", 0.0)
    asked: list[Path] = []

    def fails(folder: Path) -> list[Path]:
        asked.append(folder)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(recording_shelf, "_places", fails)
    running = asyncio.create_task(shelf.shelf.run())
    await until(lambda: len(asked) > 2 or running.done())
    assert not running.done()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    status, told = await shelf.ask()
    assert (status, told["error"]["code"]) == (500, "storage_failed")


async def test_what_is_too_old_goes_also_where_no_calls_are_recorded_any_more(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shelf.shelf, "_enabled", False)
    shelf.keep("old", -40 * DAY)
    place = shelf.folder / "old"
    running = asyncio.create_task(shelf.shelf.run())
    await until(lambda: not place.exists())
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_what_cannot_be_deleted_is_still_there_and_counted(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    removed = shutil.rmtree

    def rmtree(place: Path) -> None:
        if place.name == "stuck":
            raise PermissionError(13, "Permission denied")
        removed(place)

    monkeypatch.setattr(shutil, "rmtree", rmtree)
    shelf.keep("stuck", 9 * DAY, 60_000)
    for number in range(2):
        shelf.keep(f"new_{number}", 9 * DAY + 1 + number, 40_960)
    await shelf.shelf.sweep()
    assert sorted(path.name for path in shelf.folder.iterdir()) == ["stuck"]
    status, told = await shelf.ask("/stuck", "DELETE")
    assert (status, told["error"]["code"]) == (500, "storage_failed")


async def test_a_rating_is_kept_where_its_recording_was_deleted(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    shelf.keep("open", 9 * DAY)
    monkeypatch.setattr(Path, "is_dir", lambda _: True)  # So it was a moment ago.
    shutil.rmtree(shelf.folder / "open")
    body = {"item_id": "a", "rating": "up"}
    answer = await shelf.http.post("/v1/realtime/calls/open/feedback", json=body)
    assert answer.status == 204


async def test_a_disk_that_hangs_costs_other_work_no_thread(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def noted(_: Path) -> list[RecordingEntry]:
        names.append(threading.current_thread().name)
        return []

    monkeypatch.setattr(recording_shelf, "_entries", noted)
    for _ in range(2):
        assert (await shelf.ask())[0] == 200
    assert len(set(names)) == 1 and names[0].startswith("recordings")
