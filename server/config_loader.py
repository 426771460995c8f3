"""Build the configuration: command line > environment > file > defaults, each value checked.

The environment's name of `builtin.chat.url` is OMNICALL_BUILTIN_CHAT_URL, and so on.
"""

from __future__ import annotations

import argparse
import difflib
import ipaddress
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from server.config import SECRETS, Config, MediaConfig
from signaling.ice_servers import parse_url

PREFIX = "OMNICALL_"


class SettingsError(Exception):
    """A value that cannot be used; the text names the field, the value and what is allowed."""


class Field(NamedTuple):
    """A leaf of the tree."""

    path: str
    type: msgspec.inspect.Type
    annotation: Any
    default: Any
    description: str

    @property
    def variable(self) -> str:
        return PREFIX + self.path.upper().replace(".", "_")


def fields(struct: type[msgspec.Struct] = Config, prefix: str = "") -> Iterator[Field]:
    """Every leaf below `struct`, in order."""
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    for described, field in zip(info.fields, msgspec.structs.fields(struct), strict=True):
        path = f"{prefix}{field.name}"
        kind: Any = described.type
        description = ""
        if isinstance(kind, msgspec.inspect.Metadata):
            description = (kind.extra_json_schema or {}).get("description", "")
            kind = kind.type
        if isinstance(kind, msgspec.inspect.StructType):
            yield from fields(kind.cls, path + ".")
        else:
            yield Field(path, kind, field.type, field.default, description)


FIELDS = {field.path: field for field in fields()}


def allowed(kind: msgspec.inspect.Type) -> str:
    """What a field accepts, for people."""
    inspect = msgspec.inspect
    match kind:
        case inspect.LiteralType():
            return ("one of " if len(kind.values) > 1 else "") + ", ".join(map(str, kind.values))
        case inspect.UnionType():
            return " or ".join(map(allowed, kind.types))
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType() | inspect.FloatType():
            noun = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            low = f"from {kind.ge}" if kind.ge is not None else ""
            if kind.gt is not None:
                low = f"above {kind.gt}"
            high = f"to {kind.le}" if kind.le is not None else ""
            return " ".join(part for part in (noun, low, high) if part)
        case inspect.StrType():
            if kind.pattern is not None:
                return f"text matching {kind.pattern}"
            return "text" if kind.max_length is None else f"at most {kind.max_length} characters"
        case inspect.VarTupleType(item_type=inspect.LiteralType(values=known)):
            return "a list of " + ", ".join(map(str, known))
        case inspect.VarTupleType(item_type=inspect.StrType(pattern=str(pattern))):
            return f"a list of texts matching {pattern}"
        case _:
            return "a list of texts"


def checked(path: str, value: Any, source: str) -> Any:
    """`value` as the type of the field `path`; texts are read as that type."""
    field = FIELDS.get(path)
    if field is None:
        close = difflib.get_close_matches(path, FIELDS, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        raise SettingsError(f"{source}: there is no field {path}{hint}")
    if isinstance(value, str) and isinstance(field.type, msgspec.inspect.VarTupleType):
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.convert(value, field.annotation, strict=not isinstance(value, str))
    except msgspec.ValidationError:
        shown = "***" if path in SECRETS else repr(value)
        raise SettingsError(f"{source}: {path} = {shown}: expected {allowed(field.type)}") from None


def _flatten(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        path = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from _flatten(value, path + ".")
        else:
            yield path, value


def from_file(path: Path) -> dict[str, Any]:
    """The fields that a TOML file sets, checked."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {path}: not TOML: {error}") from None
    return {name: checked(name, value, str(path)) for name, value in _flatten(table)}


def from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The fields that OMNICALL_* variables set, checked; an unknown one is an error."""
    names = {field.variable: field.path for field in FIELDS.values()}
    values = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX):
            continue
        if variable not in names:
            # Their common beginning makes all of them rather close.
            close = difflib.get_close_matches(variable, names, 1, cutoff=0.8)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise SettingsError(f"environment: {variable} is not a setting{hint}")
        values[names[variable]] = checked(names[variable], value, variable)
    return values


def parser() -> argparse.ArgumentParser:
    """The command line; every other field is reached by --set."""
    args = argparse.ArgumentParser(
        prog="omnicall",
        description="A WebRTC server for conversation with a model that listens, looks and speaks.",
        epilog="Command line beats environment (OMNICALL_SECTION_FIELD) beats --config file.",
        allow_abbrev=False,
    )
    args.add_argument("--config", metavar="FILE.toml", type=Path)
    args.add_argument("--host", help="address to listen on (server.host)")
    args.add_argument("--port", help="TCP port (server.port, default 8006)")
    tls = args.add_mutually_exclusive_group()
    tls.add_argument("--tls", dest="tls", action="store_const", const="on", help="HTTPS on")
    tls.add_argument("--no-tls", dest="tls", action="store_const", const="off", help="HTTPS off")
    args.add_argument("--engine", help="builtin, echo, minicpmo or scripted (engine.kind)")
    args.add_argument("--model", metavar="DIR", help="model folder (engine.model)")
    args.add_argument("--script", metavar="FILE.toml", help="what to say (engine.script)")
    args.add_argument(
        "--set", metavar="section.field=value", action="append", default=[], dest="sets"
    )
    args.add_argument("--print-config", action="store_true", help="show the result and exit")
    args.add_argument("--version", action="store_true", help="show the version and exit")
    return args


def from_arguments(args: argparse.Namespace) -> dict[str, Any]:
    """The fields that the command line sets, checked; named options beat --set."""
    values = {}
    for assignment in args.sets:
        path, equals, value = assignment.partition("=")
        if not equals:
            raise SettingsError(f"--set {assignment}: expected section.field=value")
        values[path.strip()] = checked(path.strip(), value.strip(), "--set")
    named = {
        "server.host": ("--host", args.host),
        "server.port": ("--port", args.port),
        "tls.mode": ("--tls", args.tls),
        "engine.kind": ("--engine", args.engine),
        "engine.model": ("--model", args.model),
        "engine.script": ("--script", args.script),
    }
    for path, (option, value) in named.items():
        if value is not None:
            values[path] = checked(path, value, option)
    return values


def build(values: Mapping[str, Any]) -> Config:
    """The tree with `values` (by dotted path) over the defaults, checked as a whole."""
    tree: dict[str, Any] = {}
    for path, value in values.items():
        *sections, name = path.split(".")
        table = tree
        for section in sections:
            table = table.setdefault(section, {})
        table[name] = value
    config = msgspec.convert(tree, Config)
    _check_together(config)
    return config


def load(args: argparse.Namespace, environment: Mapping[str, str]) -> Config:
    """Raises `SettingsError` for anything that cannot be used."""
    values = from_file(args.config) if args.config is not None else {}
    values |= from_environment(environment)
    values |= from_arguments(args)
    return build(values)


def _check_together(config: Config) -> None:
    _check_tls(config)
    _check_addresses(config)
    if config.engine.kind == "minicpmo" and not config.engine.model:
        raise SettingsError("engine.model: the minicpmo engine needs a model folder (--model DIR)")
    if config.auth.key and len(config.auth.key) < 16:
        raise SettingsError("auth.key: expected at least 16 characters")
    media = config.media
    if media.ports:
        low, high = map(int, media.ports.split("-"))
        if not 1024 <= low <= high <= 65535:
            raise SettingsError(f"media.ports = {media.ports!r}: expected LOW-HIGH in 1024-65535")
    _check_ice_servers(media)
    scribe = config.minicpmo.transcription
    for name, url in (
        ("builtin.chat.url", config.builtin.chat.url),
        ("minicpmo.transcription.url", scribe.url),
        ("delegate.chat.url", config.delegate.chat.url),
    ):
        if url and not url.startswith(("http://", "https://")):
            raise SettingsError(f"{name} = {url!r}: expected an http or https URL")
    if scribe.url and scribe.builtin:
        raise SettingsError(
            "minicpmo.transcription: give url or builtin, one of them writes down what is said"
        )


def _check_addresses(config: Config) -> None:
    media = config.media
    for name, networks in (
        ("server.trusted_proxies", config.server.trusted_proxies),
        ("media.addresses", media.addresses),
    ):
        for network in networks:
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise SettingsError(f"{name}: {error}") from None
    for name in ("public_address", "public_address_v6"):
        try:
            ipaddress.ip_address(getattr(media, name) or "::")
        except ValueError as error:
            raise SettingsError(f"media.{name}: {error}") from None


def _check_ice_servers(media: MediaConfig) -> None:
    for name, urls in (("stun", media.stun), ("turn", media.turn)):
        for url in urls:
            try:
                is_right = parse_url(url).is_turn == (name == "turn")
            except ValueError as error:
                raise SettingsError(f"media.{name} = {url!r}: {error}") from None
            if not is_right:
                raise SettingsError(f"media.{name} = {url!r}: expected a {name.upper()} server")
    if media.ice_transport_policy == "relay" and not media.turn:
        raise SettingsError('media.ice_transport_policy: "relay" needs media.turn')
    if media.turn and not media.turn_secret and not (media.turn_user and media.turn_password):
        raise SettingsError(
            "media.turn: needs media.turn_secret, or media.turn_user and media.turn_password"
        )


def _check_tls(config: Config) -> None:
    if bool(config.tls.cert) != bool(config.tls.key):
        raise SettingsError("tls.cert and tls.key: give both or none")
    if config.tls.mode == "off" and config.tls.cert:
        raise SettingsError("tls.cert: is set while tls.mode is off")
    for name in ("cert", "key"):
        path = getattr(config.tls, name)
        if path and not Path(path).is_file():
            raise SettingsError(f"tls.{name} = {path!r}: no such file")


def render(config: Config) -> str:
    """The configuration as commented TOML; secrets are masked."""
    lines: list[str] = []
    section = None
    for path, field in FIELDS.items():
        *sections, name = path.split(".")
        if sections != section:
            section = sections
            lines += ["", f"[{'.'.join(sections)}]"] if lines else [f"[{'.'.join(sections)}]"]
        value: Any = config
        for part in (*sections, name):
            value = getattr(value, part)
        if path in SECRETS and value:
            value = "***"
        lines.append(f"# {field.description} ({allowed(field.type)})")
        lines.append(f"{name} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    # JSON's texts, numbers, booleans and flat lists are valid TOML.
    return msgspec.json.encode(value).decode()
