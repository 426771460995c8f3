"""Recogniser processes: shared, crashed, hung, overbooked, orphaned. Real pocketsphinx."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator

import psutil
import pytest
import pytest_asyncio

from engine.builtin import recogniser as module
from engine.builtin import recogniser_process
from engine.builtin.interfaces import Transcript
from engine.builtin.recogniser import RecogniserPool
from engine.builtin.utterance import Waits
from tests import ROOT
from tests.engine.builtin.rig import say
from tests.waiting import until

pytestmark = [pytest.mark.loopback, pytest.mark.asyncio(loop_scope="module")]


def is_gone(pid: int) -> bool:
    """Ended; how soon the init process buries an orphan is its own affair."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def shared_pool() -> AsyncIterator[RecogniserPool]:
    # The bounds are tested in virtual time; here a busy machine must not drop anything.
    pool = RecogniserPool(2, cores=4, waits=Waits(60, 60))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "EXTRA_IDLE_S", 0.05)
        await pool.start(lambda text: None)
        await until(lambda: len(pool.pids) == 2)
        yield pool
        pids = pool.pids
        await pool.close()
    await until(lambda: all(is_gone(pid) for pid in pids))


@pytest_asyncio.fixture(loop_scope="module")
async def pool(shared_pool: RecogniserPool) -> RecogniserPool:
    await until(lambda: len(shared_pool.pids) == 2)
    return shared_pool


async def recognise(pool: RecogniserPool, name: str, *, commands: bool = True) -> Transcript:
    utterance = pool.listen_for(commands=commands).listen(lambda _: None)
    pcm = say(name)
    for start in range(0, len(pcm), 640):
        utterance.feed(pcm[start : start + 640])
    return await utterance.finish()


async def test_a_phrase_becomes_text_with_partials_on_the_way(pool: RecogniserPool) -> None:
    partials: list[str] = []
    speaker = pool.listen_for(commands=True)
    utterance = speaker.listen(partials.append)
    utterance.feed(say("seven_times_eight"))
    assert await utterance.finish() == Transcript("what is seven times eight")
    assert partials and partials == list(dict.fromkeys(partials))
    # By the commands, as the result: where a turn ends is judged by it.
    assert partials[-1] == "what is seven times eight"
    assert speaker.cepstral_mean.count(",") == 12


async def test_without_commands_the_language_model_has_its_way(pool: RecogniserPool) -> None:
    transcript = await recognise(pool, "open", commands=False)
    assert "across the bridge" in transcript.text


async def test_more_speakers_than_recognisers_are_all_heard(pool: RecogniserPool) -> None:
    names = ["what_time", "seven_times_eight", "count_to_ten", "who", "help", "thanks"] * 2
    found = await asyncio.gather(*(recognise(pool, name) for name in names))
    assert all(not transcript.error for transcript in found)
    assert [t.text for t in found[:3]] == [
        "what time is it",
        "what is seven times eight",
        "count to ten",
    ]
    await until(lambda: len(pool.pids) == 2)
    assert pool.waiting == 0


async def test_a_waiting_utterance_can_be_abandoned(pool: RecogniserPool) -> None:
    speaker = pool.listen_for(commands=True)
    waiting = [speaker.listen(lambda _: None) for _ in range(20)]
    assert pool.waiting > 0
    for utterance in waiting:
        utterance.abandon()
        utterance.abandon()
    assert pool.waiting == 0
    assert (await recognise(pool, "what_time")).text == "what time is it"


async def test_a_killed_recogniser_fails_its_utterance_and_is_replaced(
    pool: RecogniserPool,
) -> None:
    crashes = pool.crashes
    utterances = [pool.listen_for(commands=True).listen(lambda _: None) for _ in range(2)]
    victim = pool.pids[0]
    os.kill(victim, signal.SIGKILL)
    errors = [(await utterance.finish()).error for utterance in utterances]
    assert sorted(errors) == ["", "the speech recogniser stopped"]
    await until(lambda: len(pool.pids) == 2 and victim not in pool.pids)
    assert pool.crashes == crashes + 1
    assert (await recognise(pool, "what_time")).text == "what time is it"


async def test_a_hung_recogniser_is_given_up_and_replaced(
    pool: RecogniserPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECK_S", 0.1)
    monkeypatch.setattr(recogniser_process, "STILL_S", 2.0)
    await asyncio.sleep(1)
    pids = pool.pids
    utterances = [pool.listen_for(commands=True).listen(lambda _: None) for _ in range(2)]
    for utterance in utterances:
        utterance.feed(say("what_time"))
    os.kill(pids[0], signal.SIGSTOP)
    errors = [(await utterance.finish()).error for utterance in utterances]
    assert sorted(errors) == ["", "the speech recogniser stopped"]
    await until(lambda: len(pool.pids) == 2 and pids[0] not in pool.pids)


async def test_an_utterance_without_end_is_refused(pool: RecogniserPool) -> None:
    utterance = pool.listen_for(commands=True).listen(lambda _: None)
    for _ in range(62):
        utterance.feed(bytes(32_000))
    assert (await utterance.finish()).error == "the utterance is too long"


async def test_a_killed_forkserver_is_replaced_with_all_recognisers() -> None:
    pool = RecogniserPool(1)
    await pool.start(lambda text: None)
    await until(lambda: len(pool.pids) == 1)
    (recogniser,) = pool.pids
    parent = psutil.Process(recogniser).ppid()
    os.kill(parent, signal.SIGKILL)
    await until(lambda: len(pool.pids) == 1 and pool.pids != [recogniser])
    assert (await recognise(pool, "what_time")).text == "what time is it"
    await pool.close()
    assert is_gone(recogniser)


async def test_closing_fails_what_is_under_way_and_leaves_no_process() -> None:
    pool = RecogniserPool(1)
    await pool.start(lambda text: None)
    await until(lambda: len(pool.pids) == 1)
    pids = pool.pids
    parent = psutil.Process(pids[0]).ppid()
    utterance = pool.listen_for(commands=True).listen(lambda _: None)
    await pool.close()
    assert (await utterance.finish()).error
    await until(lambda: all(is_gone(pid) for pid in [*pids, parent]))


PROGRAM = """
import asyncio
from engine.builtin.recogniser import RecogniserPool

async def main():
    pool = RecogniserPool(2)
    await pool.start(lambda text: None)
    while len(pool.pids) < 2:
        await asyncio.sleep(0.01)
    print("up", flush=True)
    utterance = pool.listen_for(commands=True).listen(lambda text: None)
    while True:
        utterance.feed(bytes(640))
        await asyncio.sleep(0.001)

asyncio.run(main())
"""


async def test_no_process_outlives_a_killed_engine() -> None:
    engine = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    assert engine.stdout is not None
    assert await engine.stdout.readline() == b"up\n"
    family = [child.pid for child in psutil.Process(engine.pid).children(recursive=True)]
    assert len(family) == 3
    engine.kill()
    await engine.wait()
    await until(lambda: all(is_gone(pid) for pid in family), 5)
