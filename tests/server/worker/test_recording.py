"""What is kept of a call: both sides' sound where it belongs, the words, and not too much of it."""

from __future__ import annotations

import asyncio
import io
import json
import shutil
import threading
import wave
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import PIL.Image
import pytest

from server.recordings import (
    ABOUT,
    PICTURES,
    SEEN,
    WORDS,
    RecordedCall,
    RecordedLine,
    RecordedPicture,
)
from server.worker import recording, recording_files
from server.worker.recording import CallRecording
from signaling.session import events as ev
from signaling.session.items import FunctionCallItem, MessageItem, ShownPart
from tests.waiting import PATIENCE_S, Clock, until

SECOND_IN, SECOND_OUT = 16_000, 24_000


def tone(samples: int, level: int) -> bytes:
    return np.full(samples, level, np.int16).tobytes()


@pytest.fixture(autouse=True)
def disk_is_awaited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording, "CLOSE_S", PATIENCE_S)


@pytest.fixture
def kept(tmp_path: Path) -> CallRecording:
    return CallRecording(tmp_path / "call_1", "call_1", 1_000_000, Clock(5000.0))


def sound(folder: Path, name: str) -> tuple[int, Any]:
    with wave.open(str(folder / "call_1" / name)) as file:
        assert file.getsampwidth() == 2 and file.getnchannels() == 1
        return file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), np.int16)


def about(folder: Path) -> RecordedCall:
    return msgspec.json.decode((folder / "call_1" / ABOUT).read_bytes(), type=RecordedCall)


def message(role: Any, text: str) -> MessageItem:
    return MessageItem(id="item_1", role=role, parts=(ShownPart("text", text),))


async def test_both_sides_are_kept_in_time_and_answers_as_far_as_they_were_heard(
    kept: CallRecording, tmp_path: Path
) -> None:
    kept.hear(0, tone(SECOND_IN, 1))
    kept.hear(2 * SECOND_IN, tone(SECOND_IN, 2))  # A second in between did not come.
    kept.said(1, tone(SECOND_OUT, 3))
    kept.heard(1, 2_400)
    await kept._flush()
    kept.hear(3 * SECOND_IN, tone(SECOND_IN // 10, 1))
    kept.heard(1, 4_800)
    kept.heard(1, 4_800, is_over=True)
    await kept.close("hangup")
    rate, user = sound(tmp_path, "user.wav")
    assert rate == SECOND_IN and len(user) == 3 * SECOND_IN + 1_600
    assert user[0] == 1 and user[SECOND_IN + 5] == 0 and user[2 * SECOND_IN] == 2
    rate, assistant = sound(tmp_path, "assistant.wav")
    assert rate == SECOND_OUT and len(assistant) == 3 * SECOND_OUT + 2_400
    assert np.flatnonzero(assistant).tolist() == list(range(len(assistant) - 4_800, len(assistant)))
    told = about(tmp_path)
    assert (told.call_id, told.reason, told.ended_at) == ("call_1", "hangup", 5000.0)
    assert not told.is_cut_short


async def test_the_words_are_lines(kept: CallRecording, tmp_path: Path) -> None:
    info = ev.ResponseInfo(id="r", modality="audio", status="in_progress")
    call = FunctionCallItem(id="item_2", call_id="c", name="look", arguments='{"a": 1}')
    said = ev.TranscriptCompleted(item_id="item_0", text="Hello.", grown="", start_ms=0, end_ms=1)
    kept.tell(said)
    kept.tell(ev.ItemPlaced(item=message("user", "Hi."), after=None))
    kept.tell(ev.ItemPlaced(item=message("user", ""), after=None))
    for item in (message("assistant", "Good day."), call):
        kept.tell(ev.OutputEnded(response=info, index=0, item=item, after=None))
    kept.tell(ev.ResponseAudible(response_id="r"))
    kept.note(None)
    await kept.close("hangup")
    lines = (tmp_path / "call_1" / WORDS).read_bytes().splitlines()
    assert [
        (line.role, line.text)
        for line in (msgspec.json.decode(x, type=RecordedLine) for x in lines)
    ] == [
        ("user", "Hello."),
        ("user", "Hi."),
        ("assistant", "Good day."),
        ("function", 'look({"a": 1})'),
    ]
    assert json.loads(lines[0])["at"] == 5000.0
    modes = {path.stat().st_mode & 0o077 for path in (tmp_path / "call_1").iterdir()}
    assert modes == {0} and (tmp_path / "call_1").stat().st_mode & 0o077 == 0


async def test_what_exceeds_the_bound_is_left_out_and_told(tmp_path: Path) -> None:
    kept = CallRecording(tmp_path / "call_1", "call_1", 2 * SECOND_IN, Clock())
    kept.hear(0, tone(SECOND_IN, 1))
    kept.hear(SECOND_IN, tone(1, 1))
    kept.hear(2 * SECOND_IN, tone(1, 1))
    kept.tell(ev.ItemPlaced(item=message("user", "Hi."), after=None))
    await kept.close("hangup")
    assert len(sound(tmp_path, "user.wav")[1]) == SECOND_IN and about(tmp_path).is_cut_short
    assert not (tmp_path / "call_1" / WORDS).exists()


async def test_a_disk_that_takes_nothing_ends_the_recording_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = CallRecording(tmp_path / "call_1", "call_1", 1_000_000, Clock())

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(recording_files, "_write", full)
        kept.hear(0, tone(SECOND_IN, 1))
        await kept._flush()
    kept.hear(SECOND_IN, tone(SECOND_IN, 1))
    await kept.close("hangup")
    assert about(tmp_path).is_cut_short and not (tmp_path / "call_1" / "user.wav").exists()


async def test_another_media_worker_goes_on_in_files_of_its_own(
    kept: CallRecording, tmp_path: Path
) -> None:
    kept.hear(0, tone(SECOND_IN, 1))
    await kept._flush()  # Its process dies then.
    later = CallRecording(tmp_path / "call_1", "call_1", 1_000_000, Clock(9000.0))
    later.hear(0, tone(160, 2))
    await later.close("hangup")
    assert len(sound(tmp_path, "user.wav")[1]) == SECOND_IN
    assert len(sound(tmp_path, "user-2.wav")[1]) == 160
    assert (about(tmp_path).began_at, about(tmp_path).ended_at) == (5000.0, 9000.0)
    assert about(tmp_path).sounds_began_at == (5000.0, 9000.0)


async def test_words_say_where_in_the_sound_they_begin(tmp_path: Path) -> None:
    clock = Clock(5000.0)
    kept = CallRecording(tmp_path / "call_1", "call_1", 1_000_000, clock)
    kept.note(message("user", "Written before any sound."))
    clock.now = 5010.0
    origin = 7 * SECOND_IN  # The session's own count may begin anywhere.
    kept.hear(origin, tone(3 * SECOND_IN, 1))
    clock.now = 5099.0
    start_ms = 1000 * origin // SECOND_IN + 500
    kept.tell(
        ev.TranscriptCompleted(item_id="i", text="Hello.", grown="", start_ms=start_ms, end_ms=1)
    )
    info = ev.ResponseInfo(id="r", modality="audio", status="in_progress")
    kept.tell(ev.ResponseAudible(response_id="r"))
    kept.hear(origin + 3 * SECOND_IN, tone(SECOND_IN, 1))
    answer = message("assistant", "Good day.")
    kept.tell(ev.OutputEnded(response=info, index=0, item=answer, after=None))
    kept.tell(ev.ResponseEnded(response=info))
    kept.note(message("user", "Written."))
    kept.tell(ev.ResponseAudible(response_id="r2"))
    kept.hear(origin + 4 * SECOND_IN, tone(SECOND_IN, 1))
    kept.note_rest([None, answer])
    await kept.close("hangup")
    lines = (tmp_path / "call_1" / WORDS).read_bytes().splitlines()
    began_at = [msgspec.json.decode(line, type=RecordedLine).began_at for line in lines]
    assert began_at == [5000.0, 5010.5, 5013.0, 5014.0, 5014.0]
    assert about(tmp_path).sounds_began_at == (5010.0,)


async def test_without_a_microphone_the_clock_counts_the_time(tmp_path: Path) -> None:
    clock = Clock(5000.0)
    kept = CallRecording(tmp_path / "call_1", "call_1", 10_000_000, clock, has_pictures=True)
    rgb = bytes(12)
    kept.said(1, tone(2 * SECOND_OUT, 3))
    for number in range(1, 11):
        kept.heard(1, number * SECOND_OUT // 10)
        clock.now = 5000.0 + number / 10
    clock.now = 5010.0
    kept.note(message("user", "Look."))
    kept.see(2, 2, rgb)
    await kept._flush()
    clock.now = 5020.0
    kept.see(2, 2, rgb)
    kept.heard(1, 2 * SECOND_OUT, is_over=True)
    clock.now = 5030.0
    kept.hear(7 * SECOND_IN, tone(SECOND_IN, 1))
    clock.now = 5099.0
    kept.note(message("user", "Heard."))
    await kept.close("hangup")
    user, assistant = (sound(tmp_path, name)[1] for name in ("user.wav", "assistant.wav"))
    assert np.flatnonzero(user).tolist() == list(range(30 * SECOND_IN, 31 * SECOND_IN))
    heard = np.flatnonzero(assistant)
    assert len(heard) == 2 * SECOND_OUT and (heard[:SECOND_OUT] == np.arange(SECOND_OUT)).all()
    assert heard[SECOND_OUT] == 19 * SECOND_OUT and heard[-1] == 20 * SECOND_OUT - 1
    lines, seen = (
        [json.loads(line) for line in (tmp_path / "call_1" / name).read_bytes().splitlines()]
        for name in (WORDS, SEEN)
    )
    assert [line["began_at"] for line in lines] == [5010.0, 5031.0]
    assert [one["at"] for one in seen] == [5010.0, 5020.0]


async def test_a_recording_that_was_deleted_meanwhile_is_told_of_again(
    kept: CallRecording, tmp_path: Path
) -> None:
    kept.hear(0, tone(SECOND_IN, 1))
    await kept._flush()
    shutil.rmtree(tmp_path / "call_1")
    kept.hear(SECOND_IN, tone(SECOND_IN, 1))
    await kept._flush()
    assert about(tmp_path).sounds_began_at == (5000.0,) and about(tmp_path).ended_at is None


async def test_pictures_are_kept_small_and_seldom_where_they_are_wanted(tmp_path: Path) -> None:
    clock = Clock(5000.0)
    rgb = np.full((240, 640, 3), (250, 10, 10), np.uint8).tobytes()
    folder = tmp_path / "call_1"
    for has_pictures in (False, True):
        kept = CallRecording(folder, "call_1", 1_000_000, clock, has_pictures=has_pictures)
        for _ in range(9):
            kept.see(640, 240, rgb)
            await kept._flush()
            clock.now += 1.0
        kept.see(1, 1, b"")  # The camera went off.
        await kept.close("hangup")
        assert (folder / SEEN).exists() is has_pictures
    lines = (folder / SEEN).read_bytes().splitlines()
    seen = [msgspec.json.decode(line, type=RecordedPicture) for line in lines]
    assert [one.at for one in seen] == [5009.0, 5013.0, 5017.0]
    kept_bytes = (folder / PICTURES).read_bytes()
    assert sum(one.size for one in seen) == len(kept_bytes) < 30_000
    for one in seen:
        jpeg = io.BytesIO(kept_bytes[one.start : one.start + one.size])
        with PIL.Image.open(jpeg) as picture:
            assert picture.size == (320, 120)
            red, green, blue = np.asarray(picture)[9, 9]
            assert red > 230 and green < 40 and blue < 40


async def test_one_picture_is_kept_where_the_sound_stands_still(tmp_path: Path) -> None:
    """As while a mute lets the engine rest: no other would have a time of its own."""
    clock = Clock(5000.0)
    kept = CallRecording(tmp_path / "call_1", "call_1", 1_000_000, clock, has_pictures=True)
    kept.hear(0, tone(SECOND_IN, 1))
    for _ in range(3):
        kept.see(2, 2, bytes(12))
        await kept._flush()
        clock.now += 60.0
    for second in range(1, 5):
        kept.hear(second * SECOND_IN, tone(SECOND_IN, 1))
    kept.see(2, 2, bytes(12))
    await kept.close("hangup")
    rows = (tmp_path / "call_1" / SEEN).read_bytes().splitlines()
    assert [json.loads(row)["at"] for row in rows] == [5001.0, 5005.0]


async def test_pictures_count_as_sound_does(tmp_path: Path) -> None:
    clock = Clock()
    kept = CallRecording(tmp_path / "call_1", "call_1", 2_000, clock, has_pictures=True)
    noise = np.random.default_rng(1).integers(0, 255, 320 * 240 * 3, np.uint8).tobytes()
    kept.see(320, 240, noise)
    await kept._flush()
    clock.now += 60.0
    kept.note(message("user", "a"))
    kept.see(320, 240, noise)
    await kept.close("hangup")
    assert about(tmp_path).is_cut_short
    assert len((tmp_path / "call_1" / SEEN).read_bytes().splitlines()) == 1


async def test_a_disk_that_fails_in_any_way_ends_no_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = CallRecording(tmp_path / "call_1", "call_1", 1_000_000, Clock())

    def broken(*_: object) -> None:
        raise ValueError("of no kind that is expected")

    with monkeypatch.context() as patch:
        patch.setattr(recording_files, "_write", broken)
        kept.hear(0, tone(SECOND_IN, 1))
        await kept._flush()
    await kept.close("hangup")
    assert about(tmp_path).is_cut_short


async def test_a_gap_counts_as_the_silence_it_becomes(tmp_path: Path) -> None:
    kept = CallRecording(tmp_path / "call_1", "call_1", 100_000_000_000, Clock())
    kept.hear(0, tone(SECOND_IN, 1))
    kept.hear(2**31, tone(SECOND_IN, 1))  # Further than a WAV file can say.
    kept.hear(2**31 + SECOND_IN, tone(SECOND_IN, 1))
    await kept.close("hangup")
    assert about(tmp_path).is_cut_short and len(sound(tmp_path, "user.wav")[1]) == SECOND_IN


async def test_the_end_of_a_call_loses_nothing_that_is_being_written(
    kept: CallRecording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor does it write beside it: the disk takes one thing after the other."""
    write, begun, may_go = recording_files._write, threading.Event(), threading.Event()
    at_once: list[int] = []

    def slow(*given: Any) -> int:
        begun.set()
        may_go.wait(PATIENCE_S)
        at_once.append(1)
        assert len(at_once) == 1
        written = write(*given)
        at_once.pop()
        return written

    monkeypatch.setattr(recording_files, "_write", slow)
    kept.hear(0, tone(SECOND_IN, 1))
    running = asyncio.create_task(kept.run())
    try:
        await until(begun.is_set)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        kept.hear(SECOND_IN, tone(SECOND_IN, 2))
        closing = asyncio.create_task(kept.close("hangup"))
        await asyncio.sleep(0)
        assert not closing.done()
    finally:
        may_go.set()
    await closing
    samples = sound(tmp_path, "user.wav")[1]
    assert len(samples) == 2 * SECOND_IN and samples.all()
    assert about(tmp_path).reason == "hangup" and not about(tmp_path).is_cut_short


async def test_a_write_that_fails_while_the_call_ends_is_told(
    kept: CallRecording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, failures = recording_files._write, [OSError(5, "Input/output error")]

    def fails_once(*given: Any) -> int:
        if failures:
            raise failures.pop()
        return write(*given)

    monkeypatch.setattr(recording_files, "_write", fails_once)
    kept.hear(0, tone(SECOND_IN, 1))
    await kept.close("hangup")
    told = about(tmp_path)
    assert (told.reason, told.is_cut_short) == ("hangup", True)


async def test_a_disk_that_hangs_costs_other_work_no_thread(
    kept: CallRecording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []

    def noted(*_: object) -> int:
        names.append(threading.current_thread().name)
        return 0

    monkeypatch.setattr(recording_files, "_write", noted)
    await kept.close("hangup")
    await CallRecording(tmp_path / "call_2", "call_2", 1_000_000, Clock()).close("hangup")
    assert len(set(names)) == 1 and names[0].startswith("recordings")


async def test_words_count_as_sound_does(tmp_path: Path) -> None:
    kept = CallRecording(tmp_path / "call_1", "call_1", 1_000, Clock())
    kept.note(message("user", "a" * 800))
    kept.note(message("user", "b" * 800))
    kept.note(message("user", "c"))
    await kept.close("hangup")
    (line,) = (tmp_path / "call_1" / WORDS).read_bytes().splitlines()
    assert b"aaa" in line and about(tmp_path).is_cut_short


async def test_words_that_wait_for_the_disk_are_bounded(
    kept: CallRecording, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "MAX_WAITING_BYTES", 1_000)
    for _ in range(10):  # What was written waits no more.
        kept.note(message("user", "a" * 800))
        await kept._flush()
    assert not kept._about.is_cut_short
    kept.note(message("user", "a" * 1_600))
    assert kept._about.is_cut_short


async def test_half_a_character_is_no_fault(kept: CallRecording, tmp_path: Path) -> None:
    kept.note(message("user", "a\ud800b"))
    await kept.close("hangup")
    (line,) = (tmp_path / "call_1" / WORDS).read_bytes().splitlines()
    assert json.loads(line)["text"] == "a?b" and not about(tmp_path).is_cut_short


async def test_all_media_workers_of_a_call_share_its_bound(tmp_path: Path) -> None:
    first = CallRecording(tmp_path / "call_1", "call_1", 3 * SECOND_IN, Clock())
    first.hear(0, tone(SECOND_IN, 1))
    await first._flush()  # Its process dies then.
    later = CallRecording(tmp_path / "call_1", "call_1", 3 * SECOND_IN, Clock())
    await later._flush()
    later.hear(0, tone(SECOND_IN, 1))
    await later.close("hangup")
    assert about(tmp_path).is_cut_short and not (tmp_path / "call_1" / "user-2.wav").exists()


@pytest.mark.parametrize("left", [None, b"", b'{"x": ' + b"[" * 20_000, b'{"call_id": "\xff"}'])
async def test_no_sound_is_overwritten_whatever_became_of_the_rest(
    kept: CallRecording, tmp_path: Path, left: bytes | None
) -> None:
    kept.said(1, tone(SECOND_OUT, 3))
    kept.heard(1, SECOND_OUT)
    await kept._flush()  # Its process dies then.
    (tmp_path / "call_1" / "assistant-4.wav").write_bytes(b"of a fourth one")
    (tmp_path / "call_1" / ABOUT).unlink()
    if left is not None:
        (tmp_path / "call_1" / ABOUT).write_bytes(left)
    later = CallRecording(tmp_path / "call_1", "call_1", 1_000_000, Clock(9000.0))
    later.hear(0, tone(160, 2))
    later.said(1, tone(240, 3))
    later.heard(1, 240)
    await later.close("hangup")
    assert len(sound(tmp_path, "user-5.wav")[1]) == 160
    assert len(sound(tmp_path, "assistant.wav")[1]) == SECOND_OUT
    assert about(tmp_path).began_at == 9000.0


async def test_what_is_known_of_a_call_lies_there_before_its_sound(
    kept: CallRecording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recording_files, "_write_sound", dies)
    kept.hear(0, tone(SECOND_IN, 1))
    await kept._flush()
    assert about(tmp_path).began_at == 5000.0
    assert sorted(path.name for path in (tmp_path / "call_1").iterdir()) == [ABOUT]


async def test_who_reads_that_a_call_is_over_finds_all_of_it(
    kept: CallRecording, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, ended_at = recording_files._write_sound, []

    def noted(*given: Any) -> None:
        ended_at.append(about(tmp_path).ended_at)
        write(*given)

    monkeypatch.setattr(recording_files, "_write_sound", noted)
    await kept._flush()
    kept.hear(0, tone(SECOND_IN, 1))
    await kept.close("hangup")
    assert ended_at == [None] and about(tmp_path).ended_at is not None


async def test_a_recording_begins_with_the_call_and_not_with_the_connection(
    kept: CallRecording, tmp_path: Path
) -> None:
    """The caller has waited in the queue for an hour."""
    kept.hear(3600 * SECOND_IN, tone(SECOND_IN, 1))
    kept.hear(3602 * SECOND_IN, tone(SECOND_IN, 1))
    await kept.close("hangup")
    assert len(sound(tmp_path, "user.wav")[1]) == 3 * SECOND_IN


async def test_who_sends_nothing_while_listening_goes_on_behind_the_answer(
    kept: CallRecording, tmp_path: Path
) -> None:
    kept.hear(0, tone(SECOND_IN, 1))
    kept.said(1, tone(4 * SECOND_OUT, 3))
    for heard in range(SECOND_OUT // 5, 4 * SECOND_OUT + 1, SECOND_OUT // 5):
        kept.heard(1, heard)
    kept.hear(SECOND_IN, tone(SECOND_IN, 2))
    await kept.close("hangup")
    user, assistant = sound(tmp_path, "user.wav")[1], sound(tmp_path, "assistant.wav")[1]
    answer_ends_s = len(assistant) / SECOND_OUT
    second_turn_s = np.flatnonzero(user == 2)[0] / SECOND_IN
    assert answer_ends_s == pytest.approx(4.8) and 4.6 <= second_turn_s <= answer_ends_s


async def test_sound_that_was_lost_on_the_way_puts_nothing_later(
    kept: CallRecording, tmp_path: Path
) -> None:
    """The user's count stands still for a while, too, but then it leaps on."""
    kept.hear(0, tone(SECOND_IN, 1))
    kept.said(1, tone(2 * SECOND_OUT, 3))
    for heard in range(SECOND_OUT // 5, 2 * SECOND_OUT + 1, SECOND_OUT // 5):
        kept.heard(1, heard)
    kept.hear(3 * SECOND_IN, tone(SECOND_IN, 2))
    await kept.close("hangup")
    user = sound(tmp_path, "user.wav")[1]
    assert np.flatnonzero(user == 2)[0] == 3 * SECOND_IN


async def test_a_recording_that_was_cut_short_stays_so(tmp_path: Path) -> None:
    first = CallRecording(tmp_path / "call_1", "call_1", 100_000, Clock())
    first.hear(0, tone(100_000, 1))
    await first._flush()  # Its process dies then.
    later = CallRecording(tmp_path / "call_1", "call_1", 100_000, Clock())
    await later._flush()
    later.hear(0, tone(160, 2))
    await later.close("hangup")
    assert about(tmp_path).is_cut_short and not (tmp_path / "call_1" / "user.wav").exists()
