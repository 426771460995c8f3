"""Log-mel features of 16 kHz sound as Whisper takes them, and the chunks that streams are cut into.

Source: Whisper feature extraction and the MiniCPM-o 4.5 inference code (streaming windows).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from engine.gpu.staging import uploaded

SAMPLE_HZ = 16_000
WINDOW = 400
HOP = 160
EDGE = WINDOW // 2
"""Samples that a centred window reaches beyond its frame's position."""

PIECE_SAMPLES = 30 * SAMPLE_HZ
"""Longer sounds are encoded in pieces of this length."""

CHUNK = 16_000
"""Samples of a stream's chunk: a second, unless told otherwise."""
AHEAD = 560
"""Samples, 35 ms, that a stream is read ahead of its chunks."""

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


def _fourier() -> Tensor:
    """The windowed real Fourier transform [WINDOW, 2 * bins]: cosines, then sines. float64."""
    num_bins = WINDOW // 2 + 1
    turns = torch.arange(WINDOW)[:, None] * torch.arange(num_bins) % WINDOW
    angles = turns.double() * (2 * math.pi / WINDOW)
    # The original's window is float32.
    window = torch.hann_window(WINDOW).double()[:, None]
    return torch.cat([angles.cos(), angles.sin()], 1) * window


class LogMel:
    """The filters and the transform on one device; no state."""

    def __init__(self, num_mels: int = 80, device: torch.device | str = "cpu") -> None:
        self.num_mels = num_mels
        self.device = torch.device(device)
        filters = slaney_filters(num_mels, WINDOW // 2 + 1, SAMPLE_HZ, SAMPLE_HZ / 2).float()
        self._filters = filters.repeat(1, 2).t().to(self.device, torch.float64)
        self._fourier = _fourier().to(self.device)

    def windows(self, windows: Tensor) -> Tensor:
        """log10 mel power [B, T, num_mels] of windows [B, T, 400]. Not floored, not scaled."""
        # A product instead of an FFT: library plans have no place in CUDA graphs. It is small, and
        # in float64 no global switch can take digits from it.
        power = (windows.double() @ self._fourier).square() @ self._filters
        return power.clamp_min(FLOOR).log10().float()

    def frames(self, samples: Tensor) -> Tensor:
        """log10 mel power [B, num_mels, T] of windows laid end to end from the first sample.

        `samples` [B, N] float32; T = (N - 400) // 160 + 1. Not floored, not scaled.
        """
        assert samples.ndim == 2 and samples.shape[1] >= WINDOW, f"samples {tuple(samples.shape)}"
        return self.windows(samples.unfold(1, WINDOW, HOP)).transpose(1, 2)

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
        laid = torch.zeros(len(sounds), length)
        for row, sound in enumerate(sounds):
            laid[row, : sound.shape[0]] = sound
        padded = uploaded(laid, self.device)
        edged = F.pad(padded[:, None], (EDGE, EDGE), mode="reflect")[:, 0]
        logs = self.frames(edged)[:, :, : length // HOP]
        mel = floored(logs, logs.amax((1, 2)) - DYNAMIC_RANGE)
        counts = [min(mel_frames(sound.shape[0]), length // HOP) for sound in sounds]
        mel = mel[:, :, : max(counts)]
        behind = torch.arange(mel.shape[2]) >= torch.tensor(counts)[:, None]
        return mel.masked_fill(uploaded(behind[:, None], self.device), 0.0), counts


def first_chunk(chunk: int = CHUNK) -> int:
    """Samples of the first chunk of a stream whose others have `chunk`, in whole hops."""
    return (chunk + AHEAD) // HOP * HOP


def first_fill(chunk: int = CHUNK) -> int:
    """Samples that a shorter first chunk is filled up to, with silence on the left."""
    return chunk + AHEAD


def pieces(sound: Tensor, longest: int = PIECE_SAMPLES) -> list[Tensor]:
    """Cut a sound [N] into consecutive pieces of at most `longest` samples."""
    return [sound[start : start + longest] for start in range(0, sound.shape[0], longest)]


class ChunkQueue:
    """Samples of one session that wait for their unit; at most one chunk is taken per unit."""

    def __init__(self, chunk: int = CHUNK) -> None:
        self._chunk = chunk
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
            self._waiting = F.pad(self._waiting, (max(0, first_fill(self._chunk) - len(self)), 0))
        need = first_chunk(self._chunk) if self._is_first else self._chunk
        if len(self) < need:
            return None
        chunk, self._waiting = self._waiting[:need], self._waiting[need:].clone()
        self._is_first = False
        return chunk


def floored(logs: Tensor, floor: Tensor) -> Tensor:
    """Floor [B, num_mels, T] at [B] and bring it to Whisper's range."""
    return (torch.maximum(logs, floor[:, None, None]) + 4.0) / 4.0
