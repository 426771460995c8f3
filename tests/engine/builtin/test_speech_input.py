"""When a turn ends by what the recogniser understands in a pause. No clock: sound is time."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from engine.builtin.interfaces import Transcript
from engine.builtin.speech_input import PAUSE_MS, Said, SpeechInput
from engine.hearing.turnend import CLOSED_SHARE
from engine.ipc.protocol import SessionConfig, TurnDetection
from tests.engine.builtin.rig import FRAME, hiss, speech

SILENCE_MS = 320
PATIENCE = 3.0


class Knowing:
    """Understands the same words in every pause. Implements `Recogniser` and `Utterance`."""

    is_owed = False

    def __init__(self, text: str) -> None:
        self._text = text

    def listen(self, on_partial: Callable[[str], None], language: str = "") -> Knowing:
        self._tell = on_partial
        return self

    def feed(self, pcm: bytes) -> None:
        pass

    def pause(self) -> None:
        self._tell(self._text)

    def resume(self) -> None:
        pass

    def abandon(self) -> None:
        pass

    async def finish(self) -> Transcript:
        return Transcript(self._text)


def endpoint_ms(sound: bytes, text: str, *, has_model: bool = False) -> float:
    """How long after speech its end is known, where this is understood."""
    detection = TurnDetection(silence_duration_ms=SILENCE_MS, patience=PATIENCE)
    config = SessionConfig(mode="half_duplex", turn_detection=detection)
    hears = SpeechInput(
        "s", config, lambda _: None, Knowing(text), lambda: None, has_model=has_model
    )
    pcm = hiss(400) + sound + hiss(1_500)
    for at in range(0, len(pcm) - 2 * FRAME + 1, 2 * FRAME):
        for news in hears.push(at // 2, pcm[at : at + 2 * FRAME], over=False):
            if isinstance(news, Said):
                return news.endpoint_ms
    raise AssertionError("no turn ended")


def test_a_command_ends_the_turn() -> None:
    assert PAUSE_MS <= endpoint_ms(speech("what_time"), "What time is it?") <= SILENCE_MS


@pytest.mark.parametrize("text", ["What time?", "What is seven?"])
def test_its_first_words_do_not(text: str) -> None:
    assert endpoint_ms(speech("what_time"), text) == SILENCE_MS * PATIENCE


def test_a_question_that_is_no_command_may_be_half_of_one() -> None:
    sound = speech("what_time")
    assert endpoint_ms(sound, "What is that?") == SILENCE_MS * PATIENCE
    assert endpoint_ms(sound, "What is that?", has_model=True) <= SILENCE_MS * CLOSED_SHARE


def test_more_words_than_were_spoken_are_a_guess() -> None:
    sound = speech("what_time")
    half = sound[: len(sound) // 4 * 2]
    assert endpoint_ms(half, "What time is it in New York today?") == SILENCE_MS * PATIENCE


def test_words_that_may_be_all_are_waited_behind_for_less() -> None:
    waited = endpoint_ms(speech("what_time"), "It rains here today.")
    assert waited <= SILENCE_MS * CLOSED_SHARE
