"""Where utterances begin and end, in samples, on recorded speech and on noise."""

from __future__ import annotations

import numpy as np
import pytest

from engine.hearing.vad import (
    FRAME,
    MAX_UTTERANCE_MS,
    Event,
    Offset,
    Onset,
    Segmenter,
    Voice,
    mode_of,
    rms_db,
)
from engine.ipc.protocol import TurnDetection
from tests.engine.builtin.rig import hiss, noise, speech, spoken_over


def segment(
    pcm: bytes,
    detection: TurnDetection | None = None,
    *,
    strict: bool = False,
    piece: int = 640,
) -> list[Event]:
    segmenter = Segmenter(detection or TurnDetection())
    events: list[Event] = []
    for start in range(0, len(pcm), piece):
        events += segmenter.push(start // 2, pcm[start : start + piece], strict=strict)
    return events


def ends_of_speech(pcm: bytes) -> tuple[int, int]:
    """First and last sample above -42 dBFS, by 20 ms frames."""
    loud = [at for at in range(0, len(pcm), 640) if rms_db(pcm[at : at + 640]) > -42]
    return loud[0] // 2, loud[-1] // 2 + FRAME


@pytest.mark.parametrize("name", ["what_time", "tell_story", "seven_times_eight", "open"])
def test_onset_and_end_are_where_they_are(name: str) -> None:
    pcm = hiss(500) + speech(name) + hiss(800)
    first, last = ends_of_speech(pcm)
    events = segment(pcm)
    onsets = [event for event in events if isinstance(event, Onset)]
    offsets = [event for event in events if isinstance(event, Offset)]
    assert len(onsets) == len(offsets) == 1
    assert abs(onsets[0].pts - first) <= 16 * 60
    assert abs(offsets[0].pts - last) <= 16 * 80
    assert offsets[0].known_pts - offsets[0].pts == 16 * 320


def test_the_utterance_holds_its_padding_and_everything_up_to_the_end() -> None:
    pcm = hiss(500) + speech("what_time") + hiss(800)
    events = segment(pcm, TurnDetection(prefix_padding_ms=200))
    onset, offset = events[0], events[-1]
    assert isinstance(onset, Onset) and isinstance(offset, Offset)
    kept = onset.pcm + b"".join(event.pcm for event in events if isinstance(event, Voice))
    begin = offset.known_pts - len(kept) // 2
    assert kept == pcm[2 * begin : 2 * offset.known_pts]
    assert 16 * 180 <= onset.pts - begin <= 16 * 300


def test_the_silence_that_ends_an_utterance_can_be_set() -> None:
    pcm = hiss(300) + speech("stop") + hiss(400) + speech("stop") + hiss(1_500)
    short = segment(pcm, TurnDetection(silence_duration_ms=200))
    long = segment(pcm, TurnDetection(silence_duration_ms=1_000))
    assert sum(isinstance(event, Onset) for event in short) == 2
    assert sum(isinstance(event, Onset) for event in long) == 1


@pytest.mark.parametrize("piece", [2, 100, 642, 32_000])
def test_how_the_audio_is_cut_does_not_matter(piece: int) -> None:
    pcm = hiss(300) + speech("stop") + hiss(600)

    def marks(events: list[Event]) -> list[Event]:
        return [event for event in events if not isinstance(event, Voice)]

    assert marks(segment(pcm, piece=piece)) == marks(segment(pcm))


def test_a_thump_or_a_breath_is_not_clear_speech() -> None:
    random = np.random.default_rng(3)
    for level in (300, 3_000):
        rough = random.normal(0, level, 16 * 100 + 15)
        burst = np.convolve(rough, np.ones(16) / 4, "valid").astype(np.int16).tobytes()
        assert segment(hiss(500) + burst + hiss(500), strict=True) == []
    assert segment(hiss(4_000)) == []
    assert segment(bytes(64_000)) == []


@pytest.mark.parametrize("name", ["what_time", "goodbye", "hello", "stop", "tell_story", "thanks"])
def test_clear_speech_is_noticed_at_once(name: str) -> None:
    pcm = hiss(500) + speech(name) + hiss(500)
    first, _ = ends_of_speech(pcm)
    for end in range(640, len(pcm), 640):
        if segment(pcm[:end], strict=True):
            break
    assert end // 2 - first <= 16 * 120


def test_a_short_click_is_no_onset() -> None:
    click = speech("what_time")[9_600:10_560]
    assert segment(hiss(500) + click + hiss(500), strict=True) == []


def test_endless_speech_is_cut_into_bounded_utterances() -> None:
    babble = speech("open")[3_200:-6_400] * 22
    events = segment(babble)
    offsets = [event for event in events if isinstance(event, Offset)]
    assert len(babble) / 32 > MAX_UTTERANCE_MS
    assert offsets[0].known_pts <= 16 * (MAX_UTTERANCE_MS + 200)


def test_a_gap_moves_the_clock_and_an_overlap_is_ignored() -> None:
    segmenter = Segmenter(TurnDetection())
    segmenter.push(0, hiss(100), strict=False)
    segmenter.push(16_000, hiss(100), strict=False)
    assert segmenter.position == 17_600
    segmenter.push(16_800, hiss(100), strict=False)
    assert segmenter.position == 18_400
    segmenter.push(0, hiss(100), strict=False)
    assert segmenter.position == 18_400


def test_half_a_sample_is_ignored() -> None:
    segmenter = Segmenter(TurnDetection())
    segmenter.push(0, b"\1\2\3", strict=False)
    assert segmenter.position == 1


@pytest.mark.parametrize("threshold, mode", [(0, 0), (0.3, 1), (0.5, 2), (0.7, 3), (1, 3)])
def test_threshold_is_the_detectors_mode(threshold: float, mode: int) -> None:
    assert mode_of(threshold) == mode


KINDS = ("white", "pink", "rumble", "hum")


def offsets_of(events: list[Event]) -> list[Offset]:
    return [event for event in events if isinstance(event, Offset)]


@pytest.mark.parametrize("level_db", [-40, -32, -26, -20])
@pytest.mark.parametrize("kind", KINDS)
def test_steady_noise_is_no_speech_from_its_third_second_on(kind: str, level_db: float) -> None:
    events = segment(hiss(500) + noise(40_000, level_db, kind))
    assert not [offset for offset in offsets_of(events) if offset.voiced_ms]
    assert all(offset.known_pts < 16 * 4_000 for offset in offsets_of(events))
    assert len(offsets_of(events)) == sum(isinstance(event, Onset) for event in events)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["what_time", "hello", "stop", "tell_story"])
@pytest.mark.parametrize("level_db", [-42, -34])
def test_speech_over_steady_noise_is_found(kind: str, name: str, level_db: float) -> None:
    first, last = ends_of_speech(speech(name))
    begin = 16 * 8_000
    events = segment(spoken_over(noise(11_000, level_db, kind), name, 8_000))
    (onset,) = [e for e in events if isinstance(e, Onset) and e.pts > begin - 16 * 1_000]
    (offset,) = [e for e in offsets_of(events) if e.pts > begin]
    assert offset.voiced_ms >= 160
    # An "s" is lost in white noise; what the recogniser gets begins 300 ms before the onset.
    assert abs(onset.pts - begin - first) <= 16 * 260
    # The quiet end of a word may be lost in the noise; the recogniser gets what follows, too.
    assert -16 * 300 <= offset.pts - begin - last <= 16 * 200


def test_speech_that_begins_with_the_noise_counts() -> None:
    events = segment(hiss(500) + spoken_over(noise(4_000, -36), "what_time", 300))
    assert sum(offset.voiced_ms for offset in offsets_of(events)) >= 300


def test_noise_that_ends_is_forgotten_at_once() -> None:
    events = segment(noise(5_000, -26) + hiss(500) + speech("what_time") + hiss(700))
    assert offsets_of(events)[-1].voiced_ms >= 400


def test_noise_taken_for_speech_for_a_moment_is_known_by_the_silence_behind_it() -> None:
    """The detector loses interest long before two seconds of it were heard."""
    for level_db in (-46, -40):
        offsets = offsets_of(segment(noise(1_500, level_db)))
        assert offsets and not [offset for offset in offsets if offset.voiced_ms]
