"""Log-mel: frame counts, floors and slides of a stream, and rows that do not touch each other."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from engine.dsp.logmel import (
    CHUNK,
    ChunkQueue,
    LogMel,
    first_chunk,
    mel_frames,
    pieces,
    slaney_filters,
)
from engine.dsp.streaming_logmel import StreamingLogMel

FIRST_CHUNK = first_chunk(CHUNK)


@pytest.fixture(scope="module")
def mel() -> LogMel:
    torch.set_num_threads(1)
    return LogMel()


def sound(seed: int, samples: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    loud = torch.rand(samples // 4000 + 1, generator=generator).repeat_interleave(4000)[:samples]
    return torch.randn(samples, generator=generator) * loud.square() * 0.3


class Naive:
    """A stream as it is defined: the whole buffer again for every chunk."""

    def __init__(self, mel: LogMel, chunk: int) -> None:
        self.mel = mel
        self.chunk_frames = chunk // 160
        self.buffer = torch.zeros(0)
        self.base = self.start = self.last = 0
        self.slid = False

    def push(self, chunk: Tensor) -> None:
        self.buffer = torch.cat([self.buffer, chunk])
        self.slid = self.buffer.shape[0] >= 480_000
        if self.slid:
            self.buffer, self.base = self.buffer[160_000:], self.base + 1000
        self.start, self.last = max(0, self.last - 2), self.last + self.chunk_frames

    def newest(self) -> Tensor:
        edged = F.pad(self.buffer[None, None], (200, 200), mode="reflect")[0]
        logs = self.mel.frames(edged)[0, :, : self.buffer.shape[0] // 160]
        floor = -10.0 if self.buffer.shape[0] < 80_000 else float(logs.max()) - 8
        frames = slice(self.start - self.base, self.last + 2 - self.base)
        return (logs.clamp_min(floor)[:, frames] + 4) / 4


@pytest.mark.parametrize(
    ("size", "units", "most_frames", "dynamic_from", "expected_slides"),
    [(CHUNK, 41, 104, 4, [29, 39]), (CHUNK // 2, 61, 54, 9, [59])],
)
def test_a_stream_equals_its_definition_beyond_its_slides(
    mel: LogMel,
    size: int,
    units: int,
    most_frames: int,
    dynamic_from: int,
    expected_slides: list[int],
) -> None:
    samples = sound(1, first_chunk(size) + units * size)
    streams, naive = StreamingLogMel(mel, 2, size), Naive(mel, size)
    slides = []
    for unit in range(units):
        end = first_chunk(size) + unit * size
        chunk = samples[0 if unit == 0 else end - size : end]
        ours, frames = streams.push([1], [chunk])
        naive.push(chunk)
        if naive.slid:
            slides.append(unit)
        assert frames == [most_frames - 2 if unit == 0 else most_frames]
        assert streams.is_dynamic(1) == (unit >= dynamic_from)
        assert streams.buffered(1) == naive.buffer.shape[0]
        # To know it by its definition is dear: at first, now and then, and around each slide.
        if unit < dynamic_from + 2 or unit % 5 == 0 or unit - 1 in slides or naive.slid:
            expected = naive.newest()
            torch.testing.assert_close(ours[0, :, -frames[0] :], expected, atol=2e-5, rtol=0)
    assert slides == expected_slides


def test_rows_of_a_batch_equal_single_streams(mel: LogMel) -> None:
    sounds = [sound(seed, FIRST_CHUNK + 8 * CHUNK) for seed in range(8)]
    together, delays = StreamingLogMel(mel, 8), [seed % 3 for seed in range(8)]
    alone = [StreamingLogMel(mel, 1) for _ in sounds]
    for step in range(9):
        slots = [slot for slot in reversed(range(8)) if step >= delays[slot]]
        chunks = [chunk_of(sounds[slot], step - delays[slot]) for slot in slots]
        mels, frames = together.push(slots, chunks)
        for row, (slot, chunk) in enumerate(zip(slots, chunks, strict=True)):
            expected, (count,) = alone[slot].push([0], [chunk])
            assert frames[row] == count
            torch.testing.assert_close(mels[row], expected[0], atol=1e-5, rtol=0)
            assert not mels[row, :, : 104 - count].any()


def test_a_reset_row_starts_anew_and_leaves_the_others(mel: LogMel) -> None:
    one, two = sound(1, FIRST_CHUNK + 6 * CHUNK), sound(2, FIRST_CHUNK)
    streams, fresh = StreamingLogMel(mel, 2), StreamingLogMel(mel, 1)
    for unit in range(6):
        streams.push([0], [chunk_of(one, unit)])
    streams.reset([0])
    again, frames = streams.push([0], [two])
    expected, _ = fresh.push([0], [two])
    assert frames == [102] and not streams.is_dynamic(0)
    assert torch.equal(again, expected)


def test_stable_frames_equal_the_whole_sound_under_the_same_floor(mel: LogMel) -> None:
    samples = sound(3, FIRST_CHUNK + 5 * CHUNK)
    streams = StreamingLogMel(mel, 1)
    for unit in range(6):
        last, _ = streams.push([0], [chunk_of(samples, unit)])
    whole, _ = mel.whole([samples])
    torch.testing.assert_close(last[0], whole[0, :, 498:602], atol=2e-5, rtol=0)


def test_whole_sounds_are_padded_and_floored_row_by_row(mel: LogMel) -> None:
    sounds = [sound(1, 16_000), 0.01 * sound(2, 40_123), sound(3, 480_000)]
    together, frames = mel.whole(sounds)
    assert frames == [100, 251, 3000]
    for row, item in enumerate(sounds):
        alone, (count,) = mel.whole([item])
        torch.testing.assert_close(together[row, :, :count], alone[0], atol=1e-5, rtol=0)
        assert not together[row, :, count:].any()
        assert alone.min() >= alone.max() - 2.0 - 1e-5


def test_a_whole_sound_equals_thirty_seconds_of_silence_around_it(mel: LogMel) -> None:
    item = sound(4, 33_333)
    padded = F.pad(item, (0, 480_000 - 33_333))
    ours, (count,) = mel.whole([item])
    theirs, _ = mel.whole([padded])
    torch.testing.assert_close(ours[0], theirs[0, :, :count], atol=1e-5, rtol=0)


def test_filters_are_triangles_of_equal_area() -> None:
    filters = slaney_filters(80, 201, 16_000, 8_000)
    assert filters.shape == (80, 201) and filters.min() == 0
    # Wide triangles hold enough bins of 40 Hz that their sum comes near the area of 1.
    assert (filters.sum(1) * 40)[40:].sub(1).abs().max() < 0.1
    assert filters[:, 0].sum() == 0 and filters[-1].argmax() > filters[0].argmax()


def test_the_first_chunk_is_filled_up_and_five_milliseconds_stay() -> None:
    queue = ChunkQueue()
    assert queue.take() is None
    queue.push(torch.ones(16_000))
    first = queue.take()
    assert first is not None and first.shape == (FIRST_CHUNK,)
    assert not first[:560].any() and first[560:].all() and len(queue) == 80
    queue.push(torch.ones(15_900))
    assert queue.take() is None
    queue.push(torch.ones(20))
    second = queue.take()
    assert second is not None and second.shape == (CHUNK,) and len(queue) == 0


def test_a_long_first_input_is_not_filled_up() -> None:
    queue = ChunkQueue()
    queue.push(torch.ones(20_000))
    first = queue.take()
    assert first is not None and first.all() and len(queue) == 20_000 - FIRST_CHUNK


def test_long_sounds_are_cut() -> None:
    assert [len(piece) for piece in pieces(torch.zeros(1_000_000))] == [480_000, 480_000, 40_000]
    assert pieces(torch.zeros(0)) == []
    assert [mel_frames(n) for n in (1, 160, 161, 480_000)] == [1, 1, 2, 3000]


def chunk_of(samples: Tensor, unit: int) -> Tensor:
    end = FIRST_CHUNK + unit * CHUNK
    return samples[:end] if unit == 0 else samples[end - CHUNK : end]
