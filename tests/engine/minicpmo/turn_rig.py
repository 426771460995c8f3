"""A native engine with a tiny random model for sessions that take turns, and ways to ask it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from torch import Tensor

from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.context_window import Cut, Slide
from engine.minicpmo.llm.rows import Feed, LlmRows
from engine.minicpmo.llm.turn_batch import TurnBatch
from tests.engine.minicpmo.engine_rig import Talk, config, scheduler_of
from tests.server.worker.talk import SESSION
from tests.server.worker.talk import Talk as Client

SHORT = p.Sampling(seed=7, max_output_tokens=10)


def begin(engine: MiniCpmoEngine, mode: p.Mode = "turn_based", **changes: Any) -> Talk:
    return Talk(engine, SESSION, 0, config(mode=mode, **({"sampling": SHORT} | changes)))


def write(talk: Talk, *parts: p.ItemPart | str) -> None:
    typed = tuple(p.TextPart(part) if isinstance(part, str) else part for part in parts)
    talk.session.handle(p.ItemIn(talk.name, f"item{len(talk.said)}", "user", typed))


def respond(talk: Talk, **wanted: Any) -> None:
    talk.session.handle(p.CreateResponse(talk.name, **wanted))


def of_epoch(talk: Talk, kind: type[Any], epoch: int) -> list[Any]:
    return [message for message in talk.all(kind) if message.epoch == epoch]


def client_of(talk: Talk) -> Client:
    """What a client hears of all that the engine said."""
    client = Client()
    client.hear(*talk.said)
    return client


class Rows:
    """What goes into the caches as text, and what is taken out again."""

    def __init__(
        self, engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch, *, rebuilds: bool = False
    ) -> None:
        """`rebuilds`: more than cuts may be taken out."""
        self.text = ""
        self.cuts: list[Cut] = []
        tokens = scheduler_of(engine).runner.model.tokens
        append, apply = LlmRows.append, LlmRows.apply

        def read(rows: LlmRows, feeds: Sequence[Feed], **more: Any) -> None:
            for feed in feeds:
                for piece in feed.pieces:
                    is_media = isinstance(piece, Tensor)
                    self.text += "*" * len(piece) if is_media else tokens.decode(list(piece))
            append(rows, feeds, **more)

        def drop(rows: LlmRows, slot: int, slide: Slide) -> None:
            assert rebuilds or isinstance(slide, Cut)
            if isinstance(slide, Cut):
                self.cuts.append(slide)
            apply(rows, slot, slide)

        monkeypatch.setattr(LlmRows, "append", read)
        monkeypatch.setattr(LlmRows, "apply", drop)


def hold_reading(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, nothing but system messages gets into the caches."""
    go = threading.Event()
    add = TurnBatch.add_slowly

    def held(turns: TurnBatch, slot: int, pieces: Any, **more: Any) -> Iterator[None]:
        while not more.get("protect") and not go.is_set():
            yield
        yield from add(turns, slot, pieces, **more)

    monkeypatch.setattr(TurnBatch, "add_slowly", held)
    return go
