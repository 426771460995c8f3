"""The targets by name. A new door is a new class here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from tests.fuzz.target import Target
from tests.fuzz.targets.bodies import Chats, LiveOffers, Recordings, Speeches
from tests.fuzz.targets.datagrams import ClientDatagrams, StrangerDatagrams
from tests.fuzz.targets.decoders import Files, Payloads
from tests.fuzz.targets.events import Events
from tests.fuzz.targets.frames import Frames
from tests.fuzz.targets.http import Items, Multiparts, Offers
from tests.fuzz.targets.links import Links
from tests.fuzz.targets.streams import LIVE, OPENBMB, REALTIME, JoinedMessages, Messages
from tests.fuzz.targets.voices import Voices
from tests.fuzz.targets.whip import Whip

TARGETS: dict[str, Callable[[], Target]] = {
    "offers": Offers,
    "multiparts": Multiparts,
    "items": Items,
    "whip": Whip,
    "live-offers": LiveOffers,
    "chats": Chats,
    "speeches": Speeches,
    "recordings": Recordings,
    "voices": Voices,
    "events": Events,
    "events:echo": partial(Events, "echo"),
    "events:minicpmo": partial(Events, "minicpmo"),
    "ws-frames": Frames,
    "ws-realtime": partial(Messages, REALTIME),
    "ws-realtime-joined": partial(
        JoinedMessages, REALTIME, "/v1/realtime?call_id={}&extensions=true"
    ),
    "ws-live": partial(Messages, LIVE),
    "ws-live-joined": partial(JoinedMessages, LIVE, "/v1/live/sessions/{}/attach"),
    "ws-openbmb": partial(Messages, OPENBMB),
    "zmq": Links,
    "udp-stranger": StrangerDatagrams,
    "udp-client": ClientDatagrams,
    "payloads": Payloads,
    "files": Files,
}
