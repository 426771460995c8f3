"""Turn-based sessions of the native engine, with a tiny random model: one request after the other.

Guards: what was cut off or never heard is forgotten, and the next reply comes; cancellations of
earlier responses; requests that wait in vain are refused; modes switch within a session.
"""

from __future__ import annotations

from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.modes.half_duplex import MAX_WAITING_TURNS
from tests.engine.minicpmo.engine_rig import Paused, Talk, config, scheduler_of, voiced
from tests.waiting import until


async def test_after_a_reply_was_cut_off_the_next_one_comes(engine: MiniCpmoEngine) -> None:
    long = p.Sampling(seed=7, max_output_tokens=200)
    talk = Talk(engine, "one", 0, config(mode="turn_based", sampling=long))
    for count in (1, 2, 3):
        item = p.ItemIn("one", f"i{count}", "user", (p.TextPart("tell me"),))
        talk.session.handle(item)
        talk.session.handle(p.CreateResponse("one"))
        started = await talk.until(p.ResponseStarted, count)
        assert started.epoch == count
        if count < 3:
            talk.session.handle(p.CancelResponse("one", count))
            done = await talk.until(p.ResponseDone, count)
            assert (done.epoch, done.status) == (count, "cancelled")
    heard = await talk.when(lambda: [m for m in talk.all(p.AudioOut) if m.epoch == 3])
    assert heard[0].pts == 0
    await talk.session.close()


async def test_speech_waits_for_a_client_that_asks_itself(engine: MiniCpmoEngine) -> None:
    short = p.Sampling(seed=7, max_output_tokens=10)
    by_client = p.TurnDetection(create_response=False)
    settings = config(mode="half_duplex", sampling=short, turn_detection=by_client)
    talk = Talk(engine, "one", 0, settings)
    talk.hear(voiced(0.8))
    talk.quiet(0.8)
    await talk.until(p.SpeechStopped)
    talk.session.handle(p.CreateResponse("one"))
    assert (await talk.until(p.ResponseStarted)).trigger == "request"
    await talk.session.close()


async def test_a_cancellation_of_an_earlier_response_leaves_the_newest(
    engine: MiniCpmoEngine,
) -> None:
    short = p.Sampling(seed=7, max_output_tokens=10)
    talk = Talk(engine, "one", 0, config(mode="turn_based", sampling=short))
    talk.session.handle(p.ItemIn("one", "i1", "user", (p.TextPart("tell me"),)))
    talk.session.handle(p.CreateResponse("one"))
    await talk.until(p.ResponseStarted)
    talk.session.handle(p.CancelResponse("one", 0))
    assert (await talk.until(p.ResponseDone)).status != "cancelled"
    await talk.session.close()


async def test_of_more_requests_than_may_wait_the_oldest_is_refused(
    engine: MiniCpmoEngine,
) -> None:
    talk = Talk(engine, "one", 0, config(mode="turn_based"))
    # Nothing is answered meanwhile, so all of them wait.
    talk.session.handle(p.ForceListen("one", True))
    for count in range(MAX_WAITING_TURNS + 1):
        talk.session.handle(p.ItemIn("one", f"i{count}", "user", (p.TextPart("tell me"),)))
        talk.session.handle(p.CreateResponse("one", request=f"r{count}"))
    refused = await talk.until(p.RequestRefused)
    assert (refused.request, refused.code) == ("r0", "overloaded")
    assert not talk.all(p.ResponseStarted)
    await talk.session.close()


async def test_what_was_not_heard_of_a_finished_reply_is_forgotten(engine: MiniCpmoEngine) -> None:
    turns = scheduler_of(engine).runner.turns
    short = p.Sampling(seed=7, max_output_tokens=10)
    talk = Paused(engine, "one", 0, config(mode="turn_based", sampling=short))
    talk.session.handle(p.ItemIn("one", "i1", "user", (p.TextPart("tell me"),)))
    talk.session.handle(p.CreateResponse("one"))
    await talk.until(p.AudioOut)
    await until(lambda: not turns.sessions[0].needs_decision)
    whole = turns.sessions[0].length
    talk.session.handle(p.CancelResponse("one", 1))
    await until(lambda: turns.sessions[0].length < whole)
    await talk.session.close()


async def test_modes_switch_within_a_session(engine: MiniCpmoEngine) -> None:
    talk = Talk(engine, "one", 0, config())
    await talk.units(2)
    short = p.Sampling(seed=7, max_output_tokens=10)
    talk.session.handle(p.UpdateSession("one", config(mode="turn_based", sampling=short)))
    text = p.TextPart("hello there")
    talk.session.handle(p.ItemIn("one", "i1", "user", (text,)))
    talk.session.handle(p.CreateResponse("one"))
    typed = await talk.when(
        lambda: [m for m in talk.all(p.ResponseStarted) if m.trigger == "request"]
    )
    done = await talk.when(
        lambda: [m for m in talk.all(p.ResponseDone) if m.epoch == typed[0].epoch]
    )
    assert done[0].status in ("completed", "incomplete")
    talk.session.handle(p.UpdateSession("one", config(mode="half_duplex", sampling=short)))
    talk.hear(voiced(0.8))
    talk.quiet(0.8)
    spoken = await talk.when(
        lambda: [m for m in talk.all(p.ResponseStarted) if m.trigger == "speech"]
    )
    assert spoken[0].utterance == talk.all(p.SpeechStopped)[-1].utterance
    talk.session.handle(p.UpdateSession("one", config()))
    await talk.units(2)
    restarts = [w for w in talk.all(p.SessionWarning) if w.code == "context_restarted"]
    assert len(restarts) == 2, "between the two that take turns the conversation goes on"
    await talk.session.close()
