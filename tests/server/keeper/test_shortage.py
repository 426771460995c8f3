"""A keeper on a system that is short of something."""

from __future__ import annotations

import errno
import time

import pytest

from server.keeper import keeper as module
from server.keeper.messages import packet_pair


def test_a_front_that_cannot_be_heard_is_heard_again_after_a_pause(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*given: object) -> None:
        raise OSError(errno.ENOBUFS, "no room")

    pauses: list[float] = []
    monkeypatch.setattr(module, "take", fail)
    monkeypatch.setattr(time, "sleep", pauses.append)
    keeper = module.Keeper()
    ours, theirs = packet_pair()
    with ours, theirs:
        keeper._link = ours
        keeper._hear()
    assert pauses == [module.SHORTAGE_PAUSE_S]
