"""What is kept of a call: both sides' sound where it belongs, the words, and not too much of it."""

from __future__ import annotations

import json
import wave
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from server.recordings import ABOUT, WORDS, RecordedCall, RecordedLine
from server.worker import recording
from server.worker.recording import CallRecording
from signaling.session import events as ev
from signaling.session.items import FunctionCallItem, MessageItem, ShownPart
from tests.waiting import Clock

SECOND_IN, SECOND_OUT = 16_000, 24_000


def tone(samples: int, level: int) -> bytes:
    return np.full(samples, level, np.int16).tobytes()


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
        patch.setattr(recording, "_write", full)
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
