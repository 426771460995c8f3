"""Values of JSON and MessagePack: any node changed, dropped, doubled or taken from elsewhere."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

from tests.fuzz.mutators.raw import EDGE_INTEGERS, EDGE_TEXTS, mutate_bytes

Place = tuple[Any, Any]
"""A list or dict, and the index or key of a node in it."""

EDGE_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0.5, -0.0, 1e308, 1e-308, [], {}, [[]], {"": {}}, ["x"], {"type": "x"}),
    *("\ud800", "x\ud83d", "a" * 70_000, "data:image/png;base64,", "data:image/png;base64,AAAA"),
)


def _places(value: Any) -> Iterator[Place]:
    items: Any = ()
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def _edge(rng: Random, old: Any) -> Any:
    if isinstance(old, str) and rng.random() < 0.3:
        cut = rng.randrange(len(old) + 1)
        return rng.choice((old[:cut], old + old, old[cut:] + old[:cut], old.upper()))
    if isinstance(old, bytes) and rng.random() < 0.7:
        return mutate_bytes(rng, old)
    if isinstance(old, list) and rng.random() < 0.5:
        return old * rng.choice((2, 40))
    return copy.deepcopy(rng.choice((*EDGE_VALUES, *EDGE_INTEGERS, *EDGE_TEXTS)))


def mutate_value(rng: Random, value: Any, other: Any = None) -> Any:
    """A changed copy; nodes may come from `other`."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(changed))
        if not places:
            return _edge(rng, changed)
        holder, key = rng.choice(places)
        match rng.randrange(6):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice((key.upper() if isinstance(key, str) else key, "type", ""))] = (
                    holder.pop(key)
                )
            case 2 if other is not None:
                donors = list(_places(other))
                if donors:
                    from_, name = rng.choice(donors)
                    holder[key] = copy.deepcopy(from_[name])
            case 3:
                holder[key] = rng.choice(([holder[key]], {"type": holder[key]}))
            case _:
                holder[key] = _edge(rng, holder[key])
    return changed


def mutate_json(rng: Random, data: bytes, other: bytes) -> bytes:
    """Change a JSON text; now and then one that is no JSON any more, or nested too deep."""
    dice = rng.random()
    if dice < 0.08:
        return mutate_bytes(rng, data, other)
    if dice < 0.1:
        deep = rng.choice((100, 5_000))
        return rng.choice((b"[" * deep + b"]" * deep, b'{"item":' * deep + b"1" + b"}" * deep))
    try:
        # Python 3.13 reads what is nested deeper than it can copy.
        changed = mutate_value(rng, json.loads(data), json.loads(other))
        return json.dumps(changed).encode()
    except (ValueError, RecursionError):
        return mutate_bytes(rng, data, other)
