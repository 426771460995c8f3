"""ICE updates between a client's PATCH and its media worker: entity tags, order, and ends."""

from __future__ import annotations

import asyncio

import pytest

from server.control import IceRefused, IceUpdated, UpdateIce
from server.front import ice_updates
from signaling.errors import ProtocolError
from signaling.http.trickle import IceAnswer
from signaling.settings import SessionSettings
from tests.server.front.rig import PaperFront
from tests.waiting import until


class Updating:
    """A front with one call, and what its worker is asked."""

    def __init__(self) -> None:
        self.paper = PaperFront()
        self.call_id = ""

    async def start(self) -> str:
        placing = self.paper.begin()
        await asyncio.sleep(0)
        ((name, asked),) = self.paper.asked()
        self.call_id = asked.call_id
        self.paper.says(name, self.paper.placed(asked.call_id))
        return (await placing).tag

    def asked(self) -> list[UpdateIce]:
        return [message for _, message in self.paper.supervisor.of(UpdateIce)]

    def begin(self, fragment: str, *tags: str) -> asyncio.Task[IceAnswer | None]:
        known = frozenset(tags) if tags else None
        return asyncio.create_task(self.paper.front.desk.update_ice(self.call_id, fragment, known))

    async def update(self, fragment: str, answer: str, *tags: str) -> IceAnswer | None:
        count = len(self.asked())
        task = self.begin(fragment, *tags)
        await until(lambda: len(self.asked()) > count or task.done())
        if not task.done():
            self.paper.says("worker-0", IceUpdated(self.call_id, self.asked()[-1].n, answer))
        return await task


@pytest.fixture
def updating() -> Updating:
    return Updating()


async def test_tag_of_the_front_before_is_taken_until_there_is_another(updating: Updating) -> None:
    await updating.start()
    updating.paper.front.desk._ice.adopt(updating.call_id)
    assert await updating.update("more", "", "of the front before") is None
    restarted = await updating.update("restart", "ours", "of the front before")
    assert restarted is not None
    with pytest.raises(ProtocolError, match="If-Match"):
        await updating.update("more", "", "of the front before")
    assert await updating.update("more", "", restarted.tag) is None


async def test_candidates_keep_the_entity_tag_and_a_restart_changes_it(updating: Updating) -> None:
    tag = await updating.start()
    assert tag.startswith('"') and tag.endswith('"') and len(tag) > 12
    assert await updating.update("more", "", tag) is None
    assert await updating.update("more", "", "other", tag) is None
    restarted = await updating.update("restart", "ours")
    assert restarted is not None and restarted.fragment == "ours" and restarted.tag != tag
    with pytest.raises(ProtocolError) as caught:
        await updating.update("late", "", tag)
    assert caught.value.status == 412 and len(updating.asked()) == 3
    assert await updating.update("more", "", restarted.tag) is None


async def test_updates_are_taken_in_their_order(updating: Updating) -> None:
    tag = await updating.start()
    restart, late = updating.begin("restart"), updating.begin("late", tag)
    await until(lambda: updating.asked())
    await asyncio.sleep(0)
    assert [asked.fragment for asked in updating.asked()] == ["restart"]
    n = updating.asked()[0].n
    updating.paper.says("worker-0", IceUpdated(updating.call_id, n + 1, "of another"))
    updating.paper.says("worker-0", IceUpdated(updating.call_id, n, "ours"))
    assert (await restart) is not None
    with pytest.raises(ProtocolError) as caught:
        await late
    assert caught.value.status == 412


async def test_what_the_worker_refuses_is_the_clients_error(updating: Updating) -> None:
    tag = await updating.start()
    task = updating.begin("x", tag)
    await until(lambda: updating.asked())
    n = updating.asked()[0].n
    updating.paper.says("worker-0", IceRefused(updating.call_id, n, 429, "rate", "Slowly."))
    with pytest.raises(ProtocolError, match="Slowly") as caught:
        await task
    assert (caught.value.status, caught.value.code) == (429, "rate")


async def test_few_updates_of_a_call_wait(updating: Updating) -> None:
    tag = await updating.start()
    tasks = [updating.begin("x", tag) for _ in range(ice_updates.MAX_WAITING + 1)]
    await until(lambda: tasks[-1].done())
    with pytest.raises(ProtocolError) as caught:
        await tasks[-1]
    assert caught.value.status == 429
    updating.paper.ends(updating.call_id)
    for task in tasks[:-1]:
        with pytest.raises(ProtocolError) as caught:
            await task
        assert caught.value.status == 410


async def test_a_call_that_ends_meanwhile_is_gone(updating: Updating) -> None:
    await updating.start()
    task = updating.begin("x")
    await until(lambda: updating.asked())
    updating.paper.ends(updating.call_id, "worker_gone")
    with pytest.raises(ProtocolError) as caught:
        await task
    assert (caught.value.status, caught.value.code) == (410, "worker_gone")
    with pytest.raises(ProtocolError):
        await updating.update("x", "")


async def test_a_session_without_a_peer_has_no_ice(updating: Updating) -> None:
    session = SessionSettings()
    front = updating.paper.front
    placing = asyncio.create_task(front.desk.place_stream(session, remote="x", callers=("x",)))
    await until(lambda: front.calls)
    ((call_id, call),) = front.calls.items()
    call.placed.set_result("")
    assert (await placing).call_id == call_id
    with pytest.raises(ProtocolError, match="WebSocket") as caught:
        await front.desk.update_ice(call_id, "x", None)
    assert caught.value.status == 409


async def test_a_worker_that_does_not_answer_is_a_timeout(
    updating: Updating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ice_updates, "ANSWER_TIMEOUT_S", 0.01)
    await updating.start()
    with pytest.raises(TimeoutError):
        await updating.begin("x")
    # An answer that comes late is nobody's.
    n = updating.asked()[0].n
    updating.paper.says("worker-0", IceUpdated(updating.call_id, n, "late"))
    updating.paper.ends(updating.call_id)
