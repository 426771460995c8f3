"""A user's sound on its way to the engine: counted once, over pauses and from connection to
connection, however each of them counts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from engine.ipc.protocol import AudioIn, ToEngine
from server.worker.user_input import UserInput

PCM = bytes(640)
N = 320


class Input:
    """A user input whose engine and session are written down."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        speaker = SimpleNamespace(take_played=bytes)
        responses = SimpleNamespace(speaker=speaker)
        self.conversation = SimpleNamespace(session_id="rtc_a", input_pts=0, responses=responses)
        self.absence = SimpleNamespace(is_on=False)
        self.pause = SimpleNamespace(is_on=False)
        commands: Any = SimpleNamespace(is_muted=False)
        given: Any = (self.conversation, commands, self, self.pause, self.absence)
        self.input = UserInput(*given)

    def send(self, message: Any) -> bool:
        self.sent.append(message)
        return True

    def hears(self, first: int, count: int) -> None:
        for n in range(first, first + count):
            self.input.hear(n * N, PCM)

    @property
    def positions(self) -> list[int]:
        decoder = msgspec.msgpack.Decoder(ToEngine)
        for message in self.sent:
            # An engine refuses a media worker, with all of its calls, for what it cannot read.
            assert decoder.decode(msgspec.msgpack.encode(message)) == message
        return [message.pts // N for message in self.sent if isinstance(message, AudioIn)]


def test_pauses_and_absences_are_no_gap() -> None:
    made = Input()
    made.hears(0, 3)
    made.pause.is_on = True
    made.hears(3, 100)
    made.pause.is_on = False
    made.hears(103, 3)
    assert made.positions == [0, 1, 2, 3, 4, 5]
    assert made.conversation.input_pts == 5 * N


@pytest.mark.parametrize("away", [0, 5, 500])
@pytest.mark.parametrize("lost", [0, 3, 50])
def test_another_connection_that_counts_anew_goes_on_where_the_last_one_ended(
    away: int, lost: int
) -> None:
    made = Input()
    made.hears(0, 4)
    made.absence.is_on = True
    made.hears(4, away)
    # The new one is heard before it is known that its client is back.
    made.hears(0, lost)
    made.absence.is_on = False
    made.hears(lost, 3)
    made.hears(0, 2)
    assert made.positions == list(range(9))
    assert made.conversation.input_pts == 8 * N


def test_a_gap_of_the_sound_itself_stays_one() -> None:
    made = Input()
    made.hears(0, 2)
    made.hears(10, 2)
    assert made.positions == [0, 1, 10, 11]
