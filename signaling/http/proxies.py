"""Where a request really comes from: reverse proxies that are trusted, who is one caller. Front.

X-Forwarded-For is a convention; `Forwarded` is RFC 7239.
"""

import ipaddress
import re
from collections.abc import Iterable
from typing import Literal

from aiohttp import web

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Header = Literal["x-forwarded-for", "forwarded"]

MAX_HOPS = 16
# One parameter of a Forwarded element: a token, or a quoted string without escapes.
_PARAMETER = re.compile(r'\s*([A-Za-z]+)\s*=\s*(?:"([^"\\]*)"|([^\s";,]*))\s*(?:;|$)')


class TrustedProxies:
    """The proxies whose word on the client is taken, and the one header they write it in.

    Only that header is read: a proxy passes on what its clients put into the other one.
    """

    def __init__(self, networks: Iterable[str] = (), header: Header = "x-forwarded-for") -> None:
        """Raises ValueError for what is neither an address nor a network in CIDR notation."""
        self._networks: tuple[Network, ...] = tuple(map(ipaddress.ip_network, networks))
        self._header = header

    def trusts(self, address: str | None) -> bool:
        """Return whether the peer of a connection is one of the proxies."""
        parsed = parse_address(address or "")
        return parsed is not None and any(parsed in network for network in self._networks)

    def resolve(self, request: web.Request) -> web.Request:
        """The request as the client sent it to the outermost trusted proxy.

        The client is the last hop that is not trusted itself; what stands left of it in the
        header is the client's own invention.
        """
        if not self._networks or not self.trusts(request.remote):
            return request
        hops = _forwarded(request) if self._header == "forwarded" else _x_forwarded(request)
        remote, chosen = request.remote or "", {}
        for hop in hops[-MAX_HOPS:][::-1]:
            address = parse_address(hop.get("for", ""))
            if address is None:
                break
            remote, chosen = str(address), hop
            if not self.trusts(remote):
                break
        changes = {"remote": remote}
        if chosen.get("host"):
            changes["host"] = chosen["host"]
        if chosen.get("proto") in ("http", "https"):
            changes["scheme"] = chosen["proto"]
        return request.clone(**changes)  # type: ignore[arg-type]


def _forwarded(request: web.Request) -> list[dict[str, str]]:
    elements = ",".join(request.headers.getall("Forwarded", [])).split(",")
    return [
        {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(element)}
        for element in elements
        if element.strip()
    ]


def _x_forwarded(request: web.Request) -> list[dict[str, str]]:
    addresses = ",".join(request.headers.getall("X-Forwarded-For", [])).split(",")
    # Proxies set these two instead of appending to them; of several the last is the nearest's.
    host = request.headers.get("X-Forwarded-Host", "").split(",")[-1].strip()
    proto = request.headers.get("X-Forwarded-Proto", "").split(",")[-1].strip().lower()
    return [{"for": a.strip(), "host": host, "proto": proto} for a in addresses if a.strip()]


def parse_address(text: str) -> Address | None:
    """An address as proxies and sockets write it: with a port, in brackets, IPv4 within IPv6."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def neighbourhood(address: str | None) -> str:
    """Return what counts as one caller: an IPv4 address, or the /64 of an IPv6 subscriber."""
    parsed = parse_address(address or "")
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed) if parsed is not None else address or ""
