"""The configuration tree: every field is described, bounded and good by default."""

from __future__ import annotations

import msgspec
import pytest

from engine.ipc.protocol import MAX_IMAGE_BYTES
from server.config import SECRETS, AuthConfig, Config, MediaConfig, ServerConfig, TlsConfig
from server.config_loader import FIELDS


@pytest.mark.parametrize("path", FIELDS)
def test_field_is_described_and_its_default_is_within_its_bounds(path: str) -> None:
    field = FIELDS[path]
    assert len(field.description) >= 10 and field.description.endswith(".")
    assert msgspec.convert(field.default, field.annotation) == field.default


@pytest.mark.parametrize("path", FIELDS)
def test_number_has_both_bounds(path: str) -> None:
    kind = FIELDS[path].type
    if isinstance(kind, msgspec.inspect.IntType | msgspec.inspect.FloatType):
        assert kind.ge is not None or kind.gt is not None
        assert kind.le is not None


def test_secrets_are_fields_and_every_field_that_says_so_is_one() -> None:
    assert SECRETS <= set(FIELDS)
    assert {path for path, f in FIELDS.items() if "secret" in f.description.lower()} == SECRETS


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("localhost", True),
        ("::1", True),
        ("0.0.0.0", False),
        ("::", False),
        ("", False),
        ("192.168.1.5", False),
        ("localhost.example", False),
    ],
)
def test_key_and_tls_are_on_exactly_off_loopback(host: str, is_loopback: bool) -> None:
    config = Config(server=ServerConfig(host=host))
    assert config.on_loopback == is_loopback
    assert config.uses_tls != is_loopback and config.needs_key != is_loopback


@pytest.mark.parametrize(("mode", "uses_tls"), [("on", True), ("off", False)])
@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_tls_may_be_chosen(host: str, mode: str, uses_tls: bool) -> None:
    tls = msgspec.convert({"mode": mode}, TlsConfig)
    assert Config(server=ServerConfig(host=host), tls=tls).uses_tls == uses_tls


def test_configured_key_is_needed_on_loopback_too() -> None:
    assert Config(auth=AuthConfig(key="0123456789abcdef")).needs_key


def test_behind_a_proxy_a_key_is_needed() -> None:
    assert Config(server=ServerConfig(trusted_proxies=("127.0.0.1",))).needs_key


def test_largest_picture_that_may_be_configured_fits_a_message() -> None:
    kind = msgspec.inspect.type_info(MediaConfig)
    assert isinstance(kind, msgspec.inspect.StructType)
    side = FIELDS["media.video_side"].type
    assert isinstance(side, msgspec.inspect.IntType) and side.le is not None
    assert side.le * side.le * 3 <= MAX_IMAGE_BYTES


def test_tree_is_frozen_and_travels_as_json() -> None:
    config = Config()
    with pytest.raises(AttributeError):
        config.server.port = 1  # type: ignore[misc]
    assert msgspec.json.decode(msgspec.json.encode(config), type=Config) == config
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.json.decode(b'{"servr": {}}', type=Config)
