"""Push to talk with the native engine and a tiny random model.

Guards: a commit is one item of the user however the detector sees it, and tells if it was empty;
nothing committed is lost; only the client cuts answers.
"""

from __future__ import annotations

import pytest

from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from tests.engine.minicpmo.engine_rig import Paused, config, voiced
from tests.engine.minicpmo.turn_rig import SHORT, Rows, begin, client_of, respond, write
from tests.server.worker.talk import SESSION

COMMITTED = "input_audio_buffer.committed"


@pytest.fixture
def rows(engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch) -> Rows:
    return Rows(engine, monkeypatch)


@pytest.mark.parametrize("sayings", [0, 1, 3])
async def test_a_commit_is_one_item_of_the_user(engine: MiniCpmoEngine, sayings: int) -> None:
    """Also where the detector finds nothing, or several utterances with pauses between."""
    talk = begin(engine)
    talk.quiet(0.2)
    for _ in range(sayings):
        talk.hear(voiced(0.8))
        talk.quiet(0.8)
    talk.session.handle(p.CommitAudio(talk.name))
    respond(talk)
    await talk.until(p.ResponseStarted)
    told = client_of(talk)
    assert told.types.count(COMMITTED) == 1
    assert told.types.index(COMMITTED) < told.types.index("response.created")
    assert not [kind for kind in told.types if "speech_st" in kind]
    failed = told.one("conversation.item.input_audio_transcription.failed")
    assert failed["error"]["code"] == "not_transcribed"
    assert failed["item_id"] == told.one(COMMITTED)["item_id"]
    await talk.session.close()


async def test_a_commit_in_mid_speech_is_the_turn_that_was_begun(engine: MiniCpmoEngine) -> None:
    """Where the engine finds turns as well: what was committed is not heard again at its end."""
    by_client = p.TurnDetection(create_response=False)
    talk = begin(engine, "half_duplex", turn_detection=by_client)
    talk.hear(voiced(0.8))
    await talk.until(p.SpeechStarted)
    talk.session.handle(p.CommitAudio(talk.name))
    await talk.until(p.SpeechStopped)
    talk.quiet(1.2)
    respond(talk)
    await talk.until(p.ResponseDone)
    told = client_of(talk).types
    assert told.count(COMMITTED) == told.count("input_audio_buffer.speech_stopped") == 1
    await talk.session.close()


async def test_every_commit_is_answered(engine: MiniCpmoEngine, rows: Rows) -> None:
    talk = begin(engine)
    for seconds in (2.0, 3.0):
        talk.quiet(seconds)
        talk.session.handle(p.CommitAudio(talk.name))
    respond(talk)
    await talk.until(p.ResponseDone)
    [_, said] = rows.text.split("<|im_start|>user\n")
    # Ten embeddings a second.
    assert said.startswith(f"<|audio_start|>{50 * '*'}<|audio_end|><|im_end|>")
    assert client_of(talk).types.count(COMMITTED) == 2
    await talk.session.close()


@pytest.mark.parametrize("seconds", [0, 0.08])
async def test_a_commit_of_nothing_or_next_to_nothing_is_refused(
    engine: MiniCpmoEngine, seconds: float
) -> None:
    talk = begin(engine)
    talk.quiet(seconds)
    talk.session.handle(p.CommitAudio(talk.name, "mine"))
    refused = await talk.until(p.RequestRefused)
    assert (refused.request, refused.code) == ("mine", p.COMMIT_EMPTY)
    assert talk.all(p.InputTranscript) == []
    await talk.session.close()


async def test_speech_that_was_announced_ends_also_where_turns_are_committed(
    engine: MiniCpmoEngine,
) -> None:
    talk = begin(engine, "half_duplex")
    talk.hear(voiced(0.8))
    await talk.until(p.SpeechStarted)
    talk.session.handle(p.UpdateSession(talk.name, config(mode="turn_based", sampling=SHORT)))
    talk.quiet(0.8)
    await talk.until(p.SpeechStopped)
    talk.hear(voiced(0.8))
    talk.quiet(0.8)
    talk.session.handle(p.CommitAudio(talk.name))
    await talk.until(p.InputTranscript, 2)
    assert len(talk.all(p.SpeechStarted)) == len(talk.all(p.SpeechStopped)) == 1
    await talk.session.close()


async def test_the_client_cuts_answers_where_it_commits_turns(engine: MiniCpmoEngine) -> None:
    talk = Paused(engine, SESSION, 0, config(mode="turn_based", sampling=SHORT))
    write(talk, "tell me")
    respond(talk)
    await talk.until(p.AudioOut)
    talk.hear(voiced(0.8))
    talk.quiet(0.8)
    talk.session.handle(p.CommitAudio(talk.name))
    await talk.until(p.InputTranscript)
    assert not talk.all(p.Interrupt)
    await talk.session.close()
