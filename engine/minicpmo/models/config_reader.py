"""JSON files that describe a checkpoint, read with the type that each value is to have."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class ConfigError(ValueError):
    """The checkpoint's configuration is incomplete, contradicts itself or is not supported."""


_REQUIRED = object()


class ConfigReader:
    """Typed access to one JSON object; remembers which values were not in the file."""

    def __init__(self, values: Mapping[str, Any], where: str, assumed: list[str]) -> None:
        self.values = values
        self.where = where
        self.assumed = assumed

    def get(self, key: str, kind: type, default: Any = _REQUIRED) -> Any:
        if key not in self.values:
            if default is _REQUIRED:
                raise ConfigError(f"{self.where}: {key!r} is missing")
            self.assumed.append(f"{self.where}: {key} = {default!r}")
            return default
        value = self.values[key]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise ConfigError(f"{self.where}: {key} = {value!r} is not of type {kind.__name__}")
        return value

    def integer(self, key: str, default: Any = _REQUIRED) -> int:
        value: int = self.get(key, int, default)
        if value < 0:
            raise ConfigError(f"{self.where}: {key} = {value} is negative")
        return value

    def number(self, key: str, default: Any = _REQUIRED) -> float:
        value: float = self.get(key, float, default)
        return value

    def flag(self, key: str, default: Any = _REQUIRED) -> bool:
        value: bool = self.get(key, bool, default)
        return value

    def word(self, key: str, default: Any = _REQUIRED) -> str:
        value: str = self.get(key, str, default)
        return value

    def only(self, key: str, *allowed: Any) -> None:
        """Refuse a setting that this engine does not implement; a missing key is its default."""
        if key in self.values and self.values[key] not in allowed:
            raise ConfigError(
                f"{self.where}: {key} = {self.values[key]!r} is not supported, only "
                + " or ".join(repr(value) for value in allowed)
            )

    def sub(self, key: str) -> ConfigReader:
        value = self.get(key, dict)
        return ConfigReader(value, f"{self.where}: {key}", self.assumed)


def check_heads(where: str, width: int, heads: int) -> None:
    """Raise `ConfigError` unless the heads share a width evenly."""
    if heads < 1 or width % heads:
        raise ConfigError(f"{where}: width {width} is not a multiple of {heads} heads")


def check_kv_heads(where: str, heads: int, kv_heads: int) -> None:
    """Raise `ConfigError` unless the heads share the key-value heads evenly."""
    if kv_heads < 1 or heads % kv_heads:
        raise ConfigError(
            f"{where}: {heads} heads are not a multiple of {kv_heads} key-value heads"
        )


def read_json(path: Path, *, optional: bool = False) -> dict[str, Any]:
    """Read one JSON object; an optional file that is not there is an empty object."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if optional:
            return {}
        raise ConfigError(f"{path} does not exist") from None
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: not a JSON object")
    return value
