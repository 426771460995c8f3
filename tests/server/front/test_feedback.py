"""Ratings of answers: kept for calls that are known, bounded, refused by the field."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from server.front import feedback
from server.front.feedback import BURST, FeedbackBox, KeptFeedback
from signaling.errors import ProtocolError
from signaling.http.auth import ApiKey, Authenticator, install
from tests.waiting import Clock

Http = TestClient[web.Request, web.Application]
GOOD: dict[str, Any] = {"item_id": "item_1", "rating": "up", "comment": " Quick! "}


class Calls:
    """One is open, one ended lately, no others."""

    def is_open(self, call_id: str) -> bool:
        return call_id == "open"

    def why_closed(self, call_id: str) -> ProtocolError:
        status = 410 if call_id == "ended" else 404
        return ProtocolError("There is no such call.", code="call_not_found", status=status)


@pytest.fixture
async def http(tmp_path: Path) -> AsyncIterator[Http]:
    app = web.Application()
    auth = Authenticator((ApiKey("one", "a-key-of-sixteen-or-more"),))
    install(app, auth)
    FeedbackBox(tmp_path / "feedback", Calls(), None, Clock(), Clock(86_400.0)).add_to(app, auth)
    async with TestClient(TestServer(app)) as client:
        yield client


async def give(http: Http, call: str = "open", **body: Any) -> tuple[int, Any]:
    response = await http.post(f"/v1/realtime/calls/{call}/feedback", json=body)
    return response.status, await response.json() if response.status >= 400 else None


async def test_ratings_are_lines_of_the_day(http: Http, tmp_path: Path) -> None:
    assert (await give(http, **GOOD))[0] == 204
    assert (await give(http, "ended", item_id="item_2", rating=None))[0] == 204
    [path] = (tmp_path / "feedback").iterdir()
    assert path.name == "1970-01-02.jsonl" and path.stat().st_mode & 0o777 == 0o600
    kept = [msgspec.json.decode(line, type=KeptFeedback) for line in path.open("rb")]
    assert [(one.call_id, one.item_id, one.rating, one.comment) for one in kept] == [
        ("open", "item_1", "up", "Quick!"),
        ("ended", "item_2", None, ""),
    ]


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"rating": "great"}, "rating"),
        ({"item_id": ""}, "item_id"),
        ({"comment": "x" * 2001}, "comment"),
        ({"colour": "red"}, "colour"),
    ],
)
async def test_bad_rating_is_refused_by_its_field(
    http: Http, tmp_path: Path, change: dict[str, Any], param: str
) -> None:
    status, refused = await give(http, **GOOD | change)
    assert status == 400 and refused["error"]["param"] == param
    assert not (tmp_path / "feedback").exists()


async def test_call_that_is_not_known_rates_nothing(http: Http) -> None:
    assert (await give(http, "stranger", **GOOD))[0] == 404


async def test_one_call_rates_only_so_often(http: Http) -> None:
    for _ in range(int(BURST)):
        assert (await give(http, **GOOD))[0] == 204
    assert (await give(http, **GOOD))[0] == 429
    assert (await give(http, "ended", **GOOD))[0] == 204


async def test_full_day_is_told(http: Http, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (await give(http, **GOOD))[0] == 204
    monkeypatch.setattr(feedback, "MAX_DAY_BYTES", 10)
    status, refused = await give(http, **GOOD)
    assert (status, refused["error"]["code"]) == (500, "storage_failed")
