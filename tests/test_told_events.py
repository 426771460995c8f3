"""What a server under test sends is written down and held against its types."""

from __future__ import annotations

import gc
import json
from importlib import import_module
from importlib.util import module_from_spec
from pathlib import Path
from typing import Any

import pytest

from signaling.errors import ProtocolError
from tests.told import sitecustomize
from tests.told_events import ToldEvents

EVENT = {"type": "input_audio_buffer.cleared", "event_id": "event_1"}
WARNING = {"type": "session.warning", "event_id": "event_2", "code": "c", "message": "m"}


def lines(told: ToldEvents, *lines: str) -> None:
    (Path(told.environment["TOLD_EVENTS_FOLDER"]) / "1").write_text("".join(lines))


def line(door: str, event: dict[str, Any]) -> str:
    return f"{door}\t{json.dumps(event)}\n"


def test_what_was_told_is_counted_but_for_what_a_death_cut_off() -> None:
    told = ToldEvents()
    lines(told, line("RealtimeDoor", EVENT), line("RealtimeDoor", WARNING), "RealtimeDoor\t{")
    assert told.check() == 2
    assert told.check() == 0


def test_what_nobody_asks_for_is_not_left_behind() -> None:
    told = ToldEvents()
    lines(told, line("RealtimeDoor", EVENT))
    folder = Path(told.environment["TOLD_EVENTS_FOLDER"])
    assert folder.exists()
    del told
    gc.collect()
    assert not folder.exists()


@pytest.mark.parametrize(
    ("door", "event"),
    [
        ("RealtimeDoor", {**EVENT, "surplus": 1}),
        ("RealtimeDoor", {"type": EVENT["type"]}),
        ("RealtimeDoor alone", WARNING),
        ("LiveConnection", WARNING),
        ("LiveConnection", {"type": "session.usage.updated", "event_id": "event_3"}),
    ],
)
def test_event_that_is_none_is_a_fault(door: str, event: dict[str, Any]) -> None:
    told = ToldEvents()
    lines(told, line("RealtimeDoor", EVENT), line(door, event))
    with pytest.raises(AssertionError, match=f"(?s)1 events were none.*{event['type']}"):
        told.check()


def test_doors_of_a_server_write_down_what_they_send(monkeypatch: pytest.MonkeyPatch) -> None:
    told = ToldEvents()
    monkeypatch.setattr(sitecustomize, "FOLDER", told.environment["TOLD_EVENTS_FOLDER"])
    sitecustomize.written.cache_clear()
    sent: list[str] = []
    for name, door in sitecustomize.DOORS.items():
        package = import_module(name.rpartition(".")[0])
        spec = sitecustomize.DoorFinder.find_spec(name, package.__path__)
        assert spec is not None and spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        more = ("websocket",) if door == "LiveConnection" else ()
        getattr(module, door)(None, sent.append, *more).refuse(ProtocolError("no"))
    assert told.check() == len(sent) == 2
