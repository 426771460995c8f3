"""One valid message of each struct of a union: seeds that grow with the protocol."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import inspect


def messages(union: Any) -> dict[str, bytes]:
    """By the struct's name."""
    info: Any = inspect.type_info(union)
    types: tuple[Any, ...] = getattr(info, "types", (info,))
    encode = msgspec.msgpack.Encoder().encode
    return {
        one.cls.__name__: encode(sample(one))
        for one in types
        if isinstance(one, inspect.StructType)
    }


def sample(info: Any) -> Any:
    """A value of a type, made of what MessagePack has; strings of the shortest allowed length."""
    make: Callable[[Any], Any] = _SAMPLES.get(info.__class__, _nothing)
    return make(info)


def _nothing(info: Any) -> None:
    del info


def _struct(info: Any) -> dict[str, Any]:
    made = {field.encode_name: sample(field.type) for field in info.fields}
    tag = {info.tag_field: info.tag} if info.tag_field else {}
    return tag | made


def _text(info: Any) -> str:
    return "x" * max(info.min_length or 0, 1)


def _number(info: Any) -> Any:
    return 1 if info.ge is None else info.ge


def _list(info: Any) -> list[Any]:
    return [sample(info.item_type)]


def _union(info: Any) -> Any:
    """The first that is not None."""
    return sample(next(one for one in info.types if not isinstance(one, inspect.NoneType)))


_SAMPLES: dict[type, Callable[[Any], Any]] = {
    inspect.StructType: _struct,
    inspect.StrType: _text,
    inspect.BytesType: lambda info: bytes(4),
    inspect.IntType: _number,
    inspect.FloatType: _number,
    inspect.BoolType: lambda info: False,
    inspect.LiteralType: lambda info: info.values[0],
    inspect.ListType: _list,
    inspect.VarTupleType: _list,
    inspect.TupleType: lambda info: [sample(one) for one in info.item_types],
    inspect.DictType: lambda info: {sample(info.key_type): sample(info.value_type)},
    inspect.UnionType: _union,
    inspect.AnyType: lambda info: 1,
    inspect.RawType: lambda info: 1,
}
