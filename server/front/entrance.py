"""Where callers come in: the listening socket, its certificate and the address of the page."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

from server.config import Config
from server.front import certificates
from server.front.supervisor import ROOT

BACKLOG = 1024


class StartError(Exception):
    """The server cannot start; the text is one line for people."""


def listen(host: str, port: int) -> socket.socket:
    """A bound, listening socket; `StartError` if the address is taken or not ours."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        # Python adds the address to some of these texts.
        reason = str(error.strerror or error).partition(" (")[0]
        raise StartError(
            f"cannot listen on {host} port {port}: {reason} (choose another with --port)"
        ) from None


def data_folder(config: Config) -> Path:
    """`data.dir`, else the user's own; nothing is made before something is kept."""
    if config.data.dir:
        return Path(config.data.dir)
    base = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(base) / "omnicall"


def certificate_folder(config: Config) -> Path:
    """`tls.dir`, else certs/ of a checkout, else the user's data folder."""
    if config.tls.dir:
        return Path(config.tls.dir)
    if (ROOT / "certs" / "README.md").is_file() and os.access(ROOT / "certs", os.W_OK):
        return ROOT / "certs"
    return data_folder(config) / "certs"


def tls_context(config: Config, show: Callable[[str], None]) -> ssl.SSLContext | None:
    """None when the configuration asks for plain HTTP."""
    if not config.uses_tls:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        if config.tls.cert:
            context.load_cert_chain(config.tls.cert, config.tls.key)
            return context
        made = certificates.ensure(certificate_folder(config), config.server.host)
        context.load_cert_chain(made.cert, made.key)
    except (OSError, ssl.SSLError) as error:
        raise StartError(f"cannot use the TLS certificate: {error}") from None
    show(f"{'made' if made.is_new else 'using'} the self-signed certificate {made.cert}")
    show(f"its SHA-256 fingerprint is {certificates.fingerprint(made.cert)}")
    return context


def url(config: Config, port: int, key: str) -> str:
    """Return the address to open in a browser."""
    scheme = "https" if config.uses_tls else "http"
    host = config.server.host
    if host in ("127.0.0.1", "::1"):
        host = "localhost"
    elif host in ("0.0.0.0", "::", ""):
        _, addresses = certificates.host_names("")
        outward = sorted(a for a in addresses if ":" not in a and not a.startswith("127."))
        host = outward[0] if outward else "localhost"
    elif ":" in host:
        host = f"[{host}]"
    return f"{scheme}://{host}:{port}/" + (f"?key={key}" if key else "")
