"""Items uploaded to a running server, with real processes and a real peer.

Guards: a file larger than a message of the data channel reaches the conversation and the engine as
if it had come there; mistakes are named; the sound goes on meanwhile.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest

from tests.caller import Caller
from tests.serving import Serving

pytestmark = pytest.mark.loopback

TURN_BASED = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
FILE = bytes(range(256)) * 40_000


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    with Serving() as serving:
        yield serving


def video(data: bytes) -> dict[str, str]:
    url = "data:video/mp4;base64," + base64.b64encode(data).decode()
    return {"type": "input_video", "video_url": url}


async def test_uploaded_video_is_an_item_like_any_other(server: Serving) -> None:
    async with Caller(server.url, session=TURN_BASED) as caller:
        await caller.hears("session.created")
        text = {"type": "input_text", "text": "what happens?"}
        heard = caller.heard_samples
        status, item = await caller.upload(video(FILE), text)
        assert status == 200, item
        added = await caller.hears("conversation.item.added")
        assert added["item"]["id"] == item["id"]
        kinds = [part["type"] for part in added["item"]["content"]]
        assert kinds == ["input_video", "input_text"]
        refused = (await caller.hears("error"))["error"]
        assert (refused["code"], refused["param"]) == ("part_left_out", "item.content.0")
        caller.send("response.create")
        await caller.hears("response.done")
        assert caller.heard_samples > heard, "the upload held up the sound"
        caller.send("conversation.item.retrieve", item_id=item["id"])
        assert (await caller.hears("conversation.item.retrieved"))["item"]["id"] == item["id"]


async def test_mistakes_in_an_upload_are_named(server: Serving) -> None:
    async with Caller(server.url, session=TURN_BASED) as caller:
        await caller.hears("session.created")
        status, body = await caller.upload({"type": "input_video"})
        assert (status, body["error"]["param"]) == (400, "item.content.0.video_url")
        await caller.hang_up()
        await caller.is_over()
        status, body = await caller.upload({"type": "input_text", "text": "hello"})
        assert (status, body["error"]["code"]) == (410, "hangup")
