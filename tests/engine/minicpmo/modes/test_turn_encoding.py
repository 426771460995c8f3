"""How long a message of the user is, known before anything of it is encoded.

Guards: what is too long is refused before it is encoded; counts that are told ahead are those of
the encoders; recordings with too little in them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.runner import Runner
from tests.engine.minicpmo.engine_rig import scheduler_of
from tests.engine.minicpmo.turn_rig import begin, respond, write
from tests.engine.minicpmo.videos import film
from tests.waiting import until


async def test_what_is_too_long_is_refused_before_it_is_encoded(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = begin(engine)
    await until(lambda: 0 in scheduler_of(engine).runner.turns.sessions)
    encoded: list[str] = []
    for name in ("look", "hear_whole"):
        encode: Callable[..., Any] = getattr(Runner, name)

        def noted(*given: Any, name: str = name, encode: Any = encode, **more: Any) -> Any:
            encoded.append(name)
            return encode(*given, **more)

        monkeypatch.setattr(Runner, name, noted)
    write(talk, p.VideoPart(film(25.0, fps=2)), "what happens?")
    respond(talk)
    warning = await talk.until(p.SessionWarning)
    assert warning.code == "context_length_exceeded" and "shorter" in warning.message
    assert encoded == []
    write(talk, p.VideoPart(film(1.0)))
    respond(talk)
    await talk.until(p.ResponseDone, 2)
    assert encoded == ["look", "hear_whole"]
    await talk.session.close()


async def test_counts_told_ahead_are_those_of_the_encoders(engine: MiniCpmoEngine) -> None:
    runner = scheduler_of(engine).runner
    for count in (1, 159, 160, 801, 3_200, 16_000, 16_560, 480_001):
        for in_blocks in (False, True):
            [heard] = runner.hear_whole([torch.zeros(count)], in_blocks=in_blocks)
            assert runner.count_sound(count) == len(heard), f"{count} samples"
    for height, width in ((28, 28), (120, 160), (900, 300), (1000, 1400)):
        for most in (1, 9):
            picture = torch.zeros(height, width, 3, dtype=torch.uint8)
            plan, [seen] = runner.plan_picture(picture, most), runner.look([(picture, most)])
            assert (plan.columns, plan.rows) == (seen.columns, seen.rows)
            assert plan.num_images == len(seen.images)


async def test_an_empty_recording_is_told(engine: MiniCpmoEngine) -> None:
    talk = begin(engine)
    write(talk, p.AudioPart(b""), "hello")
    left_out = await talk.until(p.PartLeftOut)
    assert left_out.part == 0 and "recording is empty" in left_out.reason
    await talk.session.close()


async def test_a_recording_too_short_to_hear_costs_only_itself(engine: MiniCpmoEngine) -> None:
    talk = begin(engine)
    write(talk, p.AudioPart(bytes(2 * 1200)), "hello")
    respond(talk)
    await talk.until(p.ResponseDone)
    assert not talk.all(p.SessionEnded)
    await talk.session.close()
