"""What a caller says, written down beside the native model, and told when the words are there.

Guards: a turn is told of at once and its words later, in each mode; without words, why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from engine.base import Progress
from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.scribe import WriteDown
from tests.engine.minicpmo.engine_rig import Talk, voiced
from tests.engine.minicpmo.turn_rig import begin, client_of, respond

COMPLETED = "conversation.item.input_audio_transcription.completed"


class SlowScribe:
    """Its words come when the test lets them."""

    languages: tuple[str, ...] = ("en",)

    def __init__(self) -> None:
        self.heard: list[tuple[int, str]] = []
        """Milliseconds and language of each utterance."""
        self.go = asyncio.Event()

    async def start(self, progress: Progress) -> None: ...

    async def close(self) -> None: ...

    def for_session(self) -> WriteDown:
        return self._write

    async def _write(self, pcm: bytes, language: str) -> str:
        self.heard.append((len(pcm) * 500 // p.INPUT_HZ, language))
        await self.go.wait()
        return f"utterance {len(self.heard)}"


@pytest.fixture
def scribe(engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowScribe]:
    made = SlowScribe()
    monkeypatch.setattr(engine, "_scribe", made)
    yield made


def say(talk: Talk, seconds: float = 0.8) -> None:
    talk.hear(voiced(seconds))
    talk.quiet(1.0)


async def test_it_tells_what_it_writes(engine: MiniCpmoEngine, scribe: SlowScribe) -> None:
    welcome = engine.welcome(1)
    assert welcome.transcribes and welcome.writes == ("en",)


@pytest.mark.parametrize("mode", ["full_duplex", "half_duplex"])
async def test_an_utterance_is_told_at_once_and_its_words_when_they_are_there(
    engine: MiniCpmoEngine, scribe: SlowScribe, mode: p.Mode
) -> None:
    talk = begin(engine, mode, transcribe_language="en")
    talk.quiet(0.2)
    say(talk)
    await talk.until(p.SpeechStopped)
    assert talk.all(p.InputTranscript) == []
    scribe.go.set()
    told = await talk.until(p.InputTranscript)
    assert told == p.InputTranscript(talk.name, 1, "utterance 1", True)
    [(heard_ms, language)] = scribe.heard
    assert 700 < heard_ms < 1500 and language == "en"
    await talk.session.close()


async def test_a_committed_turn_comes_before_its_answer_and_its_words_after(
    engine: MiniCpmoEngine, scribe: SlowScribe
) -> None:
    talk = begin(engine)
    say(talk)
    talk.session.handle(p.CommitAudio(talk.name))
    respond(talk)
    await talk.until(p.ResponseDone)
    assert talk.all(p.InputTranscript) == []
    scribe.go.set()
    await talk.until(p.InputTranscript)
    client = client_of(talk)
    order = [
        client.types.index(kind)
        for kind in ("input_audio_buffer.committed", "response.created", COMPLETED)
    ]
    assert order == sorted(order)
    done = client.one(COMPLETED)
    assert done["transcript"] == "utterance 1"
    assert done["item_id"] == client.one("input_audio_buffer.committed")["item_id"]
    assert scribe.heard == [(1800, "")]
    await talk.session.close()


async def test_who_wants_no_transcripts_is_told_that_there_are_none(
    engine: MiniCpmoEngine, scribe: SlowScribe
) -> None:
    talk = begin(engine, "half_duplex", transcribe=False)
    say(talk)
    told = await talk.until(p.InputTranscript)
    assert (told.text, told.code) == ("", "not_transcribed") and scribe.heard == []
    await talk.session.close()


async def test_nothing_is_told_after_a_session_has_ended(
    engine: MiniCpmoEngine, scribe: SlowScribe
) -> None:
    talk = begin(engine, "half_duplex")
    say(talk)
    await talk.until(p.SpeechStopped)
    await talk.session.close()
    scribe.go.set()
    await asyncio.sleep(0)
    assert talk.all(p.InputTranscript) == []
