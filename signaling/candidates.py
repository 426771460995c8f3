"""Which candidates of an offer are tried (RFC 8839 section 5.1). Pure functions."""

import ipaddress

TYPES = frozenset({"host", "srflx", "prflx", "relay"})
MAX_PORT = 65_535
MAX_PRIORITY = 2**32 - 1


def read(line: str) -> str | None:
    """Return the parts of a candidate that count, in the order of RFC 8839 section 5.1.

    None for one that cannot be used.
    """
    line = line.lower()
    if not is_usable(line):
        return None
    foundation, component, protocol, priority, address, port, _, kind = line.split()[:8]
    where = f"{ipaddress.ip_address(address)} {int(port)}"
    return f"{foundation[:32]} {component} {protocol} {int(priority)} {where} typ {kind}"


def is_usable(line: str) -> bool:
    """Return whether an `a=candidate:` line names a UDP address that a check can be sent to.

    Not usable are host names (resolving a `.local` one takes up to a second and needs multicast;
    the client's own checks make its address known in any case), zones, and addresses that are
    no single host's.
    """
    fields = line.split()
    if len(fields) < 8 or fields[1] != "1" or fields[2].lower() != "udp":
        return False
    _, _, _, priority, address, port, _, kind = fields[:8]
    is_number = _is_number(port, MAX_PORT) and _is_number(priority, MAX_PRIORITY)
    return is_number and kind in TYPES and _is_host(address)


def _is_number(text: str, largest: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) <= largest


def _is_host(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    is_several = address.is_multicast or address.is_unspecified or text == "255.255.255.255"
    return not is_several and "%" not in text
