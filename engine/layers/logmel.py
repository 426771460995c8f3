"""Log-mel features of 16 kHz sound as Whisper takes them, for whole sounds and for streams.

A streamed chunk is normalised against the loudest frame of its session's last 20 to 30 seconds.
`MelStreams` keeps a maximum per frame for that, and a second of samples, so that a chunk costs the
same however long the session is. Source: Whisper feature extraction and the MiniCPM-o 4.5
inference code (streaming windows and the sliding buffer).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE_HZ = 16_000
WINDOW = 400
HOP = 160
EDGE = WINDOW // 2
"""Samples that a centred window reaches beyond its frame's position."""

PIECE_SAMPLES = 30 * SAMPLE_HZ
"""Longer sounds are encoded in pieces of this length."""

FIRST_CHUNK = 16_480
"""Samples of a stream's first chunk: 1035 ms rounded down to whole hops."""
CHUNK = 16_000
FIRST_FILL = 16_560
"""A first chunk shorter than this is filled up with silence on the left."""

CHUNK_FRAMES = 100
MARGIN = 2
"""Frames on each side that give the encoder's convolutions their context (20 ms)."""

SLIDE_AT = PIECE_SAMPLES
"""Samples in a stream's buffer that make it drop `SLIDE_BY` of its oldest."""
SLIDE_BY = 10 * SAMPLE_HZ
DYNAMIC_FROM = 5 * SAMPLE_HZ
"""A shorter buffer is floored at -10, a longer one at 8 below its maximum."""

FLOOR = 1e-10
DYNAMIC_RANGE = 8.0


def slaney_filters(num_mels: int, num_bins: int, rate_hz: int, high_hz: float) -> Tensor:
    """Triangular mel filters [num_mels, num_bins] from 0 to `high_hz`, Slaney scale and norm.

    Linear below 1 kHz, logarithmic above; each triangle has the area of 1 Hz. float64.
    """
    step = math.log(6.4) / 27
    bend = 15.0  # mel at 1 kHz

    def to_hz(mel: Tensor) -> Tensor:
        return torch.where(mel < bend, mel * (200 / 3), 1000 * torch.exp(step * (mel - bend)))

    top = 3 * high_hz / 200 if high_hz < 1000 else bend + math.log(high_hz / 1000) / step
    corners = to_hz(torch.linspace(0, top, num_mels + 2, dtype=torch.float64))
    bins = torch.linspace(0, rate_hz / 2, num_bins, dtype=torch.float64)
    width = corners.diff()
    slopes = corners[:, None] - bins[None]  # [num_mels + 2, num_bins]
    triangles = torch.minimum(-slopes[:-2] / width[:-1, None], slopes[2:] / width[1:, None])
    return triangles.clamp_min(0) * (2 / (corners[2:] - corners[:-2]))[:, None]


def mel_frames(num_samples: int) -> int:
    """Frames kept of a whole sound."""
    return -(-num_samples // HOP)


class LogMel:
    """The filters and the window on one device; no state."""

    def __init__(self, num_mels: int = 80, device: torch.device | str = "cpu") -> None:
        self.num_mels = num_mels
        self.device = torch.device(device)
        filters = slaney_filters(num_mels, WINDOW // 2 + 1, SAMPLE_HZ, SAMPLE_HZ / 2)
        self._filters = filters.to(self.device, torch.float32)
        self._window = torch.hann_window(WINDOW, device=self.device)

    def frames(self, samples: Tensor) -> Tensor:
        """log10 mel power [B, num_mels, T] of windows laid end to end from the first sample.

        `samples` [B, N] float32; T = (N - 400) // 160 + 1. Not floored, not scaled.
        """
        assert samples.ndim == 2 and samples.shape[1] >= WINDOW, f"samples {tuple(samples.shape)}"
        spectrum = torch.stft(
            samples, WINDOW, HOP, window=self._window, center=False, return_complex=True
        )
        power = self._filters @ spectrum.abs().square()
        return power.clamp_min(FLOOR).log10()

    def whole(self, sounds: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Features of whole sounds of at most 30 s: [B, num_mels, T] and the frames of each row.

        Each sound [N] is floored 8 below its own maximum; frames behind a row's end are 0.
        """
        assert sounds, "no sounds"
        longest = max(sound.shape[0] for sound in sounds)
        assert 0 < min(sound.shape[0] for sound in sounds), "an empty sound"
        assert longest <= PIECE_SAMPLES, f"{longest} samples, at most {PIECE_SAMPLES}"
        # The original lays each sound into 30 s of silence. A window of silence is enough: it lets
        # every frame that the sound reaches enter the maximum.
        length = min(PIECE_SAMPLES, (longest + WINDOW + HOP - 1) // HOP * HOP)
        padded = torch.zeros(len(sounds), length, device=self.device)
        for row, sound in enumerate(sounds):
            padded[row, : sound.shape[0]] = sound.to(self.device, torch.float32)
        edged = F.pad(padded[:, None], (EDGE, EDGE), mode="reflect")[:, 0]
        logs = self.frames(edged)[:, :, : length // HOP]
        mel = _scale(logs, logs.amax((1, 2)) - DYNAMIC_RANGE)
        counts = [min(mel_frames(sound.shape[0]), length // HOP) for sound in sounds]
        mel = mel[:, :, : max(counts)]
        behind = torch.arange(mel.shape[2]) >= torch.tensor(counts)[:, None]
        return mel.masked_fill(behind[:, None].to(self.device), 0.0), counts


def pieces(sound: Tensor, longest: int = PIECE_SAMPLES) -> list[Tensor]:
    """Cut a sound [N] into consecutive pieces of at most `longest` samples."""
    return [sound[start : start + longest] for start in range(0, sound.shape[0], longest)]


class ChunkQueue:
    """Samples of one session that wait for their unit; at most one chunk is taken per unit."""

    def __init__(self) -> None:
        self._waiting = torch.zeros(0)
        self._is_first = True

    def __len__(self) -> int:
        return int(self._waiting.shape[0])

    @property
    def is_first(self) -> bool:
        return self._is_first

    def push(self, samples: Tensor) -> None:
        """Append 16 kHz samples [N], float in [-1, 1]."""
        assert samples.ndim == 1, f"samples {tuple(samples.shape)}"
        self._waiting = torch.cat([self._waiting, samples.to("cpu", torch.float32)])

    def take(self) -> Tensor | None:
        """Return the next chunk, the first one filled up on the left, or None if it is too short.

        A first chunk is taken from whatever there is, so that the first unit is never late.
        """
        if self._is_first:
            if not len(self):
                return None
            self._waiting = F.pad(self._waiting, (max(0, FIRST_FILL - len(self)), 0))
        need = FIRST_CHUNK if self._is_first else CHUNK
        if len(self) < need:
            return None
        chunk, self._waiting = self._waiting[:need], self._waiting[need:].clone()
        self._is_first = False
        return chunk


class MelStreams:
    """Streaming state of all slots: a second of samples and a maximum per frame for each.

    Frames are numbered from the start of the stream: chunk n gives the frames from 100 n - 2 to
    100 n + 101. S slots, B rows of one call.
    """

    _LEAD = MARGIN * HOP + EDGE
    """Samples that the first frame of a chunk reaches before sample 16000 n."""
    _KEPT = _LEAD + FIRST_CHUNK - CHUNK
    """Samples of the chunk before that a chunk's frames need."""
    _RING = 3_200
    """More frames than a buffer ever holds."""
    _OVERHANG = EDGE - HOP
    """Samples that the last frame of a buffer of whole hops lacks at its right end."""
    _SLIDE_FRAMES = SLIDE_BY // HOP

    def __init__(self, mel: LogMel, num_slots: int) -> None:
        self.mel = mel
        self._tail = torch.zeros(num_slots, self._KEPT, device=mel.device)
        self._loudest = torch.full((num_slots, self._RING), -math.inf, device=mel.device)
        # A buffer that begins at a later multiple of 10 s is mirrored there, which changes its
        # first two frames. At most two such places lie ahead of a buffer's start.
        self._mirrored = torch.full((num_slots, 4, 2), -math.inf, device=mel.device)
        self._calls = [0] * num_slots
        self._base = [0] * num_slots

    def calls(self, slot: int) -> int:
        """Chunks that a slot's stream has taken."""
        return self._calls[slot]

    def buffered(self, slot: int) -> int:
        """Samples of the sliding buffer that a slot's last chunk was normalised over."""
        calls = self._calls[slot]
        return FIRST_CHUNK + (calls - 1) * CHUNK - self._base[slot] * HOP if calls else 0

    def is_dynamic(self, slot: int) -> bool:
        """Whether a slot's last chunk was floored below the buffer's maximum."""
        return self.buffered(slot) >= DYNAMIC_FROM

    def reset(self, slots: Sequence[int]) -> None:
        """Start these slots' streams anew."""
        for slot in slots:
            self._tail[slot].zero_()
            self._loudest[slot].fill_(-math.inf)
            self._mirrored[slot].fill_(-math.inf)
            self._calls[slot] = self._base[slot] = 0

    def push(self, slots: Sequence[int], chunks: Sequence[Tensor]) -> tuple[Tensor, list[int]]:
        """Features of each slot's next chunk: [B, num_mels, T] and the frames of each row.

        A slot's first chunk has 16480 samples and gives 102 frames, the others 16000 and 104; a
        shorter row ends in zeros.
        """
        assert len(slots) == len(chunks) > 0, f"{len(slots)} slots, {len(chunks)} chunks"
        assert len(set(slots)) == len(slots), f"a slot occurs twice in {list(slots)}"
        index = torch.tensor(list(slots), device=self.mel.device)
        span = self._span(slots, index, chunks)  # [B, 17000]
        mirror = span[:, -1 - self._OVERHANG : -1].flip(1)
        logs = self.mel.frames(torch.cat([span, mirror], 1))  # [B, num_mels, 105]
        peaks = logs.amax(1)
        self._record(slots, index, span, peaks[:, MARGIN:-1])
        for slot in slots:
            self._calls[slot] += 1
            self._slide(slot)
        # The last frame is not stable yet; it only counts towards the maximum.
        loudest = torch.maximum(self._loudest[index].amax(1), peaks[:, -1])
        dynamic = torch.tensor([self.is_dynamic(slot) for slot in slots], device=self.mel.device)
        floor = torch.where(dynamic, loudest - DYNAMIC_RANGE, math.log10(FLOOR))
        return self._align(slots, _scale(logs[:, :, :-1], floor))

    def _span(self, slots: Sequence[int], index: Tensor, chunks: Sequence[Tensor]) -> Tensor:
        """The samples [B, 17000] behind a chunk's frames; keeps what the next chunk needs."""
        tails = self._tail[index]
        rows: list[Tensor] = []
        for slot, chunk, tail in zip(slots, chunks, tails, strict=True):
            need = CHUNK if self._calls[slot] else FIRST_CHUNK
            assert chunk.shape == (need,), f"slot {slot}: chunk {tuple(chunk.shape)}, not {need}"
            fresh = chunk.to(self.mel.device, torch.float32)
            if not self._calls[slot]:
                tail = F.pad(fresh[1 : EDGE + 1].flip(0), (self._LEAD - EDGE, 0))
            rows.append(torch.cat([tail, fresh]))
        span = torch.stack(rows)
        self._tail[index] = span[:, -self._KEPT :]
        return span

    def _record(self, slots: Sequence[int], index: Tensor, span: Tensor, peaks: Tensor) -> None:
        """Enter the maxima [B, 102] of the frames from 100 n on."""
        calls = [self._calls[slot] for slot in slots]
        first = torch.tensor([call * CHUNK_FRAMES for call in calls], device=self.mel.device)
        frames = first[:, None] + torch.arange(peaks.shape[1], device=self.mel.device)
        self._loudest[index[:, None], frames % self._RING] = peaks
        stride = SLIDE_BY // CHUNK
        for row, (slot, call) in enumerate(zip(slots, calls, strict=True)):
            if call and call % stride == 0:
                start = span[row : row + 1, self._LEAD : self._LEAD + HOP + EDGE]
                edged = F.pad(start[:, None], (EDGE, 0), mode="reflect")[:, 0]
                self._mirrored[slot, call // stride % 4] = self.mel.frames(edged).amax((0, 1))

    def _slide(self, slot: int) -> None:
        if self.buffered(slot) < SLIDE_AT:
            return
        old = self._base[slot]
        self._base[slot] = new = old + self._SLIDE_FRAMES
        ring = torch.arange(old, new + 2, device=self.mel.device) % self._RING
        self._loudest[slot, ring[:-2]] = -math.inf
        self._loudest[slot, ring[-2:]] = self._mirrored[slot, new // self._SLIDE_FRAMES % 4]

    def _align(self, slots: Sequence[int], mel: Tensor) -> tuple[Tensor, list[int]]:
        """Shift rows of a first chunk left over the two frames that it does not have."""
        first = [self._calls[slot] == 1 for slot in slots]
        counts = [mel.shape[2] - MARGIN * is_first for is_first in first]
        if any(first):
            shifted = F.pad(mel[:, :, MARGIN:], (0, MARGIN))
            mel = torch.where(torch.tensor(first, device=mel.device)[:, None, None], shifted, mel)
        return mel[:, :, : max(counts)], counts


def _scale(logs: Tensor, floor: Tensor) -> Tensor:
    """Floor [B, num_mels, T] at [B] and bring it to Whisper's range."""
    return (torch.maximum(logs, floor[:, None, None]) + 4.0) / 4.0
