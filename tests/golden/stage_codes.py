"""Speech codes: condition rows, the decoder's states and scores, free decoding."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from engine.gpu.kv.cache import DeviceTokenPlan, NativeKV
from engine.gpu.layers.varlen_attention import VarlenLayout
from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.models.talker.sampling import SpeechSampling
from engine.minicpmo.models.talker.tts import SpeechDecoder, load_speech_decoder
from engine.minicpmo.speech.talker import Talker, TalkerInput
from tests.golden.golden_set import GoldenSet
from tests.golden.logits import compare_top
from tests.golden.report import Report

PARTS = ("duplex", "duplex_tts_reset")
"""The second part is the session in which forced listening also resets the speech decoder."""

SMALLEST = 1e-300
MARGIN_LIMIT = 1e-3


def compare(golden: GoldenSet, report: Report, batch: int) -> None:
    """Each utterance with stored codes and conditions, then free runs, alone and side by side."""
    place = golden.place
    with golden.checkpoint() as checkpoint:
        decoder = load_speech_decoder(
            checkpoint, golden.config.tts, device=place.device, dtype=place.dtype
        )
    for part in PARTS:
        if part not in golden.trace:
            continue
        _forced(golden, report, decoder, duplex_steps(golden, part))
        if place.is_narrow:
            continue
        _Free(golden, report, decoder, duplex_steps(golden, part), 1, "own").run()
        if batch > 1:
            _Free(golden, report, decoder, duplex_steps(golden, part), batch, "batch").run()
    for name in golden.trace.get("half_duplex", {}):
        if not name.startswith("g"):
            continue
        steps = list(group_steps(golden, report, name))
        _forced(golden, report, decoder, steps)
        if place.is_narrow:
            continue
        _Free(golden, report, decoder, steps, 1, "own").run()
        if batch > 1:
            _Free(golden, report, decoder, steps, batch, "batch").run()


@dataclass
class Step:
    """What a session does with its decoder at one time; `key` empty: it says nothing."""

    key: str = ""
    """Tensor name up to the dot, e.g. `duplex/u01`."""
    trace: dict[str, Any] = field(default_factory=dict)
    ids: list[int] = field(default_factory=list)
    hidden: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    ends: bool = False
    in_units: bool = True
    resets: bool = False
    """The turn is cut before this step and the decoder reset with it."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What is stored beside the codes."""


def units_of(golden: GoldenSet, part: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """The stored units of a part, each with what is known of it from the whole session."""
    whole = {unit["unit"]: unit for unit in golden.units}
    return [
        (unit, whole.get(unit["unit"], {}) | unit) for unit in golden.trace[part].get("units", [])
    ]


def duplex_steps(golden: GoldenSet, part: str) -> list[Step]:
    """The units of a duplex session."""
    steps = []
    for unit, known in units_of(golden, part):
        name = f"u{unit['unit']:02d}"
        cut = bool(known["inputs"].get("force_listen")) and known["turn_open_before"]
        step = Step(resets=cut and part != "duplex")
        step.facts = {key: unit[key] for key in ("n_tts_tokens", "tts_pos_after") if key in unit}
        step.facts["name"] = f"{part}.{name}"
        if "tts" in unit:
            step.key, step.trace, step.ends = f"{part}/{name}", unit["tts"], known["end_of_turn"]
            step.ids = known["unit_ids"]
            # Row j + 1 belongs to the token of step j, and that of step 0 is not spoken.
            source = f"{part}/{name}.hidden"
            if source not in golden:
                source = f"duplex/{name}.hidden"
            step.hidden = golden.tensor(source)[2 : 2 + len(step.ids)]
        steps.append(step)
    return steps


def group_steps(golden: GoldenSet, report: Report, name: str) -> Iterator[Step]:
    """The groups of a spoken turn-based reply: a chunk passes its last token on."""
    trace = golden.trace["half_duplex"][name]
    groups = trace.get("tts_groups", [])
    key = f"trace/half_duplex.{name}.tts_groups"
    if not groups:
        report.equal(key, [], groups)
        return
    tokens = [token for chunk in trace["chunks"] for token in chunk["tokens"]]
    hidden = golden.tensor(f"half_duplex/{name}.hidden")
    said = total = 0
    for index, (chunk, group) in enumerate(zip(trace["chunks"], groups, strict=True)):
        total += len(chunk["tokens"])
        until = total if chunk["finished"] else total - 1
        yield Step(
            f"half_duplex/{name}.g{index}",
            group,
            tokens[said:until],
            hidden[said + 1 : until + 1],
            chunk["finished"],
            in_units=False,
            facts={"name": f"half_duplex.{name}.tts_groups.{index}"},
        )
        said = until


def sampling_of(golden: GoldenSet, in_units: bool) -> SpeechSampling:
    """The settings of the set's run, with the best code in place of draws."""
    if in_units:
        values: dict[str, Any] = golden.trace["duplex"].get("generate", {})
        cut: dict[str, Any] = {}
    else:
        half = golden.trace["half_duplex"]
        values = next((g["generate"] for g in half.values() if "generate" in g), {})
        cut = {"top_p": values.get("tts_top_p", 0.85), "top_k": values.get("tts_top_k", 25)}
    return SpeechSampling(
        temperature=values.get("tts_temperature", 0.8),
        repetition_penalty=values.get("tts_repetition_penalty", 1.05),
        greedy=True,
        **cut,
    )


def _forced(golden: GoldenSet, report: Report, decoder: SpeechDecoder, steps: list[Step]) -> None:
    """All forwards of an utterance at once from the stored condition and codes."""
    kv = NativeKV(decoder.cache_spec(), 1)
    for step in steps:
        if step.resets:
            kv.truncate(0, 0)
        if not step.key:
            continue
        codes, key = step.trace["codes"], f"{step.key}.tts_cond"
        rows = golden.tensor(key) if key in golden else _condition(decoder, step)
        if golden.place.is_narrow and key in golden:
            report.add(key, _condition(decoder, step), rows, kind="own")
        past = decoder.embed_codes(torch.tensor(codes, dtype=torch.long, device=kv.device))
        feed = torch.cat([rows.to(past.dtype), past])
        plan = row_plan(kv, 0, len(feed))
        hidden = decoder(feed, kv, plan)[len(rows) - 1 :]
        kv.advance([0], [len(feed)])
        _compare_forwards(golden, report, step.key, (hidden, decoder.logits(hidden)), "stored")
        if step.ends:
            kv.truncate(0, 0)


def row_plan(kv: NativeKV, slot: int, count: int) -> DeviceTokenPlan:
    """A plan that appends `count` tokens to one row."""
    start, cells = kv.lengths[slot], kv.keys[0].shape[1]
    positions = torch.arange(start, start + count, dtype=torch.int32, device=kv.device)
    bounds = torch.tensor([[0, count], [slot * cells, 0]], dtype=torch.int32, device=kv.device)
    used = torch.tensor([start + count], dtype=torch.int32, device=kv.device)
    layout = VarlenLayout(bounds[0], bounds[1], used, count, cells)
    return DeviceTokenPlan(positions.int(), (slot * cells + positions).int(), layout)


def _nothing(decoder: SpeechDecoder) -> Tensor:
    return torch.zeros(0, decoder.config.llm_dim)


def _condition(decoder: SpeechDecoder, step: Step) -> Tensor:
    return decoder.condition(
        torch.tensor(step.ids, dtype=torch.long),
        step.hidden if step.ids else _nothing(decoder),
        normalize=step.in_units or decoder.config.normalize_projected_hidden,
        text_ends=step.ends and not step.in_units,
    )


def _compare_forwards(
    golden: GoldenSet, report: Report, key: str, ours: tuple[Tensor, Tensor], kind: str
) -> None:
    hidden, raw = ours
    if f"{key}.tts_hidden" in golden:
        report.add(f"{key}.tts_hidden", hidden, golden.tensor(f"{key}.tts_hidden"), kind=kind)
    if f"{key}.tts_top_values" in golden:
        stored = golden.tensor(f"{key}.tts_top_values"), golden.tensor(f"{key}.tts_top_ids")
        compare_top(report, f"{key}.tts_top", raw, stored, kind)


@dataclass
class _Seen:
    """The forwards of one row."""

    hidden: list[Tensor] = field(default_factory=list)
    raw: list[Tensor] = field(default_factory=list)
    scores: list[Tensor] = field(default_factory=list)


class _Free:
    """`count` copies of a session, each a step later than the one before."""

    def __init__(
        self,
        golden: GoldenSet,
        report: Report,
        decoder: SpeechDecoder,
        steps: list[Step],
        count: int,
        kind: str,
    ) -> None:
        self.golden, self.report, self.kind = golden, report, kind
        self.steps, self.count = steps, count
        self.codes = Talker(decoder, count)
        self.codes.observe = self._observe
        self.seen: list[_Seen] = []

    def run(self) -> None:
        for moment in range(len(self.steps) + self.count - 1):
            due = {s: moment - s for s in range(self.count) if 0 <= moment - s < len(self.steps)}
            current = {slot: self.steps[place] for slot, place in due.items()}
            for slot, step in current.items():
                if step.resets:
                    self.codes.reset(slot)
            speaking = {slot: step for slot, step in current.items() if step.key}
            before = {slot: self.codes.kv.lengths[slot] for slot in speaking}
            results = dict.fromkeys(current, list[int]())
            if speaking:
                results |= dict(zip(speaking, self._speak(speaking), strict=True))
            for row, (slot, step) in enumerate(speaking.items()):
                self._compare(step, self.seen[row], results[slot], before[slot])
            for slot, step in current.items():
                self._compare_facts(slot, step, results[slot])

    def _speak(self, speaking: dict[int, Step]) -> list[list[int]]:
        in_units = next(iter(speaking.values())).in_units
        sampling = sampling_of(self.golden, in_units)
        batch = [
            TalkerInput(
                slot,
                torch.tensor(step.ids, dtype=torch.long),
                step.hidden if step.ids else _nothing(self.codes.decoder),
                Draws(slot),
                step.ends,
                sampling,
                step.trace.get("eos_forced_at"),
            )
            for slot, step in speaking.items()
        ]
        self.seen = [_Seen() for _ in batch]
        speak = self.codes.duplex if in_units else self.codes.group
        return speak(batch)

    def _observe(self, rows: list[int], hidden: Tensor, raw: Tensor, scores: Tensor) -> None:
        for place, row in enumerate(rows):
            self.seen[row].hidden.append(hidden[place])
            self.seen[row].raw.append(raw[place])
            self.seen[row].scores.append(scores[place])

    def _compare(self, step: Step, seen: _Seen, codes: list[int], before: int) -> None:
        golden, report, key, trace = self.golden, self.report, step.key, step.trace
        if f"{key}.tts_codes" in golden:
            report.equal(f"{key}.tts_codes", codes, golden.tensor(f"{key}.tts_codes"), self.kind)
        hidden, raw = torch.stack(seen.hidden), torch.stack(seen.raw)
        _compare_forwards(golden, report, key, (hidden, raw), self.kind)
        condition = _condition(self.codes.decoder, step)
        if f"{key}.tts_cond" in golden:
            stored = golden.tensor(f"{key}.tts_cond")
            report.add(f"{key}.tts_cond", condition, stored, kind=self.kind)
        if f"{key}.tts_margin" in golden:
            ours = _margins(torch.stack(seen.scores))
            stored = golden.tensor(f"{key}.tts_margin")
            report.add_absolute(f"{key}.tts_margin", ours, stored, MARGIN_LIMIT, self.kind)
        if step.in_units:
            facts = {
                "cond_rows": len(condition),
                "pos_before": before,
                "kv_before": before,
                "kv_after": before + len(condition) + len(codes),
                "min_new_tokens": 0 if step.ends or not before else 26,
                "codes": codes,
                "forwards": len(seen.raw),
            }
            prefix = f"trace/{step.facts['name']}.tts"
        else:
            facts = {
                "rows": len(condition),
                "text_finished": step.ends,
                "pos_before": before,
                "codes": codes,
            }
            prefix = f"trace/{step.facts['name']}"
        for name, value in facts.items():
            if name in trace:
                report.equal(f"{prefix}.{name}", value, trace[name], self.kind)

    def _compare_facts(self, slot: int, step: Step, codes: list[int]) -> None:
        ours = {"n_tts_tokens": len(codes), "tts_pos_after": self.codes.kv.lengths[slot]}
        for name, value in ours.items():
            if name in step.facts:
                self.report.equal(
                    f"trace/{step.facts['name']}.{name}", value, step.facts[name], self.kind
                )


def _margins(scores: Tensor) -> Tensor:
    """The lead of the best code in log probability; probabilities underflow as in float32."""
    best = scores.softmax(dim=-1).topk(2, dim=-1).values.double().clamp(min=SMALLEST).log()
    return (best[:, 0] - best[:, 1]).float()
