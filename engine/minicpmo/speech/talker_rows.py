"""The rows of a lock-step decode of speech codes: their state on the device and its two forwards.

The prefill feeds a ragged batch of condition rows, a step the last code of each row. Both end in
drawing a code and embedding it, so that the next step needs nothing from the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from engine.gpu.graphs import GraphPool, padded_size, sizes_up_to
from engine.gpu.kernels.talker_sampling import (
    FORCED_LOGIT,
    RECENT,
    CodeSettings,
    CodeState,
    draw_codes,
)
from engine.gpu.kv.cache import DeviceTokenPlan, NativeKV
from engine.gpu.layers.varlen_attention import VarlenLayout
from engine.gpu.staging import fetched
from engine.minicpmo.models.talker.sampling import RowSampling, SpeechSampling, choose, scores
from engine.minicpmo.models.talker.tts import SpeechDecoder

BLOCK = 25
"""Codes between two looks at what was drawn, a second of speech."""
COLUMNS = BLOCK + 1
"""The last one is of the forward that only feeds the block's last code."""
PREFILL_WIDTH = 20
"""Condition rows of a row of the batch that prefills are padded to: a released unit has 19 at
most."""

FIELDS = (
    "slot",
    "length",
    "count",
    "is_real",
    "min_codes",
    "end_at",
    "greedy",
    "window",
    "top_k",
    "spares_first",
)
NEVER = 1 << 30


@dataclass
class TalkerRow:
    """What one row is to do. DeviceTokenPlan are condition rows: words or marks."""

    slot: int
    settings: SpeechSampling
    min_codes: int
    count: int
    """Condition rows to be fed."""
    recent: list[int] = field(default_factory=list)
    """Earlier codes that the penalty sees."""
    spares_first: bool = False
    """The first code is cut neither by top-p nor by top-k."""
    end_at: int | None = None

    @property
    def is_cut(self) -> bool:
        return self.settings.top_p < 1 or self.settings.top_k > 0


@dataclass(frozen=True)
class Drawn:
    """What a forward computed on the way to the codes, [B, ...]."""

    hidden: Tensor
    raw: Tensor
    scores: Tensor


class TalkerRows:
    """Device state of up to `most_rows` rows; one batch at a time."""

    def __init__(
        self, decoder: SpeechDecoder, kv: NativeKV, most_rows: int, graphs: GraphPool
    ) -> None:
        self.decoder, self.kv, self.graphs = decoder, kv, graphs
        self.most_rows = most_rows
        rows, config, device = padded_size(most_rows), decoder.config, decoder.device
        dtype = decoder.emb_text.weight.dtype

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self._fields = zeros(len(FIELDS), rows)
        self._floats = zeros(3, rows, dtype=torch.float32)
        self._draws = zeros(COLUMNS, rows, dtype=torch.float64)
        self._recent = zeros(rows, RECENT)
        self._codes = zeros(COLUMNS, rows)
        self._feed = zeros(rows, config.hidden_size, dtype=dtype)
        self._step, self._column = zeros(1), zeros(1)
        self._words = zeros(rows * PREFILL_WIDTH, config.llm_dim, dtype=dtype)
        self._word_ids = zeros(rows * PREFILL_WIDTH)
        self._cells = kv.keys[0].shape[1]
        self._arange = torch.arange(rows + 1, dtype=torch.int32, device=device)
        self._size, self._is_cut = 1, False

    # ------------------------------------------------------------------ a batch

    def prefill(
        self,
        rows: Sequence[TalkerRow],
        draws: Sequence[Sequence[float]],
        feed: Sequence[Tensor] | None = None,
        words: Sequence[tuple[Tensor, Tensor]] | None = None,
    ) -> Drawn:
        """Begin a batch and draw the first code of each row.

        `draws[i]`: uniform numbers of row i, `COLUMNS` at most. What is fed are embeddings [T, C]
        in `feed` or ids [T] and hidden states [T, llm_dim] in `words`, each followed by the
        begin-of-audio mark; of the latter `PREFILL_WIDTH` rows fit.
        """
        size, longest = padded_size(len(rows)), max(row.count for row in rows)
        width = PREFILL_WIDTH if longest <= PREFILL_WIDTH else longest
        assert words is None or width == PREFILL_WIDTH, f"{longest} condition rows"
        self._size, self._is_cut = size, any(row.is_cut for row in rows)
        integers = self._pack(rows, size, width, marked=words is not None)
        table = np.ones((3 + COLUMNS, size))
        for place, (row, own) in enumerate(zip(rows, draws, strict=True)):
            settings = row.settings
            table[:3, place] = settings.temperature, settings.repetition_penalty, settings.top_p
            table[3 : 3 + len(own), place] = own
        floats = torch.from_numpy(table)
        if words is not None:
            self._place_words(words)
            return self.graphs.run(
                ("codes", "words", size, self._is_cut), self._start_with_words, integers, floats
            )
        assert feed is not None
        total = sum(row.count for row in rows)
        given = feed[0].new_zeros(size * width, feed[0].shape[1])
        given[:total] = torch.cat(list(feed))
        key = ("codes", "feed", size, self._is_cut, width)
        return self.graphs.run(key, self._start, integers, floats, given)

    def step(self) -> Drawn:
        """Feed the code drawn last and draw the next."""
        return self.graphs.run(("codes", "step", self._size, self._is_cut), self._next)

    def put_draws(self, draws: Sequence[Sequence[float]], column: int = 0) -> None:
        """Give each row the draws of the columns from `column` on, and go on there."""
        table = torch.from_numpy(np.ascontiguousarray(np.array(draws).T))
        self._draws[column : column + len(table), : len(draws)].copy_(self.graphs.upload(table))
        self._column.fill_(column)

    def fetch(self, rows: int, first: int, end: int) -> list[list[int]]:
        """The codes of columns `first` to `end` of each row; waits for the device."""
        codes: list[list[int]] = fetched(self._codes[first:end, :rows].contiguous()).T.tolist()
        return codes

    # ------------------------------------------------------------------ preparing

    def _pack(self, rows: Sequence[TalkerRow], size: int, width: int, *, marked: bool) -> Tensor:
        """All integers of a prefill [fields + recent + tokens, size] in one tensor."""
        fields = np.zeros((len(FIELDS), size), np.int64)
        recent = np.full((RECENT, size), -1, np.int64)
        tokens = np.zeros((3, size * width), np.int64)
        tokens[0], tokens[1] = -1, self.kv.max_len
        vocabulary = self.decoder.config.num_audio_tokens
        token = word = 0
        for place, row in enumerate(rows):
            length, settings = self.kv.lengths[row.slot], row.settings
            values = [row.slot, length, row.count, 1, row.min_codes]
            values += [NEVER if row.end_at is None else row.end_at, settings.greedy]
            values += [settings.repetition_window, settings.top_k or vocabulary, row.spares_first]
            fields[:, place] = values
            past = row.recent[-RECENT:]
            if past:
                recent[-len(past) :, place] = past
            end = token + row.count
            if marked:
                tokens[0, token : end - 1] = np.arange(word, word + row.count - 1)
                word += row.count - 1
            positions = np.arange(length, length + row.count)
            tokens[2, token:end] = positions
            tokens[1, token:end] = row.slot * self._cells + positions
            token = end
        return torch.from_numpy(np.concatenate([fields, recent, tokens.reshape(-1, size)]))

    def _place_words(self, words: Sequence[tuple[Tensor, Tensor]]) -> None:
        spoken = [(ids, hidden) for ids, hidden in words if len(ids)]
        if not spoken:
            return
        count = sum(len(ids) for ids, _ in spoken)
        self._word_ids[:count] = self.graphs.upload(torch.cat([ids for ids, _ in spoken]))
        self._words[:count] = torch.cat([hidden for _, hidden in spoken]).to(self._words.device)

    # ------------------------------------------------------------------ what graphs capture

    def _start_with_words(self, integers: Tensor, floats: Tensor) -> Drawn:
        size = integers.shape[1]
        word = integers[len(FIELDS) + RECENT :].view(3, -1)[0]
        is_word, index = word >= 0, word.clamp(min=0)
        mark = self.decoder.config.audio_bos_token_id
        ids = self._word_ids[index].masked_fill(~is_word, mark)
        feed = self.decoder.condition_tokens(ids, is_word, self._words[index])
        assert len(feed) == size * PREFILL_WIDTH
        return self._start(integers, floats, feed)

    def _start(self, integers: Tensor, floats: Tensor, feed: Tensor) -> Drawn:
        size, width = integers.shape[1], len(feed) // integers.shape[1]
        fields = self._fields[:, :size]
        fields.copy_(integers[: len(FIELDS)])
        self._recent[:size].copy_(integers[len(FIELDS) : len(FIELDS) + RECENT].T)
        self._floats[:, :size].copy_(floats[:3])
        self._draws[:, :size].copy_(floats[3:])
        self._step.zero_()
        self._column.zero_()
        _, cells, positions = integers[len(FIELDS) + RECENT :].view(3, -1)
        slot, length, count, is_real = fields[:4]
        ends = count.cumsum(0)
        layout = VarlenLayout(
            query_starts=torch.nn.functional.pad(ends, (1, 0)).int(),
            key_starts=self._key_starts(slot),
            used=((length + count) * is_real).int(),
            max_query=width,
            max_keys=self._cells,
        )
        hidden = self.decoder(feed, self.kv, DeviceTokenPlan(positions.int(), cells.int(), layout))
        length.add_(count)
        return self._draw(hidden.index_select(0, (ends - 1).clamp(min=0)))

    def _next(self) -> Drawn:
        size, most = self._size, self._cells - 1
        slot, length, _, is_real = self._fields[:4, :size]
        # Rows that run past their end may fill the cache row; the scratch place takes the rest.
        write = length.clamp(max=most).masked_fill(is_real == 0, most)
        layout = VarlenLayout(
            query_starts=self._arange[: size + 1],
            key_starts=self._key_starts(slot),
            used=((length + 1).clamp(max=most) * is_real).int(),
            max_query=1,
            max_keys=self._cells,
        )
        plan = DeviceTokenPlan(length.int(), (slot * self._cells + write).int(), layout)
        hidden = self.decoder(self._feed[:size], self.kv, plan)
        length.add_(1)
        return self._draw(hidden)

    def _key_starts(self, slot: Tensor) -> Tensor:
        return torch.nn.functional.pad(slot * self._cells, (0, 1)).int()

    def _draw(self, hidden: Tensor) -> Drawn:
        """Draw a code of each row and make it the next input."""
        size, end = len(hidden), self.decoder.end_code
        raw = self.decoder.logits(hidden)
        fields = dict(zip(FIELDS, self._fields[:, :size], strict=True))
        temperature, penalty, _ = self._floats[:, :size]
        settings = CodeSettings(
            fields["min_codes"],
            fields["end_at"],
            fields["greedy"],
            fields["window"],
            temperature,
            penalty,
        )
        state = CodeState(
            self._draws, self._recent, self._codes, self._feed, self._step, self._column
        )
        z = None if self._is_cut else draw_codes(raw, settings, state, self.decoder.code_table, end)
        if z is None:
            z = self._draw_plainly(raw)
        self._step.add_(1)
        # A row that runs past the block's end overwrites its last column.
        self._column.add_(1).clamp_(max=COLUMNS - 1)
        return Drawn(hidden, raw, z)

    def _draw_plainly(self, raw: Tensor) -> Tensor:
        """What `draw_codes` does, and top-p and top-k; the scores drawn from."""
        size, end = len(raw), self.decoder.end_code
        _, _, _, _, min_codes, end_at, greedy, window, top_k, spares_first = self._fields[:, :size]
        temperature, penalty, top_p = self._floats[:, :size]
        settings = RowSampling(temperature, penalty, window, top_p, top_k, greedy > 0)
        forced = raw.clone()
        forced[:, end] = forced[:, end].masked_fill(end_at == self._step, FORCED_LOGIT)
        z = scores(
            forced,
            settings,
            self._recent[:size],
            may_end=self._step >= min_codes,
            is_cut=~((spares_first > 0) & (self._step == 0)) if self._is_cut else None,
            end_code=end,
        )
        draws = self._draws[:, :size].index_select(0, self._column)[0]
        codes = choose(z, greedy > 0, draws)
        self._codes[:, :size].index_copy_(0, self._column, codes[None])
        recent = self._recent[:size]
        recent.copy_(torch.cat([recent[:, 1:], codes[:, None]], dim=1))
        self._feed[:size].copy_(self.decoder.embed_codes(codes))
        return z

    # ------------------------------------------------------------------ warm-up

    def warm_up(self, most_rows: int) -> None:
        """Run every shape of batches of up to `most_rows` rows, of no session."""
        if not self.graphs.has_to_warm_up:
            return
        for size in sizes_up_to(min(most_rows, self.most_rows)):
            for is_words in (True, False):
                self._size, self._is_cut = size, not is_words
                integers = self._pack([], size, PREFILL_WIDTH, marked=False)
                floats = torch.ones(3 + COLUMNS, size, dtype=torch.float64)
                if is_words:
                    key: tuple[object, ...] = ("codes", "words", size, False)
                    self.graphs.run(key, self._start_with_words, integers, floats)
                else:
                    feed = self._feed.new_zeros(size * PREFILL_WIDTH, self._feed.shape[1])
                    key = ("codes", "feed", size, True, PREFILL_WIDTH)
                    self.graphs.run(key, self._start, integers, floats, feed)
                self.step()
