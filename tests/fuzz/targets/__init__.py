"""The targets by name. A new door is a new class here: a `WebSocket` one, when there is one."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.fuzz.target import Target
from tests.fuzz.targets.datagrams import ClientDatagrams, StrangerDatagrams
from tests.fuzz.targets.decoders import Files, Payloads
from tests.fuzz.targets.events import Events
from tests.fuzz.targets.http import Items, Multiparts, Offers
from tests.fuzz.targets.links import Links

TARGETS: dict[str, Callable[[], Target]] = {
    "offers": Offers,
    "multiparts": Multiparts,
    "items": Items,
    "events": Events,
    "events:echo": partial(Events, "echo"),
    "events:minicpmo": partial(Events, "minicpmo"),
    "zmq": Links,
    "udp-stranger": StrangerDatagrams,
    "udp-client": ClientDatagrams,
    "payloads": Payloads,
    "files": Files,
}
