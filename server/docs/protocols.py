"""The event catalogue: what each protocol's client and server say to each other. Front."""

from __future__ import annotations

import functools
import typing
from collections.abc import Iterable
from typing import Any, NamedTuple

from server.docs.examples import example_of
from server.docs.fields import nested, text_of
from signaling.live import client_events as live_client
from signaling.live import server_events as live_server
from signaling.live.session_config import CalledConfig, LiveConfig, LiveUpdate
from signaling.openbmb import client_messages as openbmb_client
from signaling.openbmb import server_messages as openbmb_server
from signaling.realtime import client_events as realtime_client
from signaling.realtime import server_events as realtime_server
from signaling.realtime.extension_events import EXTENSIONS
from signaling.settings import SessionSettings


class EventDoc(NamedTuple):
    """One message."""

    name: str
    """Its type on the wire."""
    struct: type[Any]
    text: str
    example: dict[str, Any]
    is_extension: bool


class ProtocolDoc(NamedTuple):
    """A protocol, and all its messages."""

    key: str
    """Short; begins its anchors."""
    title: str
    text: str
    client: tuple[EventDoc, ...]
    server: tuple[EventDoc, ...]
    objects: tuple[type[Any], ...]
    """What occurs in the messages."""


def _client(structs: dict[str, type[Any]]) -> tuple[EventDoc, ...]:
    return tuple(
        EventDoc(name, struct, text_of(struct), example_of(struct, name), False)
        for name, struct in structs.items()
    )


def _server(
    structs: Iterable[type[Any]], extensions: tuple[type[Any], ...] = ()
) -> tuple[EventDoc, ...]:
    return tuple(
        EventDoc(
            str(struct.__struct_config__.tag),
            struct,
            text_of(struct),
            example_of(struct),
            struct in extensions,
        )
        for struct in structs
    )


def _leaves(base: type[Any]) -> list[type[Any]]:
    """The events that are sent, of those that share a base, in the order of the source."""
    below = base.__subclasses__()
    found = [struct for inner in below for struct in _leaves(inner)]
    return found or [base]


def _protocol(
    key: str,
    title: str,
    text: str,
    client: tuple[EventDoc, ...],
    server: tuple[EventDoc, ...],
    roots: tuple[type[Any], ...] = (),
) -> ProtocolDoc:
    events = [event.struct for event in (*client, *server)]
    inner = nested([*events, *roots])
    return ProtocolDoc(key, title, text, client, server, (*roots, *inner))


@functools.cache
def protocols() -> tuple[ProtocolDoc, ...]:
    """The protocols with messages, from the structs that speak them."""
    return (
        _protocol(
            "realtime",
            "OpenAI Realtime",
            "Over WebRTC the events travel on the data channel, over a WebSocket with the sound. "
            "Extensions are told to connections over WebRTC, and to WebSockets that ask for them "
            "with extensions=true.",
            _client(realtime_client.CLIENT_EVENTS),
            _server(_leaves(realtime_server.ServerEvent), EXTENSIONS),
            (SessionSettings,),
        ),
        _protocol(
            "live",
            "OpenAI Live",
            "Full duplex: the model decides when to speak. Unknown members are refused.",
            _client(live_client.CLIENT_EVENTS),
            _server(typing.get_args(live_server.LiveServerEvent)),
            (LiveConfig, CalledConfig, LiveUpdate),
        ),
        _protocol(
            "openbmb",
            "openbmb-realtime",
            "The protocol of the model team's own client, where the sub-protocol map.realtime is "
            "offered or the query has a mode. To its client every error is the end.",
            _client(openbmb_client.CLIENT_MESSAGES),
            _server(
                typing.get_args(openbmb_server.OpenBmbServerMessage),
                (openbmb_server.DuplexWarning,),
            ),
        ),
    )
