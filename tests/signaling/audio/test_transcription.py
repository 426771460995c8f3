"""Recordings to be written down: the form, and the transcript in each format."""

from __future__ import annotations

import json
from typing import get_args

import pytest
from openai.types.audio import (
    Transcription,
    TranscriptionTextDeltaEvent,
    TranscriptionTextDoneEvent,
    TranscriptionVerbose,
)
from openai.types.audio_response_format import AudioResponseFormat

from signaling.audio.transcription import (
    SpokenLine,
    Transcribed,
    TranscriptFormat,
    parse_transcription,
    render_transcript,
    transcript_events,
)
from signaling.errors import ProtocolError

WAV = b"RIFF\0\0\0\0WAVEfmt "
HEARD = Transcribed((SpokenLine(0.5, 1.25, "Hello."), SpokenLine(3_661, 3_662, "It rains.")), 4.5)
FORM = [("file", WAV), ("model", b"omnicall")]


def test_form_is_read() -> None:
    extra = [("language", b"en"), ("timestamp_granularities[]", b"segment"), ("prompt", b"x")]
    order = parse_transcription([*FORM, *extra, ("include[]", b"logprobs"), ("stream", b"true")])
    assert (order.file, order.language, order.format) == (WAV, "en", "json")
    assert order.is_streamed and order.ignored == ("include[]", "prompt")


@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([("model", b"omnicall")], "file"),
        ([("file", WAV)], "model"),
        ([("file", b"plain text"), ("model", b"omnicall")], "file"),
        ([*FORM, ("response_format", b"diarized_json")], "response_format"),
        ([*FORM, ("response_format", b"srt"), ("stream", b"true")], "response_format"),
        ([*FORM, ("timestamp_granularities[]", b"word")], "timestamp_granularities[]"),
        ([*FORM, ("known_speaker_names[]", b"Ann")], "known_speaker_names[]"),
        ([*FORM, ("prompt", b"x" * 70_000)], "prompt"),
    ],
)
def test_faults_are_named(parts: list[tuple[str, bytes]], param: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        parse_transcription(parts)
    assert caught.value.param == param


def test_every_format_is_written_or_refused() -> None:
    assert set(get_args(AudioResponseFormat)) - set(get_args(TranscriptFormat)) == {"diarized_json"}


def test_objects_are_of_the_right_type() -> None:
    told = json.loads(render_transcript(HEARD, "json", "en"))
    assert Transcription.model_validate(told, strict=True).text == "Hello. It rains."
    told = json.loads(render_transcript(HEARD, "verbose_json", "en"))
    verbose = TranscriptionVerbose.model_validate(told, strict=True)
    assert [segment.start for segment in verbose.segments or ()] == [0.5, 3_661]


def test_subtitles_have_their_times() -> None:
    assert render_transcript(HEARD, "text", "en") == "Hello. It rains.\n"
    assert render_transcript(HEARD, "srt", "en") == (
        "1\n00:00:00,500 --> 00:00:01,250\nHello.\n\n"
        "2\n01:01:01,000 --> 01:01:02,000\nIt rains.\n\n"
    )
    assert render_transcript(HEARD, "vtt", "en").startswith(
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.250\nHello.\n"
    )


def test_events_add_up_to_the_whole() -> None:
    lines = transcript_events(HEARD).decode().strip().split("\n\n")
    *deltas, done = [json.loads(line.removeprefix("data: ")) for line in lines]
    pieces = [TranscriptionTextDeltaEvent.model_validate(d, strict=True).delta for d in deltas]
    whole = TranscriptionTextDoneEvent.model_validate(done, strict=True)
    assert "".join(pieces) == whole.text == "Hello. It rains."
