"""The speech decoder: its engine path beside float32, plain operations, and a row by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from engine.gpu.graphs import GraphPool
from engine.gpu.kv.cache import NativeKV
from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.models.talker.sampling import SpeechSampling
from engine.minicpmo.models.talker.tts import SpeechDecoder
from engine.minicpmo.models.unit import RELEASED_UNIT
from engine.minicpmo.speech.talker import Talker, TalkerInput
from tests.bench.errors import error, significant
from tests.bench.precision_llm import Trace, plain
from tests.bench.widening import widen
from tests.exactness import exact

UNITS = 3
CODES_PER_UNIT = RELEASED_UNIT.codes(0)
WORDS = 8
"""Spoken in each unit."""

Words = list[list[tuple[Tensor, Tensor]]]
"""By unit and row: ids [T] and hidden states [T, C]."""


@dataclass
class Told:
    """What one row gave in one unit: [C], [codes] and [codes] of each forward."""

    hidden: list[Tensor] = field(default_factory=list)
    raw: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)
    codes: list[int] = field(default_factory=list)

    def choices(self, end: int) -> list[int]:
        """The codes, and the end code where it was chosen."""
        return self.codes if len(self.codes) == CODES_PER_UNIT else [*self.codes, end]


def words_of(trace: Trace, limit: int) -> Words:
    """Tokens that the language model chose and its states where they were fed."""
    tokens, units = trace.tokens, []
    for unit in range(UNITS):
        places = range(unit * WORDS, (unit + 1) * WORDS)
        units.append(
            [
                (
                    torch.tensor([tokens[place][row] % limit for place in places]),
                    torch.stack([trace.hidden[place + 1][row] for place in places]),
                )
                for row in range(len(tokens[0]))
            ]
        )
    return units


def speak(decoder: SpeechDecoder, words: Words, pool: GraphPool) -> list[list[Told]]:
    """Free greedy codes, by unit and row."""
    count = len(words[0])
    codes = Talker(decoder, count, graphs=pool)
    codes.warm_up(count, lambda text: None)
    units = []
    for given in words:
        told = [Told() for _ in given]

        def observe(
            rows: list[int], hidden: Tensor, raw: Tensor, scores: Tensor, told: list[Told] = told
        ) -> None:
            for place, row in enumerate(rows):
                told[row].hidden.append(hidden[place].float().cpu())
                told[row].raw.append(raw[place].cpu())
                told[row].scores.append(scores[place].cpu())

        codes.observe = observe
        batch = [
            TalkerInput(
                slot,
                ids,
                hidden.to(decoder.device, decoder.emb_text.weight.dtype),
                Draws(slot),
                sampling=SpeechSampling(greedy=True),
            )
            for slot, (ids, hidden) in enumerate(given)
        ]
        for row, found in zip(told, codes.duplex(batch), strict=True):
            row.codes = found
        units.append(told)
    return units


@torch.inference_mode()
def recite(decoder: SpeechDecoder, words: Words, spoken: list[list[Told]]) -> list[list[Told]]:
    """The same forwards with given codes, all of a unit at once."""
    kv = NativeKV(decoder.cache_spec(), len(words[0]))
    units = []
    for given, known in zip(words, spoken, strict=True):
        feeds, skipped = [], []
        for (ids, hidden), told in zip(given, known, strict=True):
            condition = decoder.condition(ids, hidden.to(decoder.device), normalize=True)
            codes = torch.tensor(told.codes, dtype=torch.long, device=decoder.device)
            feeds.append(torch.cat([condition, decoder.embed_codes(codes)]))
            skipped.append(len(condition) - 1)
        slots, counts = list(range(len(feeds))), [len(feed) for feed in feeds]
        states = decoder(torch.cat(feeds), kv, kv.plan(slots, counts)).split(counts)
        kv.advance(slots, counts)
        rows = []
        for own, skip in zip(states, skipped, strict=True):
            raw = decoder.logits(own[skip:])
            rows.append(Told(list(own[skip:].float().cpu()), list(raw.cpu())))
        units.append(rows)
    return units


def _rows(units: list[list[Told]]) -> list[Told]:
    return list(chain.from_iterable(units))


def errors(ours: list[list[Told]], reference: list[list[Told]]) -> dict[str, Any]:
    """Both were fed the same codes."""
    pairs = list(zip(_rows(ours), _rows(reference), strict=True))
    told: dict[str, Any] = {}
    for name in ("hidden", "raw"):
        left = list(chain.from_iterable(getattr(a, name) for a, _ in pairs))
        right = list(chain.from_iterable(getattr(b, name) for _, b in pairs))
        told["logits" if name == "raw" else name] = error(left, right)
    return told


def greedy(ours: list[list[Told]], reference: list[list[Told]], end: int) -> dict[str, Any]:
    """Where free codes differ first, by row; the lead is in the reference's scores."""
    firsts: list[dict[str, Any]] = []
    for row in range(len(ours[0])):
        for unit, (mine, theirs) in enumerate(zip(ours, reference, strict=True)):
            left, right = mine[row].choices(end), theirs[row].choices(end)
            if left == right:
                continue
            place = next(i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b)
            scores = theirs[row].scores[place]
            lead = float(scores[right[place]] - scores[left[place]])
            firsts.append({"row": row, "unit": unit, "code": place, "lead": significant(lead)})
            break
    return {
        "rows": len(ours[0]),
        "codes": len(ours) * CODES_PER_UNIT,
        "rows_all_equal": len(ours[0]) - len(firsts),
        "first_difference": min(firsts, key=lambda f: (f["unit"], f["code"]), default=None),
        "differences": firsts,
    }


def measure(
    decoder: SpeechDecoder, trace: Trace, in_four_bits: Trace
) -> tuple[dict[str, Any], list[list[list[int]]]]:
    """Leaves the decoder in float32. Also returns the codes of the engine, by unit and row.

    `in_four_bits`: what a language model in 4 bits computed where it was fed the same.
    """
    words = words_of(trace, decoder.config.num_text_tokens)
    device, end = decoder.device, decoder.end_code
    pool = GraphPool(device)
    engine = speak(decoder, words, pool)
    alone = speak(decoder, [unit[:1] for unit in words], GraphPool(device))
    same_words = Trace(in_four_bits.hidden, trace.logits)
    other = speak(decoder, words_of(same_words, decoder.config.num_text_tokens), GraphPool(device))
    told: dict[str, Any] = {
        "graph_misses": pool.misses,
        "with a language model in 4 bits": greedy(other, engine, end),
        "a row alone": greedy(alone, [unit[:1] for unit in engine], end),
    }
    del pool
    narrow = decoder.emb_text.weight.dtype
    given = [[(ids, hidden.to(narrow)) for ids, hidden in unit] for unit in words]
    with plain(kernels=True, attention=True):
        told["engine against plain operations"] = errors(engine, recite(decoder, given, engine))
    widen(decoder)
    with exact():
        exact_told = recite(decoder, words, engine)
        free = speak(decoder, words, GraphPool(device, enabled=False))
    told["engine against float32"] = errors(engine, exact_told) | greedy(engine, free, end)
    return told, [[row.codes for row in unit] for unit in engine]
