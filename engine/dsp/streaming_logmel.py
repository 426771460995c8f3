"""Log-mel features of streams, chunk by chunk, for many sessions at once.

A chunk is normalised against the loudest frame of its session's last 20 to 30 seconds. Kept for
that are a maximum per frame, and a second of samples, so that a chunk costs the same however long
the session is. Source: MiniCPM-o 4.5 inference code (streaming windows and the sliding buffer).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.dsp.logmel import (
    AHEAD,
    CHUNK,
    DYNAMIC_RANGE,
    EDGE,
    FLOOR,
    HOP,
    PIECE_SAMPLES,
    SAMPLE_HZ,
    WINDOW,
    LogMel,
    first_chunk,
    floored,
)
from engine.gpu.staging import uploaded

MARGIN = 2
"""Frames on each side that give the encoder's convolutions their context (20 ms)."""

SLIDE_AT = PIECE_SAMPLES
"""Samples in a stream's buffer that make it drop `SLIDE_BY` of its oldest."""
SLIDE_BY = 10 * SAMPLE_HZ
DYNAMIC_FROM = 5 * SAMPLE_HZ
"""A shorter buffer is floored at -10, a longer one at 8 below its maximum."""


def chunk_features(chunk: int = CHUNK) -> int:
    """Frames of a chunk's features. A first chunk has no left margin: zeros are in its place."""
    return chunk // HOP + 2 * MARGIN


class StreamingLogMel:
    """Streaming state of all slots, and a spare row that takes what padding rows write.

    `plan` decides on the host, `features` computes on the device without looking at values on the
    host, `advance` counts. Frames are numbered from the start of the stream: of chunks of a second
    chunk n gives the frames from 100 n - 2 to 100 n + 101. S slots, B rows of one call.
    """

    FIELDS = 7
    """Integers that a row needs: its slot, whether it is a first chunk, the first frame entered,
    frames that count towards the maximum, places to write and to read mirrored frames, and whether
    the floor is dynamic."""

    _LEAD = MARGIN * HOP + EDGE
    """Samples that the first frame of a chunk reaches before the chunk's first sample."""
    _EXTRA = AHEAD // HOP * HOP
    _KEPT = _LEAD + _EXTRA
    """Samples of the chunk before that a chunk's frames need."""
    _RING = 3_200
    """More frames than a buffer ever holds."""
    _OVERHANG = EDGE - HOP
    """Samples that the last frame of a buffer of whole hops lacks at its right end."""
    _SLIDE_FRAMES = SLIDE_BY // HOP
    # A buffer that begins at a later multiple of 10 s is mirrored there, which changes its first
    # two frames. At most two such places lie ahead of a buffer's start.
    _MIRRORS = 4
    _UNREAD, _SILENT = _MIRRORS, _MIRRORS + 1
    """Places of mirrored frames that nobody reads, and that nobody writes."""

    def __init__(self, mel: LogMel, num_slots: int, chunk: int = CHUNK) -> None:
        """`chunk`: samples, a whole number of hops, of which a whole number makes 10 s."""
        assert chunk % HOP == 0 and SLIDE_BY % chunk == 0 and chunk >= self._KEPT, f"chunk {chunk}"
        self.mel = mel
        self.num_slots = num_slots
        self.chunk, self.first_chunk = chunk, first_chunk(chunk)
        self.features_per_chunk = chunk_features(chunk)
        rows = num_slots + 1
        self._tail = torch.zeros(rows, self._KEPT, device=mel.device)
        self._loudest = torch.full((rows, self._RING), -math.inf, device=mel.device)
        self._mirrored = torch.full((rows, self._MIRRORS + 2, 2), -math.inf, device=mel.device)
        self._calls = [0] * num_slots
        self._base = [0] * num_slots

    def calls(self, slot: int) -> int:
        """Chunks that a slot's stream has taken."""
        return self._calls[slot]

    def buffered(self, slot: int) -> int:
        """Samples of the sliding buffer that a slot's last chunk was normalised over."""
        calls = self._calls[slot]
        return self.first_chunk + (calls - 1) * self.chunk - self._base[slot] * HOP if calls else 0

    def is_dynamic(self, slot: int) -> bool:
        """Return whether a slot's last chunk was floored below the buffer's maximum."""
        return self.buffered(slot) >= DYNAMIC_FROM

    def reset(self, slots: Sequence[int]) -> None:
        """Start these slots' streams anew. What they held is cleared too."""
        for slot in slots:
            self._tail[slot].zero_()
            self._loudest[slot].fill_(-math.inf)
            self._mirrored[slot].fill_(-math.inf)
            self._calls[slot] = self._base[slot] = 0

    def plan(self, slots: Sequence[int], rows: int) -> list[list[int]]:
        """Return what `features` needs to know: [FIELDS][rows], padded behind the slots' rows."""
        planned = [self._row(slot) for slot in slots]
        spare = [self.num_slots, 1, 0, 1, self._UNREAD, self._SILENT, 0]
        return [list(field) for field in zip(*planned, *[spare] * (rows - len(slots)), strict=True)]

    def advance(self, slots: Sequence[int]) -> None:
        """Count the chunks of a call to `features`."""
        for slot in slots:
            self._base[slot] = self._next_base(slot)
            self._calls[slot] += 1

    def features(self, samples: Tensor, index: Tensor) -> Tensor:
        """Features [B, num_mels, T] of each row's next chunk; `index` [FIELDS, B] is the plan.

        `samples` [B, first_chunk] float32: a chunk ends where its row ends. What lies before it is
        not read. T is `features_per_chunk`, 104 of a second.
        """
        frames = self.features_per_chunk
        slots, first, start, counted, mirror_to, mirror_from, dynamic = index.unbind()
        first = first.bool()[:, None]
        span = self._span(samples, slots, first)  # [B, 17000] of a second
        mirror = span[:, -1 - self._OVERHANG : -1].flip(1)
        begin = span[:, self._LEAD : self._LEAD + HOP + EDGE]
        edged = torch.cat([begin[:, 1 : EDGE + 1].flip(1), begin], 1)
        windows = [torch.cat([span, mirror], 1), edged]
        logs = self.mel.windows(torch.cat([x.unfold(1, WINDOW, HOP) for x in windows], 1))
        peaks = logs.amax(2)  # [B, 105 + 2]
        self._mirrored[slots, mirror_to] = peaks[:, -2:]
        loudest = self._record(slots, start, counted, peaks[:, MARGIN:frames])
        # The frame behind a chunk's is not stable yet; it only counts towards the maximum.
        others = torch.cat([self._mirrored[slots, mirror_from], peaks[:, frames, None]], 1)
        loudest = torch.maximum(loudest, others.amax(1))
        floor = torch.where(dynamic.bool(), loudest - DYNAMIC_RANGE, math.log10(FLOOR))
        scaled = floored(logs[:, :frames], floor)
        before = torch.arange(frames, device=scaled.device) < MARGIN
        return scaled.masked_fill((first & before)[:, :, None], 0.0).transpose(1, 2)

    def push(self, slots: Sequence[int], chunks: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Plan, compute and count: [B, num_mels, T] and the frames of each row, at its end.

        Of a second, a slot's first chunk has 16480 samples and gives 102 frames, the others 16000
        and 104.
        """
        frames = self.features_per_chunk
        samples = torch.zeros(len(slots), self.first_chunk)
        counts = []
        for row, slot, chunk in zip(samples, slots, chunks, strict=True):
            self.check(slot, chunk)
            row[self.first_chunk - len(chunk) :] = chunk
            counts.append(frames if self._calls[slot] else frames - MARGIN)
        assert len(set(slots)) == len(slots) > 0, f"a slot occurs twice in {list(slots)}"
        index = uploaded(torch.tensor(self.plan(slots, len(slots))), self.mel.device)
        mel = self.features(uploaded(samples, self.mel.device), index)
        self.advance(slots)
        return mel, counts

    def check(self, slot: int, chunk: Tensor) -> None:
        """Refuse a chunk that is not the slot's next one."""
        need = self.chunk if self._calls[slot] else self.first_chunk
        assert chunk.shape == (need,), f"slot {slot}: chunk {tuple(chunk.shape)}, not {need}"

    # ------------------------------------------------------------------ host

    def _next_base(self, slot: int) -> int:
        """First frame of the sliding buffer that the slot's next chunk is normalised over."""
        base = self._base[slot]
        longer = self.first_chunk + self._calls[slot] * self.chunk - base * HOP
        return base + self._SLIDE_FRAMES if longer >= SLIDE_AT else base

    def _row(self, slot: int) -> list[int]:
        calls, base = self._calls[slot], self._next_base(slot)
        frames, slide_chunks = self.chunk // HOP, SLIDE_BY // self.chunk
        start = calls * frames
        # The first two frames of a buffer that has slid count as they are mirrored.
        oldest = base + MARGIN if base else 0
        is_mirrored = calls > 0 and calls % slide_chunks == 0
        return [
            slot,
            calls == 0,
            start,
            start + frames + MARGIN - oldest,
            calls // slide_chunks % self._MIRRORS if is_mirrored else self._UNREAD,
            base // self._SLIDE_FRAMES % self._MIRRORS if base else self._SILENT,
            self.first_chunk + calls * self.chunk - base * HOP >= DYNAMIC_FROM,
        ]

    # ------------------------------------------------------------------ device

    def _span(self, samples: Tensor, slots: Tensor, first: Tensor) -> Tensor:
        """The samples [B, 1000 + chunk] behind the frames; keeps what the next chunk needs."""
        mirror = samples[:, 1 : EDGE + 1].flip(1)
        begin = torch.cat([F.pad(mirror, (self._LEAD - EDGE, 0)), samples[:, : self._EXTRA]], 1)
        head = torch.where(first, begin, self._tail[slots])
        span = torch.cat([head, samples[:, self._EXTRA :]], 1)
        self._tail[slots] = span[:, -self._KEPT :]
        return span

    def _record(self, slots: Tensor, start: Tensor, counted: Tensor, peaks: Tensor) -> Tensor:
        """Enter the maxima [B, 102] of the frames from `start` on; the largest that counts [B]."""
        frames = torch.arange(peaks.shape[1], device=peaks.device)
        self._loudest[slots[:, None], (start[:, None] + frames) % self._RING] = peaks
        ring = torch.arange(self._RING, device=peaks.device)
        last = start[:, None] + (peaks.shape[1] - 1)
        known = self._loudest[slots].masked_fill(
            (last - ring) % self._RING >= counted[:, None], -math.inf
        )
        return known.amax(1)
