"""A self-signed certificate for this host's names and addresses, kept between runs."""

from __future__ import annotations

import datetime
import ipaddress
import os
import socket
from pathlib import Path
from typing import NamedTuple

import ifaddr
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LIFETIME_DAYS = 397
RENEW_DAYS = 14


class Certificate(NamedTuple):
    """Paths of PEM files."""

    cert: Path
    key: Path
    is_new: bool


def host_names(host: str) -> tuple[set[str], set[str]]:
    """The DNS names and IP addresses by which this machine may be called."""
    names = {"localhost", socket.gethostname()}
    addresses = {"127.0.0.1", "::1"}
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            # IPv6 entries are (address, flow info, scope).
            addresses.add(entry.ip if isinstance(entry.ip, str) else entry.ip[0])
    try:
        if not ipaddress.ip_address(host).is_unspecified:
            addresses.add(host)
    except ValueError:
        names.add(host)
    return {name for name in names if name}, addresses


def ensure(folder: Path, host: str, *, now: datetime.datetime | None = None) -> Certificate:
    """The kept certificate of `folder` if it still fits this host, else a new one.

    Raises `OSError` when the folder cannot be written.
    """
    now = now or datetime.datetime.now(datetime.UTC)
    cert, key = folder / "omnicall.crt", folder / "omnicall.key"
    names, addresses = host_names(host)
    if cert.is_file() and key.is_file() and _fits(cert, names, addresses, now):
        os.chmod(key, 0o600)
        return Certificate(cert, key, False)
    folder.mkdir(parents=True, exist_ok=True)
    private = ec.generate_private_key(ec.SECP256R1())
    _write(key, _key_pem(private), 0o600)
    _write(cert, _signed(private, names, addresses, now), 0o644)
    return Certificate(cert, key, True)


def fingerprint(cert: Path) -> str:
    """SHA-256 of the certificate, as browsers show it."""
    loaded = x509.load_pem_x509_certificate(cert.read_bytes())
    return loaded.fingerprint(hashes.SHA256()).hex(":").upper()


def _fits(cert: Path, names: set[str], addresses: set[str], now: datetime.datetime) -> bool:
    try:
        loaded = x509.load_pem_x509_certificate(cert.read_bytes())
        san = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return False
    known_addresses = {str(ip) for ip in san.get_values_for_type(x509.IPAddress)}
    return (
        names <= set(san.get_values_for_type(x509.DNSName))
        and {str(ipaddress.ip_address(ip)) for ip in addresses} <= known_addresses
        and loaded.not_valid_after_utc - now > datetime.timedelta(days=RENEW_DAYS)
    )


def _key_pem(private: ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def _signed(
    private: ec.EllipticCurvePrivateKey,
    names: set[str],
    addresses: set[str],
    now: datetime.datetime,
) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "omnicall")])
    alternatives: list[x509.GeneralName] = [x509.DNSName(name) for name in sorted(names)]
    alternatives += [x509.IPAddress(ipaddress.ip_address(ip)) for ip in sorted(addresses)]
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=LIFETIME_DAYS))
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    return builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _write(path: Path, content: bytes, mode: int) -> None:
    # Created with its final mode and renamed into place: never readable by others, never half.
    temporary = path.with_suffix(path.suffix + ".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
    temporary.replace(path)
