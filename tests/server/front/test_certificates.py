"""Certificates: right names, kept while they fit, private."""

from __future__ import annotations

import datetime
import ipaddress
import os
import ssl
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from server.front.certificates import LIFETIME_DAYS, RENEW_DAYS, ensure, fingerprint, host_names

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


@pytest.fixture(autouse=True)
def addresses(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The addresses that the machine has, as far as the test is concerned."""
    own = {"127.0.0.1", "192.0.2.7", "fe80::1"}

    class Address:
        def __init__(self, ip: str) -> None:
            self.ip = (ip, 0, 2) if ":" in ip else ip

    class Adapter:
        @property
        def ips(self) -> list[Address]:
            return [Address(ip) for ip in sorted(own)]

    monkeypatch.setattr("server.front.certificates.ifaddr.get_adapters", lambda: [Adapter()])
    monkeypatch.setattr("server.front.certificates.socket.gethostname", lambda: "box")
    return own


def names_of(path: Path) -> tuple[set[str], set[str]]:
    cert = x509.load_pem_x509_certificate(path.read_bytes())
    san = cert.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    ips = {str(ip) for ip in san.get_values_for_type(x509.IPAddress)}
    return set(san.get_values_for_type(x509.DNSName)), ips


def test_certificate_names_the_host_and_every_address(tmp_path: Path) -> None:
    made = ensure(tmp_path, "call.example", now=NOW)
    assert made.is_new
    names, ips = names_of(made.cert)
    assert names == {"localhost", "box", "call.example"}
    assert ips == {"127.0.0.1", "::1", "192.0.2.7", "fe80::1"}


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
def test_listening_everywhere_names_no_such_address(host: str) -> None:
    names, ips = host_names(host)
    assert names == {"localhost", "box"} and host not in ips


def test_address_given_as_host_is_an_address_and_not_a_name() -> None:
    names, ips = host_names("198.51.100.3")
    assert "198.51.100.3" in ips and "198.51.100.3" not in names


def test_certificate_serves_tls_with_its_key_and_is_no_authority(tmp_path: Path) -> None:
    made = ensure(tmp_path, "call.example")
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(made.cert, made.key)
    cert = x509.load_pem_x509_certificate(made.cert.read_bytes())
    constraints = cert.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical and not constraints.value.ca
    # Browsers refuse more than 398 days.
    assert cert.not_valid_after_utc - cert.not_valid_before_utc < datetime.timedelta(days=398)


def test_certificate_is_kept_between_runs(tmp_path: Path) -> None:
    first = ensure(tmp_path, "call.example", now=NOW)
    content = first.cert.read_bytes(), first.key.read_bytes()
    again = ensure(tmp_path, "call.example", now=NOW + datetime.timedelta(days=300))
    assert not again.is_new and (again.cert, again.key) == (first.cert, first.key)
    assert (again.cert.read_bytes(), again.key.read_bytes()) == content
    assert sorted(p.name for p in tmp_path.iterdir()) == ["omnicall.crt", "omnicall.key"]


def test_certificate_is_kept_when_an_address_goes_away(tmp_path: Path, addresses: set[str]) -> None:
    ensure(tmp_path, "call.example", now=NOW)
    addresses.remove("192.0.2.7")
    assert not ensure(tmp_path, "call.example", now=NOW).is_new


def test_another_host_or_a_new_address_needs_a_new_certificate(
    tmp_path: Path, addresses: set[str]
) -> None:
    ensure(tmp_path, "call.example", now=NOW)
    assert ensure(tmp_path, "other.example", now=NOW).is_new
    addresses.add("203.0.113.9")
    assert ensure(tmp_path, "other.example", now=NOW).is_new
    assert not ensure(tmp_path, "other.example", now=NOW).is_new


def test_certificate_is_renewed_before_it_expires(tmp_path: Path) -> None:
    ensure(tmp_path, "h.example", now=NOW)
    last_good = NOW + datetime.timedelta(days=LIFETIME_DAYS - RENEW_DAYS, seconds=-1)
    assert not ensure(tmp_path, "h.example", now=last_good).is_new
    assert ensure(tmp_path, "h.example", now=last_good + datetime.timedelta(seconds=1)).is_new


@pytest.mark.parametrize("broken", ["omnicall.crt", "omnicall.key"])
def test_missing_half_makes_a_new_pair(tmp_path: Path, broken: str) -> None:
    ensure(tmp_path, "h.example", now=NOW)
    (tmp_path / broken).unlink()
    made = ensure(tmp_path, "h.example", now=NOW)
    assert made.is_new
    key = load_pem_private_key(made.key.read_bytes(), None)
    cert = x509.load_pem_x509_certificate(made.cert.read_bytes())
    assert key.public_key() == cert.public_key()


def test_certificate_that_cannot_be_read_is_replaced(tmp_path: Path) -> None:
    ensure(tmp_path, "h.example", now=NOW)
    (tmp_path / "omnicall.crt").write_text("not a certificate")
    assert ensure(tmp_path, "h.example", now=NOW).is_new


def test_private_key_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        made = ensure(tmp_path, "h.example", now=NOW)
    finally:
        os.umask(old)
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.cert.stat().st_mode) == 0o644


def test_loosened_mode_of_a_kept_key_is_tightened(tmp_path: Path) -> None:
    made = ensure(tmp_path, "h.example", now=NOW)
    made.key.chmod(0o644)
    assert not ensure(tmp_path, "h.example", now=NOW).is_new
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600


def test_folder_is_made_and_one_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    assert ensure(tmp_path / "a" / "b", "h.example", now=NOW).cert.is_file()
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        ensure(tmp_path / "file", "h.example", now=NOW)


def test_fingerprint_is_as_browsers_show_it(tmp_path: Path) -> None:
    parts = fingerprint(ensure(tmp_path, "h.example", now=NOW).cert).split(":")
    assert len(parts) == 32 and all(len(part) == 2 and part == part.upper() for part in parts)


def test_the_machine_as_it_is_gets_a_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    made = ensure(tmp_path, "127.0.0.1")
    assert "127.0.0.1" in names_of(made.cert)[1]
    assert not ensure(tmp_path, "127.0.0.1").is_new
    assert all(ipaddress.ip_address(ip) for ip in names_of(made.cert)[1])
