"""Whatever sessions say, it is said in shapes that there are graphs for."""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import pytest
import torch
from torch import Tensor

from engine.gpu.graphs import GraphPool
from engine.minicpmo.models.code2wav import Code2WavModel, VoiceBase
from engine.minicpmo.models.vocoder.config import VocoderConfig
from engine.minicpmo.models.vocoder.streaming import Wave
from engine.minicpmo.speech.code2wav import WINDOW_CODES, Code2Wav, Codes
from tests.speech_assets import random_token2wav, random_voice
from tests.speech_configs import TINY_FLOW, tiny_vocoder

T = TypeVar("T")

LONGEST = 60
"""Codes of a turn: two units and some, so that every state is met in which one may end."""
FIRST = 9
SLOTS = 6


class Shapes(GraphPool):
    """Notes what would be captured and what has no graph; computes silence in place of sound."""

    def __init__(self, vocoder: VocoderConfig, num_mels: int) -> None:
        super().__init__("cpu")
        self.known: set[Hashable] = set()
        self.unknown: set[Hashable] = set()
        self._frame, self._mels = vocoder.frame_samples, num_mels

    @property
    def has_to_warm_up(self) -> bool:
        return True

    def run(self, key: Any, function: Callable[..., T], *inputs: Tensor) -> T:
        if self._is_capturing:
            self.known.add(key)
        elif key not in self.known:
            self.unknown.add(key)
        result: Any
        if key[0] == "flow":
            result = (torch.zeros(key[1], 2 * key[2], self._mels),) * 2
        else:
            frames = key[1].plan.kept + key[1].plan.frames
            sound = torch.zeros(key[1].rows, (8 + frames) * self._frame)
            result = Wave(sound, sound[:, :frames], sound)
        done: T = result
        return done


@pytest.fixture(scope="module", params=[True, False], ids=["causal", "original"])
def model(request: pytest.FixtureRequest) -> Code2WavModel:
    torch.set_num_threads(1)
    return random_token2wav(TINY_FLOW, tiny_vocoder(causal=request.param), steps=2)


@pytest.fixture(scope="module")
def voice(model: Code2WavModel) -> VoiceBase:
    return model.base(random_voice(1.5))


def warm(model: Code2WavModel, voice: VoiceBase, slots: int, first: int) -> tuple[Code2Wav, Shapes]:
    pool = Shapes(model.vocoder.config, model.flow.config.num_mels)
    streams = Code2Wav(model, slots, 160, graphs=pool, first_codes=first)
    for slot in range(slots):
        streams.set_voice(slot, voice)
    streams.warm_up(slots, lambda line: None)
    return streams, pool


def duplex(count: int, opening: int) -> Iterator[tuple[int, bool]]:
    """The units of a turn, codes and whether it ends; the first one has `opening` at most."""
    unit = min(count, opening)
    while count > unit:
        yield unit, False
        count -= unit
        unit = min(count, WINDOW_CODES)
    yield unit, True


def say_unit(streams: Code2Wav, batch: list[Codes], first: int, starts: bool) -> None:
    """As the speaker does: what begins a turn is heard in two parts where it is long enough."""
    early = [c for c in batch if starts and 0 < first <= len(c.codes)]
    if early:
        streams.first_part([Codes(c.slot, c.codes[:first]) for c in early])
    rest = [Codes(c.slot, c.codes[first:], c.ends) if c in early else c for c in batch]
    streams.unit(rest)


@pytest.mark.parametrize("first", [0, FIRST])
@pytest.mark.parametrize("opening", [WINDOW_CODES, 12, 6, 2])
def test_turns_in_units(model: Code2WavModel, voice: VoiceBase, first: int, opening: int) -> None:
    streams, pool = warm(model, voice, 1, first)
    for count in range(LONGEST + 1):
        for place, (codes, ends) in enumerate(duplex(count, opening)):
            say_unit(streams, [Codes(0, [1] * codes, ends)], first, place == 0)
    assert not pool.unknown


@pytest.mark.parametrize("group", [7, WINDOW_CODES, LONGEST])
def test_turns_in_groups(model: Code2WavModel, voice: VoiceBase, group: int) -> None:
    streams, pool = warm(model, voice, 1, FIRST)
    for count in range(LONGEST + 1):
        for start in range(0, count + 1, group):
            codes = [1] * min(group, count - start)
            streams.group([Codes(0, codes, start + group > count)])
    assert not pool.unknown


@pytest.mark.parametrize("kind", ["units", "groups"])
def test_unlike_slots_at_once(model: Code2WavModel, voice: VoiceBase, kind: str) -> None:
    streams, pool = warm(model, voice, SLOTS, FIRST)
    chance = random.Random(1)
    is_open = [False] * SLOTS
    for _ in range(80):
        slots = chance.sample(range(SLOTS), chance.randint(1, SLOTS))
        batch = []
        for slot in slots:
            ends = chance.random() < 0.4
            most = WINDOW_CODES if kind == "units" else LONGEST
            count = chance.randint(0, most) if ends or not is_open[slot] else most
            batch.append(Codes(slot, [1] * count, ends))
        if kind == "groups":
            streams.group(batch)
        else:
            for starts in (True, False):
                part = [c for c in batch if is_open[c.slot] != starts]
                say_unit(streams, part, FIRST, starts)
        for item in batch:
            is_open[item.slot] = not item.ends
    assert not pool.unknown


@pytest.mark.parametrize(("slots", "most"), [(1, 9), (32, 52)])
def test_the_graphs_are_few(model: Code2WavModel, voice: VoiceBase, slots: int, most: int) -> None:
    """Each takes a fifth of a second of the start."""
    _, pool = warm(model, voice, slots, FIRST)
    assert len(pool.known) <= most
