"""What structs say of themselves: fields, types, bounds and the texts beside them. Front."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec
from msgspec import inspect as shapes


class FieldDoc(msgspec.Struct, frozen=True):
    """One member of a message."""

    name: str
    type: str
    """In words; structs by their names."""
    bounds: str
    is_required: bool
    default: str
    """JSON; empty: absent, or made for each message."""
    text: str


def text_of(struct: type[Any]) -> str:
    """The docstring that a class has itself."""
    return inspect.cleandoc(vars(struct).get("__doc__") or "")


def fields_of(struct: type[Any]) -> list[FieldDoc]:
    """The members of a struct, without the tag, as they come on the wire."""
    info = shapes.type_info(struct)
    assert isinstance(info, shapes.StructType)
    texts: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        texts |= _texts(base.__module__).get(base.__name__, {})
    return [
        FieldDoc(
            field.encode_name,
            type_text(field.type),
            "; ".join(dict.fromkeys(_bounds(field.type))),
            field.required and field.default is msgspec.NODEFAULT,
            _default(field.default),
            texts.get(field.name, ""),
        )
        for field in info.fields
        if field.name != "type" or not isinstance(field.type, shapes.StrType)
    ]


def nested(structs: Iterable[type[Any]]) -> list[type[Any]]:
    """The structs that occur in members of these, at any depth, in the order of their names."""
    found: dict[type[Any], None] = {}
    waiting = list(structs)
    roots = set(waiting)
    while waiting:
        for field in shapes.type_info(waiting.pop()).fields:  # type: ignore[attr-defined]
            for inner in _walk(field.type):
                if isinstance(inner, shapes.StructType) and inner.cls not in found:
                    found[inner.cls] = None
                    waiting.append(inner.cls)
    return sorted(found.keys() - roots, key=lambda struct: struct.__name__)


def type_text(shape: shapes.Type) -> str:
    """A type in words."""
    match shape:
        case shapes.Metadata():
            return type_text(shape.type)
        case shapes.UnionType():
            return " | ".join(dict.fromkeys(type_text(inner) for inner in shape.types))
        case shapes.LiteralType():
            return " | ".join(_json(value) for value in shape.values)
        case shapes.StructType():
            return shape.cls.__name__
        case shapes.CollectionType():
            return f"list of {type_text(shape.item_type)}"
        case shapes.DictType(value_type=shapes.AnyType()):
            return "object"
        case shapes.DictType():
            return f"object of {type_text(shape.value_type)}"
    return _PLAIN[type(shape)]


_PLAIN: dict[type[shapes.Type], str] = {
    shapes.StrType: "string",
    shapes.IntType: "integer",
    shapes.FloatType: "number",
    shapes.BoolType: "boolean",
    shapes.NoneType: "null",
    shapes.AnyType: "any",
}


def _walk(shape: shapes.Type) -> Iterator[shapes.Type]:
    yield shape
    match shape:
        case shapes.Metadata():
            yield from _walk(shape.type)
        case shapes.UnionType():
            for inner in shape.types:
                yield from _walk(inner)
        case shapes.CollectionType():
            yield from _walk(shape.item_type)
        case shapes.DictType():
            yield from _walk(shape.value_type)


def _bounds(shape: shapes.Type) -> Iterator[str]:
    for inner in _walk(shape):
        match inner:
            case shapes.StrType():
                yield from _range(inner.min_length, inner.max_length, "characters")
            case shapes.CollectionType():
                yield from _range(inner.min_length, inner.max_length, "entries")
            case shapes.DictType():
                yield from _range(inner.min_length, inner.max_length, "members")
            case shapes.IntType() | shapes.FloatType():
                yield from _range(inner.ge, inner.le, "")
                if inner.gt is not None:
                    yield f"above {inner.gt:,}"
                if inner.lt is not None:
                    yield f"below {inner.lt:,}"


def _range(least: float | None, most: float | None, unit: str) -> Iterator[str]:
    if least is not None and most is not None:
        yield f"{least:,} to {most:,} {unit}".strip()
    elif most is not None:
        yield f"at most {most:,} {unit}".strip()
    elif least is not None:
        yield f"at least {least:,} {unit}".strip()


def _default(value: Any) -> str:
    if value is msgspec.NODEFAULT or value is msgspec.UNSET:
        return ""
    return _json(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


@functools.cache
def _texts(module: str) -> dict[str, dict[str, str]]:
    """Class -> field -> the docstring below the field, of one module."""
    try:
        source = inspect.getsource(sys.modules[module])
    except (OSError, TypeError):
        return {}
    found: dict[str, dict[str, str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            found[node.name] = dict(_below_fields(node))
    return found


def _below_fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, text in zip(node.body, node.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            match text:
                case ast.Expr(value=ast.Constant(value=str(words))):
                    yield field.target.id, " ".join(words.split())
