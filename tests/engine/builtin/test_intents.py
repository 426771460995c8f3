"""Every command from its words, answers with a fixed clock, numbers, and the grammar."""

from __future__ import annotations

from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from engine.builtin import recogniser_worker as grammar
from engine.builtin.history import History, Item
from engine.builtin.intents import Intent, find_intent, may_go_on
from engine.builtin.interfaces import Turn
from engine.builtin.numerals import read_number, show_number
from engine.builtin.picture_facts import Camera, CannotRead, encode_jpeg
from engine.builtin.rules import (
    CANNOT_READ,
    HELLO,
    HELP,
    MAX_READ_CHARS,
    NO_PICTURE,
    NO_TEXT,
    READING_FAILED,
    STORIES,
    WHO,
    RuleResponder,
)
from engine.ipc.protocol import ImageIn, SessionConfig

NOW = datetime(2026, 11, 23, 15, 5, tzinfo=UTC)


@pytest.fixture
def eyes() -> Any:
    with ThreadPoolExecutor(1) as executor:
        yield executor


class Talk:
    """A conversation with the rules."""

    def __init__(self, eyes: ThreadPoolExecutor, **options: str) -> None:
        self.responder = RuleResponder(lambda: NOW)
        self.conversation = History()
        self.camera = Camera(eyes)
        self.config = SessionConfig(options=dict(options))
        self.turn: Turn | None = None

    async def ask(self, *texts: str, images: tuple[bytes, ...] = ()) -> str:
        for text in texts:
            self.conversation.add(Item("u", "user", text, images))
        self.turn = Turn(self.conversation, self.camera, self.config)
        answer = "".join([text async for text in self.responder.reply(self.turn)])
        self.conversation.add(Item("a", "assistant", answer))
        return answer


@pytest.fixture
async def talk(eyes: ThreadPoolExecutor) -> AsyncIterator[Talk]:
    yield Talk(eyes)


@pytest.mark.parametrize(
    "said, answer",
    [
        ("hello", HELLO),
        ("Good morning!", HELLO),
        ("help", HELP),
        ("what can you do", HELP),
        ("who are you", WHO),
        ("what's your name?", WHO),
        ("hey who are you", WHO),
        ("what time is it", "It is 3:05 PM."),
        ("hello, could you please tell me the time", "It is 3:05 PM."),
        ("what's the time now", "It is 3:05 PM."),
        ("what is the date today", "It is Monday, November 23, 2026."),
        ("what day is it", "It is Monday, November 23, 2026."),
        ("what day is today", "It is Monday, November 23, 2026."),
        ("what is seven times eight", "7 times 8 is 56."),
        ("What a seven times eight.", "7 times 8 is 56."),
        ("seven plus five", "7 plus 5 is 12."),
        ("how much is one hundred minus twenty one", "100 minus 21 is 79."),
        ("ten divided by four", "10 divided by 4 is 2.5."),
        ("one divided by three", "1 divided by 3 is about 0.33."),
        ("five divided by zero", "I cannot divide by zero."),
        ("7*8", "7 times 8 is 56."),
        ("What is 12.5 + 3?", "12.5 plus 3 is 15.5."),
        ("100/8 =", "100 divided by 8 is 12.5."),
        ("3-5", "3 minus 5 is -2."),
        ("1,000 x 3", "1000 times 3 is 3000."),
        ("count to three", "1, 2, 3."),
        ("please count from five to eight", "5, 6, 7, 8."),
        ("count down from 3 to 1", "3, 2, 1."),
        ("count to one million", "That is too far for me. I count at most 100 numbers."),
        ("repeat after me the weather is nice", "the weather is nice"),
        ("Please repeat after me: Hello World!", "Hello World!"),
        ("repeat after me", "Say: repeat after me, and then some words."),
        ("what do you see", "I see nothing, because the camera is off."),
        ("can you see me", "I see nothing, because the camera is off."),
        ("stop", "Okay."),
        ("please be quiet", "Okay."),
        ("thank you very much", "You are welcome."),
        ("goodbye see you tomorrow", "Goodbye. It was nice talking to you."),
        ("bye bye", "Goodbye. It was nice talking to you."),
        ("Thank you very much. Goodbye.", "Goodbye. It was nice talking to you."),
        ("how are you", "I am fine, thank you. All my processes are running."),
        ("repeat that", "I have not said anything yet."),
    ],
)
async def test_each_command_has_its_answer(talk: Talk, said: str, answer: str) -> None:
    assert await talk.ask(said) == answer


@pytest.mark.parametrize(
    "said",
    [
        "the old man walked slowly across the bridge",
        "i told him the story of my life",
        "do not stop the music tonight",
        "what time does the train leave for boston",
        "the weather is nice",
        "she said hello to everyone at the party",
        "multiply everything by itself",
        "count your blessings",
        "is there life on mars",
    ],
)
async def test_anything_else_is_quoted_and_admitted(talk: Talk, said: str) -> None:
    assert find_intent(said) is None
    answer = await talk.ask(said)
    assert answer.startswith(f"I think you said: {said}.")
    assert "no language model is configured" in answer


async def test_stories_take_turns_and_are_long_enough(talk: Talk) -> None:
    told = [await talk.ask("tell me a story") for _ in range(len(STORIES) + 1)]
    assert told[0] == told[-1]
    assert len(set(told)) == len(STORIES)
    assert all(60 <= len(story.split()) <= 95 for story in STORIES)


async def test_only_goodbye_ends_the_session(talk: Talk) -> None:
    await talk.ask("what time is it")
    assert talk.turn is not None and not talk.turn.ends_session
    await talk.ask("goodbye")
    assert talk.turn.ends_session


async def test_the_last_answer_can_be_repeated(talk: Talk) -> None:
    await talk.ask("two plus two")
    assert await talk.ask("say that again") == "2 plus 2 is 4."


async def test_a_command_cut_by_a_pause_is_put_together(talk: Talk) -> None:
    assert await talk.ask("what time", "is it") == "It is 3:05 PM."


async def test_asked_to_respond_without_a_question_it_greets_or_answers_again(talk: Talk) -> None:
    assert await talk.ask() == HELLO
    assert await talk.ask("two plus two") == await talk.ask()


async def test_the_users_time_zone_is_used(eyes: ThreadPoolExecutor) -> None:
    talk = Talk(eyes, timezone="Asia/Tokyo")
    assert await talk.ask("what time is it") == "It is 12:05 AM."
    assert await talk.ask("what is the date") == "It is Tuesday, November 24, 2026."


async def test_it_says_what_the_camera_shows(talk: Talk) -> None:
    rgb = np.zeros((48, 64, 3), np.uint8)
    rgb[:, :32] = (200, 30, 30)
    rgb[:, 32:] = (30, 30, 200)
    talk.camera.show(ImageIn("s", 0, 64, 48, rgb.tobytes()))
    answer = await talk.ask("what do you see")
    assert "red" in answer and "blue" in answer


async def test_a_typed_picture_is_looked_at(talk: Talk) -> None:
    red = encode_jpeg(np.full((48, 64, 3), (200, 20, 20), np.uint8))
    assert "red" in await talk.ask("", images=(red,))


async def test_a_picture_sent_before_the_question_is_looked_at(talk: Talk) -> None:
    red = encode_jpeg(np.full((48, 64, 3), (200, 20, 20), np.uint8))
    for question in ("what do you see", "and that one?"):
        talk.conversation.add(Item("picture", "user", "", (red,)))
        assert "red" in await talk.ask(question)
    talk.conversation.add(Item("picture", "user", "", (red,)))
    assert "4" in await talk.ask("what is two plus two")


async def test_words_beside_a_file_that_cannot_be_taken_in_are_answered(talk: Talk) -> None:
    for words, answer in (("what is two plus two", "2 plus 2 is 4."), ("look at this", "Sorry")):
        talk.conversation.add(Item("u", "user", words, unread="that picture"))
        assert answer in await talk.ask()


async def test_long_input_is_quoted_in_part(talk: Talk) -> None:
    assert len(await talk.ask("blah " * 5_000)) < 400


@pytest.mark.parametrize(
    "words, value",
    [
        ("seven", 7),
        ("twenty one", 21),
        ("one hundred and five", 105),
        ("two thousand three hundred", 2_300),
        ("a hundred", 100),
        ("minus five", -5),
        ("three point one four", 3.14),
        ("12.5", 12.5),
        ("seven eight", None),
        ("forty twelve", None),
        ("", None),
        ("and", None),
        ("fish", None),
        ("9" * 400, None),
    ],
)
def test_numbers_are_read(words: str, value: float | None) -> None:
    assert read_number(words.split()) == value


@pytest.mark.parametrize("value, shown", [(56.0, "56"), (2.5, "2.5"), (1 / 3, "0.33"), (-2, "-2")])
def test_numbers_are_shown(value: float, shown: str) -> None:
    assert show_number(value) == shown


@pytest.mark.parametrize(
    "command",
    [
        "what time is it now", "tell me the time", "what's the date today", "what is today's date",
        "calculate ninety nine multiplied by nine", "count from one to twenty five",
        "tell me another short story", "another story", "describe what you see", "look at this",
        "what am i holding", "what is your name", "what can i say", "see you later", "hang up",
        "that's enough", "once more", "hi there", "hello tell us a story please", "how are you",
        "which day is it", "what day is today", "never mind", "good night", "what is today",
    ],
)  # fmt: skip
def test_what_the_grammar_hears_is_understood(command: str) -> None:
    assert find_intent(command) is not None


def test_the_grammar_counts_only_where_the_language_model_agrees() -> None:
    assert grammar.choose("seven ten fade", "seven times eight") == "seven times eight"
    assert grammar.choose("the old man walked away", "how are you") == "the old man walked away"
    assert grammar.choose("repeat after me stop it", "stop it") == "repeat after me stop it"
    assert grammar.choose("anything", "") == "anything"


def test_similarity_is_that_of_levenshtein() -> None:
    assert grammar.similarity("", "") == 1
    assert grammar.similarity("kitten", "sitting") == pytest.approx(1 - 3 / 7)
    assert grammar.similarity("abc", "xyz") == 0


def test_an_intent_is_comparable() -> None:
    assert find_intent("2+2") == Intent("sum", numbers=(2, 2), operator="+")


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("Wait, what time is it?", "time"),
        ("No, tell me a story.", "story"),
        ("Stop. What is seven times eight?", "sum"),
        ("Hold on, who are you?", "who"),
        ("Oh, sorry, wait a second, what day is it?", "date"),
        ("Actually, count to 5.", "count"),
        ("Wait.", "stop"),
        ("Hold on!", "stop"),
        ("No, stop.", "stop"),
        ("Stop it.", "stop"),
    ],
)
def test_what_is_asked_behind_an_interruption_is_found(said: str, name: str) -> None:
    found = find_intent(said)
    assert found is not None and found.name == name


@pytest.mark.parametrize("said", ["No.", "Wait for me at the station.", "Stop the music in here."])
def test_what_only_begins_like_an_interruption_is_no_command(said: str) -> None:
    assert find_intent(said) is None


@pytest.mark.parametrize(
    ("text", "goes_on"),
    [
        ("What time?", True),
        ("What is seven?", True),
        ("okay, count", True),
        ("Who", True),
        ("what time is it", False),
        ("what is seven times eight", False),
        ("seven", False),
        ("count to five", False),
        ("no", False),
        ("", False),
    ],
)
def test_the_first_words_of_a_command_are_known(text: str, goes_on: bool) -> None:
    assert may_go_on(text) == goes_on


@pytest.mark.parametrize(
    "text", ["tell me a hundred stories", "What in seven times eight?", "What did two plus two?"]
)
def test_what_is_half_heard_is_understood(text: str) -> None:
    assert find_intent(text) is not None


class Reader:
    """Finds what it is told in any picture."""

    def __init__(self, text: str) -> None:
        self.text = text

    def read(self, rgb: Any) -> str:
        if not self.text:
            raise TimeoutError
        return self.text.strip()


PICTURE = ImageIn("s", 0, 8, 8, bytes(8 * 8 * 3))


@pytest.mark.parametrize("said", ["what does this say", "Can you read this?", "read the sign"])
@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Mind the gap", "It says: Mind the gap"),
        (" ", NO_TEXT),
        ("", READING_FAILED),
        ("word " * 200, "It says: " + ("word " * (MAX_READ_CHARS // 5))[:-6] + " …"),
    ],
)
async def test_text_before_the_camera_is_read(
    eyes: ThreadPoolExecutor, said: str, text: str, answer: str
) -> None:
    talk = Talk(eyes)
    talk.camera = Camera(eyes, Reader(text))
    talk.camera.show(PICTURE)
    assert await talk.ask(said) == answer


class Broken:
    """Fails in its own way."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read(self, rgb: Any) -> str:
        raise self._error


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (CannotRead(), CANNOT_READ),
        (RuntimeError("a network failed"), READING_FAILED),
        (MemoryError(), READING_FAILED),
    ],
)
async def test_a_reader_that_fails_ends_no_call(
    eyes: ThreadPoolExecutor, error: Exception, answer: str
) -> None:
    talk = Talk(eyes)
    talk.camera = Camera(eyes, Broken(error))
    talk.camera.show(PICTURE)
    assert await talk.ask("read this") == answer


async def test_a_picture_in_a_message_is_read_where_that_is_asked(eyes: ThreadPoolExecutor) -> None:
    talk = Talk(eyes)
    talk.camera = Camera(eyes, Reader("Mind the gap"))
    picture = encode_jpeg(np.zeros((48, 64, 3), np.uint8))
    assert await talk.ask("what does it say?", images=(picture,)) == "It says: Mind the gap"
    assert "almost black" in await talk.ask("look", images=(picture,))


async def test_without_a_picture_or_a_reader_nothing_is_read(
    talk: Talk, eyes: ThreadPoolExecutor
) -> None:
    assert await talk.ask("read this") == CANNOT_READ
    talk.camera = Camera(eyes, Reader("unseen"))
    assert await talk.ask("read this") == NO_PICTURE
