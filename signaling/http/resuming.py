"""How clients ask for a session that outlives its connection, and come back into it. Front.

They ask with the word `new`, are given a token, and show that when they come back, in the header
`Omnicall-Resume`; or, as pages can set none for a WebSocket, in a sub-protocol. Never in an
address, which ends in logs.
"""

from aiohttp import web

from signaling.errors import ProtocolError
from signaling.http.auth import offered_protocols

HEADER = "Omnicall-Resume"
PROTOCOL_PREFIX = "omnicall-resume."
NEW = "new"
MAX_CHARS = 256


def asked(request: web.Request) -> str | None:
    """`NEW`, a token, or None where the client asks for neither. Raises ProtocolError."""
    given = request.headers.get(HEADER)
    if given is None:
        found = (p for p in offered_protocols(request) if p.startswith(PROTOCOL_PREFIX))
        given = next((p.removeprefix(PROTOCOL_PREFIX) for p in found), None)
    if given is not None and not 1 <= len(given) <= MAX_CHARS:
        told = f"{HEADER}: 1 to {MAX_CHARS} characters are expected."
        raise ProtocolError(told, param=HEADER)
    return given


def refuse(request: web.Request) -> None:
    """Raise ProtocolError (400) where a client asks for what its protocol has no word for."""
    if asked(request) is not None:
        raise ProtocolError(
            f"{HEADER}: sessions of this protocol end with their connection; only those of "
            "Realtime can be resumed.",
            code="not_supported",
            param=HEADER,
        )
