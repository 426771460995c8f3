"""How a WebSocket of MiniCPM-o's own client protocol is told from others of its path. Front."""

from typing import Any

from aiohttp import web

from signaling.errors import ProtocolError
from signaling.http.auth import offered_protocols

PROTOCOL = "map.realtime"
MODES = ("audio", "video")


def speaks_openbmb(request: web.Request) -> bool:
    """Whether a client asks for it by its sub-protocol, or by a mode."""
    return PROTOCOL in offered_protocols(request) or "mode" in request.query


def wanted_of(request: web.Request) -> dict[str, Any]:
    """The settings that the query names, as a partial session object: full duplex in any case."""
    mode = request.query.get("mode", "video")
    if mode not in MODES:
        allowed = ", ".join(MODES)
        raise ProtocolError(f"mode: {mode[:80]!r} is not known; allowed: {allowed}.", param="mode")
    wanted: dict[str, Any] = {
        "audio": {"input": {"turn_detection": {"type": "semantic_vad"}}},
        "video": {"enabled": mode == "video"},
    }
    if model := request.query.get("model"):
        wanted["model"] = model[:256]
    return wanted
