"""Call an omnicall server from Python.

    async with omnicall.client.call("http://localhost:8006") as call:
        print((await call.ask("What time is it?")).text)

Versions follow semver.org: from 1.0 on, what this module exports changes incompatibly in major
versions only; before that in minor ones.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from typing import Any

from omnicall.client.call import TURN_DETECTION, Call, Mode, Transport
from omnicall.client.captions import Caption
from omnicall.client.carrier import MakeCarrier
from omnicall.client.errors import (
    CallOver,
    ClientError,
    Declined,
    NoConnection,
    RequestFailed,
)
from omnicall.client.replies import Reply

__all__ = [
    "Call",
    "CallOver",
    "Declined",
    "Caption",
    "ClientError",
    "NoConnection",
    "Reply",
    "RequestFailed",
    "Transport",
    "call",
]
__version__ = "0.2.0"


def call(
    url: str,
    *,
    key: str | None = None,
    mode: Mode | None = None,
    tools: Sequence[Callable[..., Any]] = (),
    session: dict[str, Any] | None = None,
    transport: Transport | MakeCarrier = "webrtc",
    model: str = "omnicall",
    wait_s: float | None = 60.0,
    tls: ssl.SSLContext | None = None,
    reconnect: bool = True,
) -> Call:
    """A call, to be entered with `async with`, which returns when the session is served.

    `session` are settings as of `session.update`; of `tools` each is a function with annotations
    and a docstring; `transport` is one of these names, or makes carriers of your own
    (`omnicall.client.carrier`); `wait_s` bounds the wait for a free engine, None waits on; `tls`
    trusts certificates that the system does not; with `reconnect` a conversation goes on over
    another connection when its own is lost, and what is sent meanwhile waits. Entering raises
    `Declined`, `RequestFailed` (of settings), `NoConnection`, `CallOver`.
    """
    settings = dict(session or {})
    if mode is not None:
        audio = dict(settings.get("audio", {}))
        audio["input"] = {**audio.get("input", {}), "turn_detection": TURN_DETECTION[mode]}
        settings["audio"] = audio
    return Call(
        url,
        key=key,
        transport=transport,
        model=model,
        session=settings,
        tools=tools,
        wait_s=wait_s,
        tls=tls,
        reconnect=reconnect,
    )
