"""A Live door on a core that notes what is asked of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from signaling.errors import ProtocolError
from signaling.live.config_reading import read_config, read_media_config
from signaling.live.connection import Kind, LiveConnection
from signaling.live.door import LiveDoor
from signaling.session import events as ev
from signaling.session.core import Abilities, Asker, ContextKind, ResponseWish
from signaling.session.items import InputItem, Item
from signaling.settings import SessionSettings
from tests.openai_types import live_events

ABLE = Abilities(
    appends=("instructions", "thinking", "commentary"),
    delegates=True,
    transcribes=True,
    voices=("ann",),
)


class NotedCore:
    """Implements `SessionCore`; `asked` holds the commands in order."""

    session_id = "live_1"

    def __init__(self, abilities: Abilities = ABLE) -> None:
        self.settings = SessionSettings()
        self.abilities: Abilities | None = abilities
        self.asked: list[tuple[Any, ...]] = []
        self.askers: list[Asker | None] = []
        self.is_busy = False

    def update(self, changes: Mapping[str, Any], by: Asker | None = None) -> None:
        self.asked.append(("update", dict(changes)))

    def add_item(self, item: InputItem, after: str | None = None) -> str:
        self.asked.append(("item", item))
        return "item_new"

    def item(self, item_id: str) -> Item:
        raise ProtocolError("none")

    def delete_item(self, item_id: str) -> None: ...

    def truncate_item(self, item_id: str, end_ms: int) -> None: ...

    def create_response(self, wish: ResponseWish, by: Asker | None = None) -> None:
        if self.is_busy:
            raise ProtocolError("Conversation already has an active response in progress.")
        self.asked.append(("respond", wish))

    def cancel_response(self, response_id: str | None = None) -> None: ...

    def clear_output(self) -> None:
        self.asked.append(("clear",))

    def commit_input(self, by: Asker | None = None) -> None: ...

    def clear_input(self) -> None: ...

    def append_context(
        self,
        kind: ContextKind,
        text: str,
        delegation: str | None = None,
        by: Asker | None = None,
    ) -> None:
        self.asked.append((kind, text, delegation))
        self.askers.append(by)

    def force_listen(self, is_on: bool, by: Asker | None = None) -> None:
        self.asked.append(("listen", is_on))

    def pause(self, by: Asker | None = None) -> None:
        self.asked.append(("pause",))

    def resume(self, by: Asker | None = None) -> None:
        self.asked.append(("resume",))

    def mute(self, is_muted: bool, by: Asker | None = None) -> None:
        assert by is not None
        by.watcher.tell(ev.InputMuted(is_muted=is_muted), by.event_id)

    def report(self, figures: Any) -> None:
        self.asked.append(("report", figures))

    def hang_up(self, reason: str = "hangup") -> None:
        self.asked.append(("hang up", reason))


class DoorRig:
    """A door with one connection, a clock and a timeline; every event sent is validated."""

    def __init__(
        self,
        session: dict[str, Any] | None = None,
        *,
        kind: Kind = "websocket",
        abilities: Abilities = ABLE,
        delegate_when_said: tuple[str, ...] = (),
    ) -> None:
        self.now = 100.0
        self.timeline_ms = 0
        self.paused: list[bool] = []
        self.fixtures: list[bytes] = []
        self.core = NotedCore(abilities)
        read = read_config if kind == "websocket" else read_media_config
        self.door = LiveDoor(
            self.core,
            read({"model": "m", **(session or {})}),
            timeline_ms=lambda: self.timeline_ms,
            play=lambda pcm: not self.fixtures.append(pcm),  # type: ignore[func-returns-value]
            on_pause=self.paused.append,
            delegate_when_said=delegate_when_said,
            start_event_id="start-1",
            clock=lambda: self.now,
        )
        self.sent: list[dict[str, Any]] = []
        self.primary = LiveConnection(
            self.door, lambda text: note(self.sent, text), kind, rights=self.door.config.rights
        )
        self.door.attach(self.primary)

    def start(self) -> DoorRig:
        self.door.tell(self.ready)
        return self

    @property
    def ready(self) -> ev.SessionReady:
        return ev.SessionReady(session_id="live_1", settings=self.core.settings, expires_at=1_900)

    def sideband(self, *, wants_audio: bool = True) -> tuple[LiveConnection, list[dict[str, Any]]]:
        sent: list[dict[str, Any]] = []
        connection = LiveConnection(
            self.door, lambda text: note(sent, text), "sideband", wants_audio=wants_audio
        )
        self.door.attach(connection)
        return connection, sent

    def say(self, type: str, **fields: Any) -> None:
        self.primary.receive(json.dumps({"type": type, **fields}))

    def take(self) -> list[dict[str, Any]]:
        """What was sent since the last time."""
        sent, self.sent[:] = list(self.sent), []
        return sent

    def types(self) -> list[str]:
        return [event["type"] for event in self.take()]

    def after(self, seconds: float) -> None:
        """Let time pass in steps of 100 ms."""
        for _ in range(round(seconds * 10)):
            self.now += 0.1
            self.door.tick()


def note(sent: list[dict[str, Any]], text: str) -> None:
    event = json.loads(text)
    live_events().validate_python(event)
    sent.append(event)
