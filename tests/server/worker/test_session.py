"""One call in the media worker: who takes its sound, and that each answer ends."""

from __future__ import annotations

import io
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import numpy as np
import PIL.Image
import pytest
from msgspec.structs import replace

from engine.ipc import protocol as p
from engine.ipc.engine_client import EngineClient
from media.clock import Ticker
from media.formats import DOWNLINK_PACKET_SAMPLES
from server.config import Config, DataConfig, RecordingsConfig
from server.control import AddItem
from server.recordings import PICTURES, SEEN
from server.worker import recording
from server.worker.peer_transport import PeerTransport
from server.worker.session import CallSession
from server.worker.transport import Connection
from signaling.errors import ProtocolError
from signaling.ice import IceSettings
from signaling.session import events as ev
from signaling.session.core import Watcher
from signaling.session.items import MessageItem
from signaling.settings import SessionSettings
from tests.media.test_clock import FakeTimers
from tests.signaling.offers import CHROMIUM_OFFER, only
from tests.waiting import PATIENCE_S

TICKS = 50
SERVER_VAD = {"type": "server_vad"}


class Call:
    """A session with its offer answered, on virtual ticks; nobody connects."""

    def __init__(self, offer: str, config: Config | None = None) -> None:
        self.timers = FakeTimers()
        links = cast("Any", None)
        self.offer = offer
        self.session = CallSession("rtc_test", SessionSettings(), config or Config(), links)
        self.peer = PeerTransport(
            self.session,
            Config(),
            IceSettings(loopback="only"),
            Ticker(phases=1, timers=self.timers),
            ThreadPoolExecutor(1),
            lambda: None,
        )

    def answer_in_sound(self, seconds: int) -> None:
        """What an engine says that answers at once and whole."""
        hear = self.session.conversation.hear
        hear(p.ResponseStarted("rtc_test", 1, "request"))
        hear(p.TextOut("rtc_test", 1, 0, "Hello."))
        hear(p.AudioOut("rtc_test", 1, 0, bytes(2 * p.OUTPUT_HZ * seconds)))
        hear(p.ResponseDone("rtc_test", 1, "completed"))

    def tick(self, count: int) -> None:
        self.timers.run_to(self.timers.now + count * 0.02 + 0.001)

    @property
    def taken_packets(self) -> float:
        return self.peer._playout.taken_samples / DOWNLINK_PACKET_SAMPLES


def with_audio(direction: str) -> str:
    audio = re.sub(r"a=sendrecv\r\n", f"a={direction}\r\n" if direction else "", only("audio"))
    return audio + only("application").split("m=", 1)[1].join(["m=", ""])


@pytest.mark.parametrize(
    ("offer", "is_listening"),
    [
        (with_audio("sendrecv"), True),
        (with_audio(""), True),
        (with_audio("recvonly"), True),
        (with_audio("sendonly"), False),
        (with_audio("inactive"), False),
        (only("video", "application"), False),
        (CHROMIUM_OFFER.replace("m=audio 9", "m=audio 0"), False),
    ],
)
async def test_one_taker_of_the_sound_whatever_the_directions(
    offer: str, is_listening: bool
) -> None:
    """A listener's sound waits for the listener; nobody's is taken at the pace of speech."""
    call = Call(offer)
    await call.peer.answer(call.offer)
    call.answer_in_sound(2)
    call.tick(TICKS)
    assert call.taken_packets == (0 if is_listening else TICKS)
    assert call.session.conversation.responses.active is not None
    call.tick(2 * TICKS)
    assert (call.session.conversation.responses.active is None) is not is_listening
    playout = [row for row in (await call.session.stats()).stats if row["type"] == "media-playout"]
    assert len(playout) == 1
    await call.session.close()


async def test_what_is_uploaded_after_the_end_is_refused_with_the_reason() -> None:
    """The front hears of the end a little later: it is no fault of the engine."""
    call = Call(CHROMIUM_OFFER)
    item = MessageItem(id="item_1", role="user")
    piece = p.ItemPiece("rtc_test", b"x", first=True, last=True)
    with pytest.raises(ProtocolError) as early:
        call.session.add_item(AddItem("rtc_test", item, piece))
    assert (early.value.status, early.value.code) == (503, "engine_unavailable")
    call.session.end("hangup")
    with pytest.raises(ProtocolError) as late:
        call.session.add_item(AddItem("rtc_test", item, piece))
    assert (late.value.status, late.value.code) == (410, "hangup")


async def test_who_is_away_in_the_queue_gives_no_slot_away_that_is_still_to_come() -> None:
    call = Call(CHROMIUM_OFFER)
    session = call.session
    session.absence.begin("vanished", most_s=0.0)
    session.slot_needed()
    assert session.slot._wishes.empty() and session.pause._has_slot
    await session.close()


async def test_a_call_has_its_share_of_all_recordings_and_is_left_before_the_disk_is_awaited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "CLOSE_S", PATIENCE_S)
    folder = DataConfig(str(tmp_path))
    engine = replace(Config().engine, count=2, slots=5)
    config = Config(data=folder, engine=engine, recordings=RecordingsConfig(True, max_mb=1000))
    session = Call(CHROMIUM_OFFER, config).session
    session._record()
    assert session._recording is not None and session._recording._max_bytes == 100_000_000
    others = Joined(tmp_path / "recordings" / "rtc_test")
    session.joined.add(cast("Connection", others))
    await session.close()
    assert others.found == [False] and others.folder.exists()


@pytest.mark.parametrize("pictures", [False, True])
async def test_pictures_are_kept_and_told_of_where_they_are_wanted_but_for_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, pictures: bool
) -> None:
    monkeypatch.setattr(recording, "CLOSE_S", PATIENCE_S)
    monkeypatch.setattr(recording, "PICTURE_EVERY_S", 0.0)
    recordings = RecordingsConfig(True, pictures=pictures)
    config = Config(data=DataConfig(str(tmp_path)), recordings=recordings)
    session = Call(CHROMIUM_OFFER, config).session
    told: list[ev.SessionEvent] = []
    session._tell_recorded(cast("Watcher", SimpleNamespace(tell=told.append)))
    session._record()
    session._tell_recorded(cast("Watcher", SimpleNamespace(tell=told.append)))
    (notice,) = told
    assert isinstance(notice, ev.Notice)
    assert notice.code == ("recorded_pictures" if pictures else "recorded")
    assert ("picture of the camera or of what you share" in notice.message) is pictures
    kept = session.input.recording
    assert kept is not None
    seen = (bytes([level]) * 12 for level in (0, 80, 160, 240))
    session.input.see(2, 2, next(seen))
    await kept._flush()
    session.pause.begin()
    session.input.see(2, 2, next(seen))
    await kept._flush()
    session.pause.end()
    session.absence.begin("vanished", None)
    session.input.see(2, 2, next(seen))
    await kept._flush()
    session.absence.end()
    session.input.see(2, 2, next(seen))
    await session.close()
    lines = tmp_path / "recordings" / "rtc_test" / SEEN
    assert lines.exists() is pictures
    if pictures:
        rows = [msgspec.json.decode(line) for line in lines.read_bytes().splitlines()]
        kept_bytes = (lines.parent / PICTURES).read_bytes()
        levels = [level_of(kept_bytes[row["start"] :][: row["size"]]) for row in rows]
        assert levels == pytest.approx([0, 240], abs=8)


def level_of(jpeg: bytes) -> int:
    with PIL.Image.open(io.BytesIO(jpeg)) as picture:
        return int(np.asarray(picture).mean())


class Joined:
    """A connection that notes whether the recording was written when it is closed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.found: list[bool] = []

    async def close(self) -> None:
        self.found.append(self.folder.exists())


async def test_what_is_set_while_the_engine_opens_reaches_it() -> None:
    call = Call(CHROMIUM_OFFER)
    line = SlowLine(call.session)
    opened = await call.session.slot._open_line(cast("EngineClient", line))
    assert cast("object", opened) is line
    assert line.modes == ["full_duplex", "turn_based"]
    await call.session.close()


async def test_what_is_set_while_the_engine_stands_still_reaches_it() -> None:
    call = Call(CHROMIUM_OFFER)
    line = SlowLine(call.session)
    await call.session.slot._open_line(cast("EngineClient", line))
    line.keeps_up = False
    call.session.conversation.update({"audio": {"input": {"turn_detection": SERVER_VAD}}})
    line.keeps_up = True
    call.session.input.hear(0, bytes(640))
    assert line.modes == ["full_duplex", "turn_based", "half_duplex"]
    await call.session.close()


class SlowLine:
    """An engine's answer to `open` that comes after the client has set something."""

    def __init__(self, session: CallSession) -> None:
        self.modes: list[p.Mode] = []
        self.keeps_up = True
        self._session = session

    async def open(self, session: str, config: p.SessionConfig, **_: object) -> SlowLine:
        self.modes.append(config.mode)
        self._session.conversation.update({"audio": {"input": {"turn_detection": None}}})
        return self

    def send(self, message: p.Message) -> bool:
        if self.keeps_up and isinstance(message, p.UpdateSession):
            self.modes.append(message.config.mode)
        return self.keeps_up
