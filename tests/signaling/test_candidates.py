"""Candidates that no check can be sent to do no harm."""

import pytest

from signaling.candidates import is_usable


@pytest.mark.parametrize("address", ["192.0.2.1", "127.0.0.1", "2001:db8::1", "fe80::1"])
@pytest.mark.parametrize("kind", ["host", "srflx", "prflx", "relay"])
def test_addresses_are_usable(address: str, kind: str) -> None:
    assert is_usable(f"a=candidate:1 1 UDP 2113937151 {address} 65535 typ {kind} generation 0")


@pytest.mark.parametrize(
    "rest",
    [
        "1 udp 1 192.0.2.1 70000 typ host",
        "1 udp 1 192.0.2.1 0 typ host",
        "1 udp 1 192.0.2.1 -1 typ host",
        "1 udp 1 192.0.2.1 5\u0665 typ host",
        "1 udp 1 999.1.1.1 5000 typ host",
        "1 udp 1 phone.lan 5000 typ host",
        "1 udp 1 0a1b.local 5000 typ host",
        "1 udp 1 fe80::1%en0 5000 typ host",
        "1 udp 1 224.0.0.1 5000 typ host",
        "1 udp 1 ff02::1 5000 typ host",
        "1 udp 1 0.0.0.0 5000 typ host",
        "1 udp 1 255.255.255.255 5000 typ host",
        "1 udp 1 192.0.2.1 5000 typ foo",
        "1 udp 99999999999999 192.0.2.1 5000 typ host",
        "1 udp x 192.0.2.1 5000 typ host",
        "2 udp 1 192.0.2.1 5000 typ host",
        "1 tcp 1 192.0.2.1 5000 typ host",
        "1 udp 1 192.0.2.1",
        "",
    ],
)
def test_others_are_not(rest: str) -> None:
    assert not is_usable(f"a=candidate:9 {rest}")
