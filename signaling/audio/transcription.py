"""POST /v1/audio/transcriptions: the form that comes, and the transcript in each format. Front.

OpenAI API reference, "Audio / Create transcription".
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from signaling.chat.messages import check_sound_file
from signaling.chat.rendering import data_line
from signaling.chat.request import unserved_names
from signaling.errors import ProtocolError
from signaling.fields import convert

TranscriptFormat = Literal["json", "text", "srt", "verbose_json", "vtt"]
MAX_FIELD_BYTES = 64 * 1024


class TranscriptionForm(msgspec.Struct, frozen=True, kw_only=True):
    """The fields that are served, beside the file; the others change nothing."""

    model: Annotated[str, Meta(min_length=1, max_length=256)]
    language: Annotated[str, Meta(max_length=16)] | None = None
    response_format: TranscriptFormat = "json"
    stream: Literal["true", "false", "True", "False"] = "false"


class TranscriptionOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be written down, checked."""

    model: str
    file: bytes
    language: str | None
    format: TranscriptFormat
    is_streamed: bool
    ignored: tuple[str, ...]


class SpokenLine(msgspec.Struct, frozen=True):
    """Something said, from one second to another."""

    start_s: float
    end_s: float
    text: str


class Transcribed(msgspec.Struct, frozen=True):
    """All that is said in a file."""

    lines: tuple[SpokenLine, ...]
    duration_s: float

    @property
    def text(self) -> str:
        return " ".join(line.text for line in self.lines)


def parse_transcription(parts: list[tuple[str, bytes]]) -> TranscriptionOrder:
    """Check the parts of a form; raises ProtocolError."""
    file = next((content for name, content in parts if name == "file"), None)
    if file is None:
        raise ProtocolError(
            "file: this field is required.", code="missing_required_parameter", param="file"
        )
    fields: dict[str, Any] = {}
    for name, content in parts:
        if name != "file":
            fields.setdefault(name, _text(name, content))
            if (name, content) == ("timestamp_granularities[]", b"word"):
                raise _unsupported(name, "times are those of segments, not of words")
    for name in ("known_speaker_names[]", "known_speaker_references[]"):
        if name in fields:
            raise _unsupported(name, "speakers are not told apart")
    form = convert(fields, TranscriptionForm)
    is_streamed = form.stream.lower() == "true"
    if is_streamed and form.response_format != "json":
        raise ProtocolError(
            f'response_format: "{form.response_format}" is not streamed; "json" is.',
            code="unsupported_value",
            param="response_format",
        )
    known = (*TranscriptionForm.__struct_fields__, "timestamp_granularities[]")
    return TranscriptionOrder(
        model=form.model,
        file=check_sound_file(file, "file"),
        language=form.language,
        format=form.response_format,
        is_streamed=is_streamed,
        ignored=unserved_names(fields, known),
    )


def render_transcript(heard: Transcribed, kind: TranscriptFormat, language: str) -> str:
    """The body of the answer."""
    match kind:
        case "text":
            return heard.text + "\n"
        case "srt":
            cues = [_cue(line, ",") for line in heard.lines]
            return "".join(f"{n}\n{cue}\n" for n, cue in enumerate(cues, 1))
        case "vtt":
            return "WEBVTT\n\n" + "".join(_cue(line, ".") + "\n" for line in heard.lines)
        case "json":
            told: dict[str, Any] = {"text": heard.text, "usage": _usage(heard)}
        case "verbose_json":
            told = {
                "task": "transcribe",
                "language": language,
                "duration": heard.duration_s,
                "text": heard.text,
                "segments": [_segment(n, line) for n, line in enumerate(heard.lines)],
                "usage": _usage(heard),
            }
    return msgspec.json.encode(told).decode()


def transcript_events(heard: Transcribed) -> bytes:
    """The events of a stream, one for each thing that was said and one for the whole."""
    deltas = [("" if n == 0 else " ") + line.text for n, line in enumerate(heard.lines)]
    events = [{"type": "transcript.text.delta", "delta": delta} for delta in deltas]
    done = {"type": "transcript.text.done", "text": heard.text}
    return b"".join(map(data_line, (*events, done)))


def _usage(heard: Transcribed) -> dict[str, Any]:
    return {"type": "duration", "seconds": heard.duration_s}


def _segment(number: int, line: SpokenLine) -> dict[str, Any]:
    # The type requires figures that no recogniser here gives: they are 0.
    unknown = dict.fromkeys(("temperature", "avg_logprob", "compression_ratio"), 0.0)
    times = {"start": line.start_s, "end": line.end_s, "seek": 0}
    return {"id": number, **times, "text": line.text, "tokens": [], "no_speech_prob": 0.0} | unknown


def _cue(line: SpokenLine, point: str) -> str:
    return f"{_clock(line.start_s, point)} --> {_clock(line.end_s, point)}\n{line.text}\n"


def _clock(seconds: float, point: str) -> str:
    ms = round(seconds * 1000)
    return f"{ms // 3_600_000:02}:{ms // 60_000 % 60:02}:{ms // 1000 % 60:02}{point}{ms % 1000:03}"


def _text(name: str, content: bytes) -> str:
    if len(content) > MAX_FIELD_BYTES:
        raise ProtocolError(f"{name[:64]}: too long.", code="too_large", param=name[:64])
    return content.decode(errors="replace").strip()


def _unsupported(name: str, why: str) -> ProtocolError:
    return ProtocolError(f"{name}: {why}.", code="unsupported_value", param=name)
