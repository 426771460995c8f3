"""Typed messages that wait for an answer: bounded, and told of when one is left out."""

from __future__ import annotations

from engine.ipc.protocol import FromEngine, SessionConfig, SessionWarning
from engine.minicpmo.models.unit import RELEASED_UNIT
from engine.minicpmo.session.item_decoding import DecodedItem
from engine.minicpmo.session.pending_input import MAX_ITEMS
from engine.minicpmo.session.session import Session


def test_a_message_that_is_left_out_is_told_of() -> None:
    said: list[FromEngine] = []
    session = Session("s", 0, SessionConfig(), 1, said.append, unit=RELEASED_UNIT)
    for number in range(MAX_ITEMS):
        session.given.add(DecodedItem("s", f"item-{number}", "user", ("hello",)))
    assert not [one for one in said if isinstance(one, SessionWarning)]
    session.given.add(DecodedItem("s", "one-more", "user", ("hello",)))
    assert [one.code for one in said if isinstance(one, SessionWarning)] == ["too_many_items"]
    assert (session.given.items[0].item, session.given.items[-1].item) == ("item-1", "one-more")
