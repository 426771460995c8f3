"""The full-duplex session: language model, decisions and window, from stored and own embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from engine.minicpmo.llm.batch import Replay as Hooks
from engine.minicpmo.llm.context_window import WindowSettings
from engine.minicpmo.llm.duplex_batch import DuplexBatch, UnitInput
from engine.minicpmo.llm.duplex_state import DuplexSettings, DuplexState
from engine.minicpmo.llm.duplex_unit import UnitResult
from engine.minicpmo.llm.sampler import DuplexSampling, forbidden_mask
from engine.minicpmo.llm.sampling_ops import DuplexIds
from engine.minicpmo.llm.tokenizer import OmniTokenizer
from engine.minicpmo.models.llm.qwen3 import Qwen3
from tests.golden.golden_set import GoldenSet
from tests.golden.logits import FORCED_LOGIT, RecordingRows, compare_top, load_llm
from tests.golden.own_inputs import own_embeddings
from tests.golden.report import Report
from tests.golden.stage_pictures import image_counts
from tests.processed_logits import duplex_logits

REPEATS = ("duplex", "duplex_tts_reset")
"""Parts of a set that hold the same language-model session."""


def compare(golden: GoldenSet, report: Report, batch: int) -> None:
    """Replay the session alone, then `batch` times side by side, each one unit later."""
    if "duplex" not in golden.trace:
        return
    model = load_llm(golden)
    Replay(golden, report, model, 1, "stored").run()
    Replay(golden, report, model, 1, "deferred", defer=True).run()
    Replay(golden, report, model, 1, "own", embeddings=own_embeddings(golden)).run()
    if batch > 1:
        Replay(golden, report, model, batch, "batch").run()


def duplex_settings(golden: GoldenSet) -> DuplexSettings:
    """The settings that the set's session ran with."""
    trace = golden.trace["duplex"]
    values = trace.get("generate", {})
    sampling = DuplexSampling(
        temperature=values.get("temperature", 0.7),
        top_k=values.get("top_k", 20),
        top_p=values.get("top_p", 0.8),
        greedy=True,
        repetition_penalty=values.get("text_repetition_penalty", 1.05),
        repetition_window=values.get("text_repetition_window_size", 512),
        length_penalty=values.get("length_penalty", 1.1),
        listen_prob_scale=values.get("listen_prob_scale", 1.0),
        listen_top_k=values.get("listen_top_k"),
    )
    return DuplexSettings(
        sampling=sampling,
        force_listen_count=trace.get("force_listen_count", 0),
        max_tokens=values.get("max_new_speak_tokens_per_chunk") or DuplexSettings.max_tokens,
        window=window_settings(trace.get("window", {})),
        parity=True,
    )


def window_settings(values: dict[str, Any]) -> WindowSettings:
    """Read a window as a trace spells it: by the words in the names of its numbers."""

    def find(*words: str) -> dict[str, Any]:
        found = [v for k, v in values.items() if any(w in k for w in words) and v is not None]
        return {"found": found[0]} if found else {}

    names = {
        "mode": find("mode"),
        "high": find("high"),
        "low": find("low"),
        "max_units": find("max_units", "units"),
        "max_previous": find("previous_max", "max_previous"),
    }
    return WindowSettings(**{name: value["found"] for name, value in names.items() if value})


class RecordedSession(DuplexState):
    """Remembers what the sampler returned."""

    chosen: list[int]

    def decide(self, token: int) -> UnitResult | None:
        self.chosen.append(token)
        return super().decide(token)


@dataclass
class Turn:
    """One slot's place in the session."""

    session: RecordedSession
    delay: int
    unit: dict[str, Any] = field(default_factory=dict)
    length_before: int = 0
    open_before: bool = False
    dropped: tuple[int, int] = (0, 0)
    prefilled: int = 0
    processed: list[Tensor] = field(default_factory=list)
    """Logits after the rules, one per step."""
    result: UnitResult | None = None


class Replay:
    """`count` copies of the set's session over one model."""

    def __init__(
        self,
        golden: GoldenSet,
        report: Report,
        model: Qwen3,
        count: int,
        kind: str,
        *,
        defer: bool = False,
        embeddings: dict[str, Tensor] | None = None,
    ) -> None:
        """`embeddings`: replacements of stored ones by key, e.g. our own encoders' output."""
        self.golden, self.report, self.kind, self.defer = golden, report, kind, defer
        self.units, self.tokens = golden.units, golden.tokens
        self.embeddings = dict(embeddings or {})
        longest = max(u["kv_after_generate"] for u in self.units) + 64
        self.rows = RecordingRows(model, count, longest, golden.place.pool())
        self.duplex = DuplexBatch(self.rows, self.tokens, Hooks(observe=self._observe))
        settings = duplex_settings(golden)
        self.turns = []
        for slot in range(count):
            session = RecordedSession(self.tokens, settings, slot, longest)
            session.chosen = []
            self.turns.append(Turn(session, slot))
            self.duplex.open(slot, session)
        self.ids = duplex_ids(self.tokens)
        self.forbidden = forbidden_mask(
            self.tokens.duplex_forbidden, model.config.vocab_size, model.device
        )

    def run(self) -> None:
        self._prepare()
        for moment in range(len(self.units) + len(self.turns) - 1):
            current = {
                slot: turn
                for slot, turn in enumerate(self.turns)
                if 0 <= moment - turn.delay < len(self.units)
            }
            for slot, turn in current.items():
                self._begin(slot, turn, self.units[moment - turn.delay])
            done = self.duplex.prefill([self._input(slot) for slot in current])
            while any(turn.session.needs_decision for turn in current.values()):
                done |= self.duplex.step()
            for slot, turn in current.items():
                turn.result = done[slot]
                self._compare_unit(slot, turn)
            self.duplex.finalize(list(current), defer=self.defer)
            if not self.defer:
                for slot, turn in current.items():
                    self._compare_window(slot, turn)

    # ------------------------------------------------------------------ driving

    def _prepare(self) -> None:
        trace = self.golden.trace["duplex"]
        prefix, suffix = (self.tokens.encode(trace[name]) for name in ("prefix", "suffix"))
        parts = [self._embedding(key) for key in self._sorted("duplex/prepare.audio", ".embed")]
        voice = torch.cat(parts) if parts else None
        message = (prefix, voice, suffix)
        self.duplex.prepare(dict.fromkeys(range(len(self.turns)), message))
        for slot, turn in enumerate(self.turns):
            self._equal("trace/duplex.kv_after_prepare", self.rows.length(slot))
            if "protected" in trace:
                self._equal("trace/duplex.protected", turn.session.window.protected)
        rows = [len(prefix), 0 if voice is None else len(voice), len(suffix)]
        starts = [sum(rows[:index]) for index in range(3)]
        stored = trace.get("prepare", {}).get("feeds")
        if stored is not None:
            ids = [prefix, None, suffix]
            ours = [
                {"pos": starts[i], "len": rows[i], "ids": ids[i]} for i in range(3) if rows[i] > 0
            ]
            self.report.equal("trace/duplex.prepare.feeds", ours, stored, self.kind)

    def _begin(self, slot: int, turn: Turn, unit: dict[str, Any]) -> None:
        turn.unit = unit
        turn.length_before = self.rows.length(slot) + len(turn.session.tail)
        turn.open_before = turn.session.turn_open
        turn.dropped = (
            turn.session.window.dropped_entries,
            turn.session.window.dropped_tokens,
        )
        turn.processed, turn.session.chosen = [], []
        self.rows.forget(slot)

    def _input(self, slot: int) -> UnitInput:
        turn = self.turns[slot]
        unit = turn.unit
        head = f"duplex/u{unit['unit']:02d}."
        audio = (
            self._embedding(head + "audio_embed") if head + "audio_embed" in self.golden else None
        )
        if audio is not None:
            self.rows.audio.add(id(audio))
        names = iter([name for images in unit.get("images", []) for name in images["names"]])
        pictures = [
            [self._embedding(f"{head}{name}.embed") for name in islice(names, count)]
            for count in image_counts(self.golden, unit["inputs"])
        ]
        parts = [part for group in pictures for part in group]
        turn.prefilled = 1 + sum(2 + len(part) for part in parts)
        turn.prefilled += 0 if audio is None else len(audio)
        force = bool(unit["inputs"].get("force_listen"))
        return UnitInput(slot, audio, pictures, force)

    def _observe(self, slots: list[int], logits: Tensor) -> Tensor:
        rows = [self.turns[slot].session.row for slot in slots]
        processed = duplex_logits(logits, rows, self.ids, self.forbidden)
        logits = logits.clone()
        for index, slot in enumerate(slots):
            turn = self.turns[slot]
            steps = turn.unit["steps"]
            place = len(turn.processed)
            turn.processed.append(processed[index])
            which = "chosen" if self.golden.place.is_narrow else "forced"
            forced = steps[place][which] if place < len(steps) else None
            if forced is not None:
                logits[index, forced] = FORCED_LOGIT
        return logits

    # ------------------------------------------------------------------ comparing

    def _compare_unit(self, slot: int, turn: Turn) -> None:
        result, unit, session = turn.result, turn.unit, turn.session
        assert result is not None
        # A deferred end of the unit before stands in front.
        skip = len(self.rows.fed[slot]) - (result.kv_length - turn.length_before)
        chosen = [step["chosen"] for step in unit["steps"]]
        if not session.chosen:
            # A listen by force was sampled by nobody; a trace may list it or not.
            chosen = [token for token in chosen if token != self.tokens.listen]
        facts = {
            "kv_before": turn.length_before,
            "kv_after_prefill": turn.length_before + turn.prefilled,
            "kv_after_generate": result.kv_length,
            "turn_open_before": turn.open_before,
            "turn_open_after": session.turn_open,
            "sequence": self.rows.fed[slot][skip:] + session.tail,
            "terminator": result.terminator,
            "unit_ids": [spoken.id for spoken in result.spoken],
            "is_listen": result.is_listen,
            "end_of_turn": result.end_of_turn,
            "text": result.text,
            "n_tokens": result.num_tokens,
        }
        name = f"u{unit['unit']:02d}"
        self.report.equal(f"trace/duplex.{name}.steps", session.chosen, chosen, self.kind)
        self._facts(name, facts)
        if self.kind == "stored":
            self.report.given(f"trace/duplex.{name}.feeds", "how rows are split is free")
        states = self.rows.states[slot][skip + turn.prefilled - 1 :]
        for part in REPEATS:
            self._compare_states(f"{part}/{name}", torch.stack(states), turn)

    def _compare_states(self, head: str, states: Tensor, turn: Turn) -> None:
        """`states`: from the last prefilled position on."""
        golden, report, kind = self.golden, self.report, self.kind
        if f"{head}.hidden" in golden:
            stored = golden.tensor(f"{head}.hidden")
            report.add(f"{head}.hidden", states[: len(stored)], stored, kind=kind)
        if f"{head}.top_values" in golden:
            best = self._best(f"{head}.top")
            logits = self.rows.model.logits(states[: len(best[1])]).float()
            compare_top(report, f"{head}.top", logits, best, kind)
        if f"{head}.proc_top_values" in golden:
            best = self._best(f"{head}.proc_top")
            processed = list(turn.processed)
            for state in states[len(processed) : len(best[1])]:
                logits = self.rows.model.logits(state[None]).float()
                processed += duplex_logits(logits, [turn.session.row], self.ids, self.forbidden)
            rows = torch.stack(processed) if processed else states.new_zeros(0, 1)
            compare_top(report, f"{head}.proc_top", rows, best, kind)

    def _compare_window(self, slot: int, turn: Turn) -> None:
        window, unit = turn.session.window, turn.unit
        name = f"u{unit['unit']:02d}"
        facts: dict[str, Any] = {
            "kv_after_finalize": self.rows.length(slot),
            "history": [entry.length for entry in window.entries],
            "protected": window.protected,
            "window_moved": window.dropped_entries > turn.dropped[0],
        }
        # The trace may count what was dropped in this unit or since the start.
        counts = (window.dropped_entries, window.dropped_tokens)
        for index, key in enumerate(("dropped_units", "dropped_tokens")):
            either = (counts[index], counts[index] - turn.dropped[index])
            stored = unit.get(key)
            facts[key] = stored if stored in either else either[0]
        self._facts(name, facts)
        kv, length = self.rows.kv, self.rows.length(slot)
        for part in REPEATS:
            for key, layer, start in (
                ("keys_first_layer_last4", 0, max(0, length - 4)),
                ("keys_first_layer", 0, 0),
                ("keys_last_layer", -1, 0),
            ):
                if f"{part}/{name}.{key}" in self.golden:
                    ours = kv.keys[layer][slot, start:length, 0]
                    stored = self.golden.tensor(f"{part}/{name}.{key}")
                    self.report.add(f"{part}/{name}.{key}", ours, stored, kind=self.kind)

    def _facts(self, name: str, facts: dict[str, Any]) -> None:
        for part in REPEATS:
            units = self.golden.trace.get(part, {}).get("units", [])
            stored: dict[str, Any] = next((u for u in units if f"u{u['unit']:02d}" == name), {})
            for key, ours in facts.items():
                if key in stored:
                    self.report.equal(f"trace/{part}.{name}.{key}", ours, stored[key], self.kind)

    def _equal(self, key: str, ours: Any) -> None:
        stored = self.golden.trace["duplex"][key.rpartition(".")[2]]
        self.report.equal(key, ours, stored, self.kind)

    def _best(self, key: str) -> tuple[Tensor, Tensor]:
        return self.golden.tensor(f"{key}_values"), self.golden.tensor(f"{key}_ids")

    def _embedding(self, key: str) -> Tensor:
        if key not in self.embeddings:
            self.embeddings[key] = self.golden.tensor(key)
        return self.embeddings[key]

    def _sorted(self, prefix: str, suffix: str) -> list[str]:
        keys = [key for key in self.golden.keys(prefix) if key.endswith(suffix)]
        return sorted(keys, key=lambda key: int(key[len(prefix) : -len(suffix)]))


def duplex_ids(tokens: OmniTokenizer) -> DuplexIds:
    """The special ids of the duplex sampling order."""
    return DuplexIds(tokens.chunk_eos, tokens.turn_eos, tokens.listen, tokens.im_end)
