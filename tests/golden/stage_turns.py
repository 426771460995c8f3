"""Chat and half duplex: prefills and chunked replies, from stored and own embeddings."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from engine.minicpmo.llm.batch import Replay as Hooks
from engine.minicpmo.llm.reply import ReplyChunk, ReplySettings
from engine.minicpmo.llm.rows import Feed
from engine.minicpmo.llm.sampler import TurnSampling
from engine.minicpmo.llm.turn_batch import TurnBatch
from engine.minicpmo.llm.turn_state import TurnState
from engine.minicpmo.models.llm.qwen3 import Qwen3
from tests.golden.golden_set import GoldenSet
from tests.golden.logits import FORCED_LOGIT, RecordingRows, compare_top, load_llm
from tests.golden.own_inputs import own_embeddings
from tests.golden.report import Report

STREAM_CODES = 25
STREAM_AHEAD = 3


def compare(golden: GoldenSet, report: Report, batch: int) -> None:
    """Replay every conversation alone, then all of them together, `batch` times each."""
    model = load_llm(golden)
    scripts = [*_chats(golden), *_half_duplex(golden)]
    own = own_embeddings(golden)
    for script in scripts:
        Replay(golden, report, model, [script], "stored").run()
        Replay(golden, report, model, [script], "own", own).run()
    if batch > 1:
        together = [script for script in scripts for _ in range(batch)]
        Replay(golden, report, model, together, "batch").run()


@dataclass(frozen=True)
class Action:
    """A prefill (`reply` False) or a generation of a conversation."""

    name: str
    """`chat.c0`, `half_duplex.p1`: its place in the trace and, after the dot, in the tensors."""
    reply: bool


Script = list[Action]


def _chats(golden: GoldenSet) -> list[Script]:
    names = golden.trace.get("chat", {})
    return [[Action(f"chat.{name}", False), Action(f"chat.{name}", True)] for name in names]


def _half_duplex(golden: GoldenSet) -> list[Script]:
    names = golden.trace.get("half_duplex", {})
    script = [Action(f"half_duplex.{name}", name.startswith("g")) for name in names]
    return [script] if script else []


@dataclass
class Player:
    """One slot and its script."""

    script: Script
    delay: int
    place: int = 0
    first_state: int = 0
    chunks: list[ReplyChunk] = field(default_factory=list)
    steps: int = 0
    length_before: int = 0

    @property
    def action(self) -> Action:
        return self.script[self.place]

    @property
    def is_over(self) -> bool:
        return self.place >= len(self.script)


class Replay:
    """Conversations side by side, the later ones some steps behind."""

    def __init__(
        self,
        golden: GoldenSet,
        report: Report,
        model: Qwen3,
        scripts: list[Script],
        kind: str,
        embeddings: dict[str, Tensor] | None = None,
    ) -> None:
        """`embeddings`: our own encoders' output by key, instead of what is stored."""
        self.golden, self.report, self.kind = golden, report, kind
        self.embeddings = embeddings
        self.players = [Player(script, 2 * index) for index, script in enumerate(scripts)]
        lengths = [
            value
            for script in scripts
            for action in script
            for key, value in self._trace(action).items()
            if key.startswith("kv_after")
        ]
        tried = [self._trace(a).get("max_new_tokens", 0) for script in scripts for a in script]
        longest = max(lengths) + max(tried) + 64
        self.rows = RecordingRows(model, len(scripts), longest, golden.place.pool())
        self.turns = TurnBatch(self.rows, golden.tokens, Hooks(observe=self._observe))
        for slot in range(len(scripts)):
            self.turns.open(slot, TurnState(golden.tokens, slot, longest))

    def run(self) -> None:
        moment = 0
        while not all(player.is_over for player in self.players):
            self._start(moment)
            for slot, chunk in self.turns.step().items():
                player = self.players[slot]
                player.chunks.append(chunk)
                if chunk.is_last:
                    self._compare_reply(slot, player)
                    player.place += 1
            moment += 1

    def _start(self, moment: int) -> None:
        """Begin whatever is next in the slots that are not replying."""
        for slot, player in enumerate(self.players):
            replying = self.turns.sessions[slot].needs_decision
            while moment >= player.delay and not player.is_over and not replying:
                if player.action.reply:
                    self._open(slot, player)
                    break
                self._add(slot, player)
                player.place += 1

    def _add(self, slot: int, player: Player) -> None:
        action, trace = player.action, self._trace(player.action)
        if "kv_before" in trace:
            self._equal(action, "kv_before", self.rows.length(slot))
        embeds = self._inputs(action)
        self.turns.add({slot: [embeds]}, protect=trace.get("role") == "system")
        key = "kv_after" if "kv_after" in trace else "kv_after_prefill"
        self._equal(action, key, self.rows.length(slot))

    def _inputs(self, action: Action) -> Tensor:
        """Compare the prompt's embeddings with ours; returns those that the replay is to use."""
        key = action.name.replace(".", "/", 1)
        trace = self._trace(action)
        embeds = self.rows.embed([Feed(0, [trace["input_ids"]])])
        for kind in ("image", "audio"):
            bounds = [
                b for row in trace.get(f"{kind}_bound{'s' * (kind == 'audio')}", []) for b in row
            ]
            names = self.golden.keys(f"{key}.{kind}")
            names = [name for name in names if name.endswith(".embed")]
            names.sort(key=lambda name: int("".join(filter(str.isdigit, name.split(".")[-2]))))
            for (start, end), name in zip(bounds, names, strict=True):
                source = self.golden.tensor if self.embeddings is None else self.embeddings.get
                part = source(name)
                assert part is not None, f"no {name} of our own"
                embeds[start:end] = part
        stored = self.golden.tensor(f"{key}.inputs_embeds")
        self.report.add(f"{key}.inputs_embeds", embeds, stored, kind=self.kind)
        return stored if self.embeddings is None else embeds

    def _open(self, slot: int, player: Player) -> None:
        action, trace = player.action, self._trace(player.action)
        values = trace["generate"]
        settings = ReplySettings(
            TurnSampling(
                temperature=values["temperature"],
                greedy=True,
                repetition_penalty=values["repetition_penalty"],
                length_penalty=values["length_penalty"],
            ),
            max_new_tokens=trace["max_new_tokens"],
            speech=bool(trace.get("audio")),
            thinking=bool(values.get("enable_thinking")),
            tts_template=bool(values.get("use_tts_template")),
            finish_at_limit=False,
        )
        if action.name.startswith("half_duplex") and "kv_before" in trace:
            self._equal(action, "kv_before", self.rows.length(slot))
        player.chunks, player.steps = [], 0
        player.length_before = self.rows.length(slot)
        self.rows.forget(slot)
        self.turns.open_replies({slot: settings})
        player.first_state = self.rows.length(slot) - player.length_before - 1

    def _observe(self, slots: list[int], logits: Tensor) -> Tensor:
        logits = logits.clone()
        for index, slot in enumerate(slots):
            player = self.players[slot]
            forced = self._choice(player)
            player.steps += 1
            if forced is not None:
                logits[index, forced] = FORCED_LOGIT
        return logits

    def _choice(self, player: Player) -> int | None:
        """What the next step of a reply has to choose; None: it is free."""
        trace, place = self._trace(player.action), player.steps
        if place >= len(trace["steps"]):
            return None
        forced: int | None = trace["steps"][place]["forced"]
        if forced is None and self.golden.place.is_narrow and place < len(trace["generated"]):
            forced = trace["generated"][place]
        return forced

    def _compare_reply(self, slot: int, player: Player) -> None:
        action, trace, report, kind = (
            player.action,
            self._trace(player.action),
            self.report,
            self.kind,
        )
        key = action.name.replace(".", "/", 1)
        states = torch.stack(self.rows.states[slot][player.first_state :])
        stored = self.golden.tensor(f"{key}.hidden")
        report.add(f"{key}.hidden", states, stored, kind=kind)
        best = (self.golden.tensor(f"{key}.top_values"), self.golden.tensor(f"{key}.top_ids"))
        compare_top(report, f"{key}.top", self.rows.model.logits(states), best, kind)
        opening = player.first_state + 1
        rows_in = [opening] + [1] * (player.steps - 1)
        forced = [step["forced"] for step in trace["steps"]]
        report.equal(
            f"trace/{action.name}.steps",
            list(zip(forced, rows_in, strict=False)),
            [[step["forced"], step["rows_in"]] for step in trace["steps"]],
            kind,
        )
        chunks = [
            {
                "tokens": list(chunk.sampled),
                "finished": chunk.is_last and not chunk.by_limit,
                "bos_rows": opening if index == 0 else 0,
            }
            for index, chunk in enumerate(player.chunks)
        ]
        self._equal(action, "chunks", chunks)
        self._equal(action, "generated", [t for c in player.chunks for t in c.sampled])
        key = "kv_after" if "kv_after" in trace else "kv_after_generate"
        self._equal(action, key, self.rows.length(slot))
        self._compare_text(action, trace, player.chunks)

    def _compare_text(
        self, action: Action, trace: dict[str, Any], chunks: list[ReplyChunk]
    ) -> None:
        if trace.get("audio"):
            codes = [len(group["codes"]) for group in trace["tts_groups"]]
            self._equal(action, "text_pieces", _spoken_pieces([c.text for c in chunks], codes))
        else:
            pieces = [[c.text, c.is_last and not c.by_limit] for c in chunks]
            self._equal(action, "text_pieces", pieces)
        if "text" in trace:
            self._equal(action, "text", "".join(chunk.text for chunk in chunks))

    def _trace(self, action: Action) -> dict[str, Any]:
        part, _, name = action.name.partition(".")
        values: dict[str, Any] = self.golden.trace[part][name]
        return values

    def _equal(self, action: Action, key: str, ours: Any) -> None:
        stored = self._trace(action)[key]
        self.report.equal(f"trace/{action.name}.{key}", ours, stored, self.kind)


def _spoken_pieces(texts: list[str], codes: list[int]) -> list[str]:
    """Texts as the stored speech carries them: each with the first sound that is yielded after."""
    pieces: list[str] = []
    carried, buffered = "", STREAM_AHEAD
    for text, count in zip(texts, codes, strict=False):
        carried += text
        buffered += count
        while buffered >= STREAM_CODES + STREAM_AHEAD:
            pieces.append(carried)
            carried = ""
            buffered -= STREAM_CODES
    return [*pieces, carried]
