"""Uploaded voices: kept, told, renamed, deleted, given to engines; who may do what."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import FormData, web
from aiohttp.test_utils import TestClient, TestServer
from msgspec.structs import replace

from engine.ipc.protocol import Message, Welcome
from engine.ipc.supervision import DefaultVoice, DropVoice, KeepVoice, VoiceReport
from media.voice_file import answer
from server.front.voice_routes import BURST, VoiceRoutes
from server.front.voices import VoiceDesk
from signaling.errors import ProtocolError
from signaling.http.auth import ApiKey, Authenticator, install
from signaling.settings import SessionSettings
from tests.engine.fakes import welcome
from tests.recordings import packed, talk
from tests.waiting import Clock, until

ADMIN, USER, OTHER = "admin-key-of-sixteen", "a-user-key-of-sixteen", "another-key-of-sixteen"
Start = Callable[..., Awaitable["Client"]]
TALK = packed(talk(4.0))


async def check(data: bytes) -> bytes:
    return answer(data)


class Client:
    """Asks with a key."""

    def __init__(
        self,
        http: TestClient[web.Request, web.Application],
        desk: VoiceDesk,
        auth: Authenticator,
    ) -> None:
        self.http = http
        self.desk = desk
        self.auth = auth

    async def ask(
        self, method: str, path: str = "", key: str = USER, **more: Any
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {key}"} | more.pop("headers", {})
        response = await self.http.request(method, f"/api/voices{path}", headers=headers, **more)
        body = await response.read()
        return response.status, await response.json() if "json" in response.content_type else body

    async def upload(self, key: str = USER, file: bytes = TALK, **fields: str) -> tuple[int, Any]:
        form = FormData()
        form.add_field("file", file, filename="me.wav", content_type="audio/wav")
        for name, value in fields.items():
            form.add_field(name, value)
        return await self.ask("POST", key=key, data=form)


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    opened: list[TestClient[web.Request, web.Application]] = []

    async def start(welcomes: tuple[Welcome, ...] = (), most: int = 8, **settings: Any) -> Client:
        keys = ApiKey("one", USER), ApiKey("two", OTHER), ApiKey("boss", ADMIN, "admin")
        auth = Authenticator(keys)
        desk = VoiceDesk(tmp_path / "voices", most, check)
        await desk.load()
        app = web.Application()
        install(app, auth)
        settings.setdefault("per_minute", 600)
        clock = Clock()
        VoiceRoutes(desk, lambda: list(welcomes), most=most, clock=clock, **settings).add_to(
            app, auth
        )
        http = TestClient(TestServer(app))
        opened.append(http)
        await http.start_server()
        return Client(http, desk, auth)

    yield start
    for http in opened:
        await http.close()


# ---------------------------------------------------------------- the life of a voice


async def test_voice_is_uploaded_listed_heard_renamed_and_deleted(
    start: Start, tmp_path: Path
) -> None:
    client = await start((replace(welcome(), voices=("one", "two"), takes_voices=True),))
    status, made = await client.upload(name=" Anna ", language="en")
    assert status == 201 and made["name"] == "Anna" and made["language"] == "en"
    assert made["id"].startswith("voice_") and len(made["id"]) > 28
    assert (made["seconds"], made["state"], made["is_mine"]) == (4.0, "waiting", True)
    _, listed = await client.ask("GET")
    told = [(one["id"], one["source"], one["is_default"]) for one in listed["voices"]]
    assert told[:2] == [("one", "engine", True), ("two", "engine", False)]
    assert told[2:] == [(made["id"], "uploaded", False)]
    upload = listed["upload"]
    assert upload["allowed"] and upload["reason"] == upload["code"] == ""
    status, sound = await client.ask("GET", f"/{made['id']}/sound")
    assert status == 200 and sound[:4] == b"RIFF" and len(sound) == 4 * 48_000 + 44
    status, changed = await client.ask("PATCH", f"/{made['id']}", json={"name": "Anne"})
    assert (status, changed["name"], changed["language"]) == (200, "Anne", "en")
    # Another life of the server knows it.
    again = VoiceDesk(tmp_path / "voices", 8, check)
    await again.load()
    assert [voice.name for voice in again.voices] == ["Anne"]
    assert (await client.ask("DELETE", f"/{made['id']}"))[0] == 204
    assert (await client.ask("GET", f"/{made['id']}/sound"))[0] == 404
    assert list((tmp_path / "voices").iterdir()) == []


async def test_file_alone_is_taken_with_its_name_in_the_query(start: Start) -> None:
    client = await start()
    status, made = await client.ask(
        "POST", "?name=Bo", data=TALK, headers={"Content-Type": "audio/wav"}
    )
    assert (status, made["name"]) == (201, "Bo")


async def test_files_are_for_their_owner_alone(start: Start, tmp_path: Path) -> None:
    client = await start()
    await client.upload()
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "voices").iterdir()}
    assert modes == {0o600} and (tmp_path / "voices").stat().st_mode & 0o777 == 0o700


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("file", "fields", "code", "param"),
    [
        (packed(talk(1.0)), {}, "voice_too_short", "file"),
        (packed(talk(5.0, noise=0.2)), {}, "voice_too_noisy", "file"),
        (b"hello", {}, "voice_unreadable", "file"),
        (TALK, {"name": " "}, "invalid_value", "name"),
        (TALK, {"name": "x" * 81}, "invalid_value", "name"),
        (TALK, {"language": "English please"}, "invalid_value", "language"),
    ],
)
async def test_bad_upload_is_refused_by_its_field(
    start: Start, file: bytes, fields: dict[str, str], code: str, param: str
) -> None:
    client = await start()
    status, refused = await client.upload(file=file, **fields)
    assert status == 400 and (refused["error"]["code"], refused["error"]["param"]) == (code, param)
    assert client.desk.voices == ()


async def test_upload_without_a_file_names_it(start: Start) -> None:
    client = await start()
    status, refused = await client.ask("POST", data=b"", headers={"Content-Type": "audio/wav"})
    assert status == 400 and refused["error"]["param"] == "file"


async def test_more_than_fit_and_faster_than_allowed_are_refused(start: Start) -> None:
    client = await start(most=2, per_minute=1)
    for _ in range(2):
        assert (await client.upload())[0] == 201
    status, full = await client.upload()
    assert (status, full["error"]["code"]) == (409, "too_many_voices")
    for _ in range(BURST - 3):
        await client.upload()
    status, fast = await client.upload()
    assert (status, fast["error"]["code"]) == (429, "rate_limit_exceeded")


async def test_who_may_upload_is_a_setting(start: Start) -> None:
    for policy, statuses in {"user": (201, 201), "admin": (403, 201), "nobody": (403, 403)}.items():
        client = await start(policy=policy)
        made = [(await client.upload(key))[0] for key in (USER, ADMIN)]
        assert tuple(made) == statuses, policy
        _, listed = await client.ask("GET")
        assert listed["upload"]["allowed"] == (statuses[0] == 201)
        code = {"admin": "not_yours", "nobody": "uploads_off"}.get(policy, "")
        assert listed["upload"]["code"] == code


async def test_no_key_and_client_secrets_change_nothing(start: Start) -> None:
    client = await start()
    assert (await client.http.get("/api/voices")).status == 401
    secret, _ = client.auth.secrets.issue(60, SessionSettings(), "one")
    assert (await client.upload(key=secret))[0] == 403
    _, made = await client.upload()
    for method in ("PATCH", "DELETE"):
        assert (await client.ask(method, f"/{made['id']}", key=secret))[0] == 403


async def test_voices_of_others_can_be_used_but_not_changed(start: Start) -> None:
    client = await start()
    _, made = await client.upload()
    for method in ("PATCH", "DELETE"):
        status, _ = await client.ask(method, f"/{made['id']}", key=OTHER, json={})
        assert status == 403
    status, _ = await client.ask("PATCH", f"/{made['id']}", json={"is_default": True})
    assert status == 403, "the default is the administrator's"
    status, told = await client.ask("PATCH", f"/{made['id']}", ADMIN, json={"is_default": True})
    assert status == 200 and told["is_default"] and client.desk.default == made["id"]
    assert (await client.ask("DELETE", f"/{made['id']}", ADMIN))[0] == 204
    assert client.desk.default == ""


async def test_unknown_ids_are_404_and_reach_no_file(start: Start) -> None:
    client = await start()
    for name in ("voice_x", "..%2f..%2fetc%2fpasswd", "default"):
        assert (await client.ask("GET", f"/{name}/sound"))[0] == 404
        assert (await client.ask("DELETE", f"/{name}"))[0] == 404


async def test_what_an_engine_lacks_is_told(start: Start) -> None:
    lacking = replace(welcome(), takes_voices=False, voices_lack="It lacks campplus.onnx.")
    client = await start((lacking,))
    _, listed = await client.ask("GET")
    assert listed["upload"]["allowed"] and "campplus.onnx" in listed["upload"]["reason"]
    assert listed["upload"]["code"] == "networks_missing"


# ---------------------------------------------------------------- engines


class Engine:
    """Takes what it is sent."""

    def __init__(self) -> None:
        self.sent: list[Message] = []

    def send(self, message: Message) -> bool:
        self.sent.append(message)
        return True

    @property
    def kept(self) -> list[str]:
        return [message.voice for message in self.sent if isinstance(message, KeepVoice)]


async def test_engines_get_one_voice_after_the_other_the_default_first(tmp_path: Path) -> None:
    desk = VoiceDesk(tmp_path, 8, check)
    one, two = await desk.add(TALK, "one"), await desk.add(TALK, "two")
    await desk.make_default(two.id)
    engine = Engine()
    desk.engine_up("engine-0", engine.send)
    await until(lambda: engine.kept)
    assert engine.sent[0] == DefaultVoice(two.id) and engine.kept == [two.id]
    assert [use.state for use in desk.uses(two.id)] == ["waiting"]
    desk.report("engine-0", VoiceReport(two.id, "ready"))
    await until(lambda: len(engine.kept) == 2)
    desk.report("engine-0", VoiceReport(one.id, "failed", "It is broken."))
    assert [use.state for use in desk.uses(two.id)] == ["ready"]
    assert desk.uses(one.id)[0].reason == "It is broken."
    await desk.remove(two.id)
    assert engine.sent[-2:] == [DefaultVoice(""), DropVoice(two.id)]
    three = await desk.add(TALK, "three")
    await until(lambda: three.id in engine.kept)


async def test_engine_that_comes_back_gets_them_anew(tmp_path: Path) -> None:
    desk = VoiceDesk(tmp_path, 8, check)
    voice = await desk.add(TALK, "one")
    for _ in range(2):
        engine = Engine()
        desk.engine_up("engine-0", engine.send)
        await until(lambda engine=engine: engine.kept == [voice.id])  # type: ignore[misc]
        desk.report("engine-0", VoiceReport(voice.id, "ready"))
        desk.engine_down("engine-0")
        assert desk.uses(voice.id) == ()


async def test_recording_that_is_lost_stops_nothing(tmp_path: Path) -> None:
    desk = VoiceDesk(tmp_path, 8, check)
    lost, kept = await desk.add(TALK, "lost"), await desk.add(TALK, "kept")
    (tmp_path / f"{lost.id}.wav").unlink()
    engine = Engine()
    desk.engine_up("engine-0", engine.send)
    await until(lambda: engine.kept == [kept.id])
    assert desk.uses(lost.id)[0].state == "failed"
    with pytest.raises(ProtocolError):
        await desk.sound(lost.id)
