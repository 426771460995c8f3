"""The small parts of the built-in engine: resampler, clauses, reply pacing, conversation."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from numpy.typing import NDArray

from engine.builtin.clauses import MAX_CLAUSE_CHARS, ClauseSplitter, is_silent, speakable
from engine.builtin.history import MAX_IMAGES, MAX_ITEMS, History, Item
from engine.builtin.interfaces import Speech
from engine.builtin.resampler import Resampler
from engine.builtin.speech_output import MAX_AHEAD, SpeechOutput
from engine.ipc.protocol import AudioOut, FromEngine, TextOut


def tone(hz: float, rate: int, seconds: float = 1.0) -> NDArray[np.int16]:
    at_s = np.arange(round(rate * seconds)) / rate
    wave: NDArray[np.int16] = (16_000 * np.sin(2 * np.pi * hz * at_s)).astype(np.int16)
    return wave


def convert(pcm: NDArray[np.int16], from_hz: int, piece: int) -> NDArray[np.int16]:
    resampler = Resampler(from_hz, 24_000)
    out = [resampler.push(pcm[at : at + piece]) for at in range(0, len(pcm), piece)]
    return np.concatenate([*out, resampler.flush()])


@pytest.mark.parametrize("from_hz", [16_000, 22_050])
@pytest.mark.parametrize("hz", [200.0, 1_000.0, 3_400.0, 6_500.0])
def test_a_tone_stays_a_clean_tone(from_hz: int, hz: float) -> None:
    out = convert(tone(hz, from_hz), from_hz, 1_324).astype(float)
    assert len(out) == 24_000
    middle = out[2_000:-2_000]
    at_s = np.arange(2_000, 2_000 + len(middle)) / 24_000
    waves = np.stack([np.sin(2 * np.pi * hz * at_s), np.cos(2 * np.pi * hz * at_s)], axis=1)
    fit = waves @ np.linalg.lstsq(waves, middle, rcond=None)[0]
    snr_db = 10 * np.log10((fit**2).sum() / ((middle - fit) ** 2).sum())
    assert snr_db > 75
    # In phase with the input: no delay is added over the whole.
    assert np.abs(fit - 16_000 * np.sin(2 * np.pi * hz * at_s)).max() < 40


@pytest.mark.parametrize("piece", [1, 7, 320, 100_000])
def test_resampling_does_not_depend_on_how_the_input_is_cut(piece: int) -> None:
    pcm = np.random.default_rng(0).integers(-9_000, 9_000, 5_003).astype(np.int16)
    whole, pieces = convert(pcm, 22_050, 5_003), convert(pcm, 22_050, piece)
    # The matrix product may round its last bit differently for another number of rows.
    assert len(whole) == len(pieces)
    assert np.abs(whole.astype(int) - pieces).max() <= 1


def test_a_resampler_can_be_used_again() -> None:
    resampler = Resampler(22_050, 24_000)
    pcm = tone(500, 22_050, 0.3)
    first, second = (np.concatenate([resampler.push(pcm), resampler.flush()]) for _ in range(2))
    assert np.array_equal(first, second)
    assert len(first) == 7_200


def clauses(*deltas: str) -> list[str]:
    splitter = ClauseSplitter()
    found = [clause.text for delta in deltas for clause in splitter.push(delta)]
    return found + [clause.text for clause in splitter.flush()]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("Hello there. How are you?", ["Hello there. ", "How are you?"]),
        ("It is 3.14, or 10:30.", ["It is 3.14, or 10:30."]),
        ("Dr. Smith came, e.g. today.", ["Dr. Smith came, ", "e.g. today."]),
        ("Well, this is a long one, yes.", ["Well, this is a long one, ", "yes."]),
        ('He said "stop." Then he left.', ['He said "stop." ', "Then he left."]),
        ("Really?! Yes... no.", ["Really?! ", "Yes... ", "no."]),
        ("你好。我很好！", ["你好。", "我很好！"]),
        ("one\ntwo", ["one\n", "two"]),
        ("1. first thing", ["1. first thing"]),
        ("", []),
    ],
)
def test_text_is_cut_where_one_breathes(text: str, expected: list[str]) -> None:
    assert clauses(text) == expected
    # However the text arrives, nothing changes and nothing is lost.
    assert clauses(*text) == expected
    assert "".join(clauses(*text)) == text


def test_a_clause_is_known_as_soon_as_the_next_word_begins() -> None:
    splitter = ClauseSplitter()
    assert list(splitter.push("Hello there.")) == []
    assert [clause.text for clause in splitter.push(" ")] == ["Hello there. "]


def test_endless_text_is_cut_anyway() -> None:
    assert all(len(text) <= MAX_CLAUSE_CHARS for text in clauses("word " * 300))
    assert all(len(text) <= MAX_CLAUSE_CHARS for text in clauses("x" * 999))


def test_pauses_follow_the_punctuation() -> None:
    splitter = ClauseSplitter()
    pauses = [clause.pause_ms for clause in splitter.push("One, two, three, four. Five ")]
    assert pauses == [110, 240]


def test_markup_is_not_spoken_and_positions_stay() -> None:
    assert speakable("**bold** `x`") == "  bold    x "
    assert is_silent(" ... ") and not is_silent("a")


def speech(ms: int, *words: tuple[int, str], last: bool = False) -> Speech:
    return Speech(np.ones(24 * ms, np.int16), words, last)


async def test_a_reply_known_to_end_needs_no_empty_messages() -> None:
    sent: list[FromEngine] = []
    reply = SpeechOutput("s", 1, sent.append, with_audio=True)
    reply.push(speech(400, (0, "one "), (9_000, "two"), last=True))
    reply.finish()
    sounds = [message for message in sent if isinstance(message, AudioOut)]
    assert [len(sound.pcm) // 2 for sound in sounds] == [2_400, 3_840, 3_360]
    assert [sound.last for sound in sounds] == [False, False, True]
    texts = [message for message in sent if isinstance(message, TextOut)]
    assert [(text.text, text.last) for text in texts] == [("one ", False), ("two", True)]


async def test_the_text_ends_even_if_its_last_word_was_sent_before() -> None:
    sent: list[FromEngine] = []
    reply = SpeechOutput("s", 1, sent.append, with_audio=True)
    reply.push(speech(900, (0, "lo-o-ong"), last=True))
    texts = [message for message in sent if isinstance(message, TextOut)]
    assert [(text.text, text.last) for text in texts] == [("lo-o-ong", False), ("", True)]


async def test_an_answer_without_any_sound_still_ends() -> None:
    sent: list[FromEngine] = []
    reply = SpeechOutput("s", 1, sent.append, with_audio=True)
    reply.push(speech(0, (0, "..."), last=True))
    reply.finish()
    assert [type(message).__name__ for message in sent if getattr(message, "last", False)] == [
        "TextOut",
        "AudioOut",
    ]


async def test_a_cut_reply_releases_whoever_waits_for_room() -> None:
    sent: list[FromEngine] = []
    reply = SpeechOutput("s", 1, sent.append, with_audio=True)
    reply.push(speech(9_000))
    waiting = asyncio.ensure_future(reply.drained())
    await asyncio.sleep(0)
    assert not waiting.done()
    reply.cut()
    await asyncio.wait_for(waiting, 5)
    num_sent = len(sent)
    reply.on_heard(MAX_AHEAD, final=False)
    reply.push(speech(100))
    reply.finish()
    assert len(sent) == num_sent


def test_a_conversation_keeps_the_newest_items_and_pictures() -> None:
    conversation = History()
    for index in range(MAX_ITEMS + 9):
        conversation.add(Item(str(index), "user", "text", [b"picture"]))
    assert len(conversation.items) == MAX_ITEMS
    assert conversation.items[-1].ident == str(MAX_ITEMS + 8)
    assert sum(len(item.images) for item in conversation.items) == MAX_IMAGES
    assert conversation.items[-1].images
    conversation.add(Item("long", "user", "x" * 60_000))
    assert [item.ident for item in conversation.items] == ["long"]
