"""OpenAI's own types of what a server sends, to validate with: built once each, and when used.

To build one takes longer than most tests, and every process of a run collects all of them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import TypeAdapter


@cache
def realtime_events() -> TypeAdapter[Any]:
    from openai.types.realtime import RealtimeServerEvent

    return TypeAdapter(RealtimeServerEvent)


@cache
def live_events() -> TypeAdapter[Any]:
    from openai.types.live import ConnectServerEvent

    return TypeAdapter(ConnectServerEvent)


@cache
def stream_events() -> TypeAdapter[Any]:
    """What a streamed answer of the Responses API consists of."""
    from openai.types.responses import ResponseStreamEvent

    return TypeAdapter(ResponseStreamEvent)
