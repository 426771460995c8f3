"""What a script is: the TOML file of the scripted engine, read and checked."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from engine.base import EngineError
from engine.ipc.protocol import FunctionName
from engine.scripted.toml_lines import line_of

SHIPPED = Path(__file__).parent / "scripts"
DEFAULT = "conversation"
MAX_SCRIPT_BYTES = 1 << 20

Words = Annotated[str, Meta(max_length=8_000)]
Seconds = Annotated[float, Meta(ge=0, le=86_400)]
To = Literal["any", "speech", "text", "tool", "aside"]

_WHERE = re.compile(r"(?P<what>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.S)
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]*)`")


class ScriptError(EngineError):
    """The script cannot be played; the text names the file, the line and the field."""


class _Table(Struct, frozen=True, forbid_unknown_fields=True):
    pass


class ScriptedCall(_Table, frozen=True):
    """A function that is called."""

    name: FunctionName
    arguments: dict[str, Any] | Words = {}
    """A table; or text, which is sent as it stands."""
    id: Annotated[str, Meta(max_length=128)] = ""
    """Empty: one is made."""
    pieces: Annotated[int, Meta(ge=1, le=64)] = 1
    """In how many pieces the arguments come."""

    @property
    def text(self) -> str:
        if isinstance(self.arguments, str):
            return self.arguments
        return msgspec.json.encode(self.arguments).decode()


class ScriptedWarning(_Table, frozen=True):
    code: Annotated[str, Meta(min_length=1, max_length=64)]
    message: Words = ""


class ScriptedAction(_Table, frozen=True):
    """What is said and done at a cue or as an answer."""

    say: Words = ""
    heard: Words = ""
    """What the user is taken to have said."""
    calls: Annotated[tuple[ScriptedCall, ...], Meta(max_length=16)] = ()
    warn: ScriptedWarning | None = None
    fails: Words = ""
    """The response ends as failed, for this reason."""
    end: Literal["", "goodbye", "context_limit"] = ""
    """The session ends once all was said."""


class Cue(ScriptedAction, frozen=True, kw_only=True):
    """At this second of the caller's sound, in full duplex."""

    at: Seconds
    decisions: Annotated[str, Meta(pattern="^[SLsl]*$", max_length=600)] = ""
    """A letter a unit while `say` is under way: S speaks on, L listens; then S to its end."""
    heard_s: Annotated[float, Meta(gt=0, le=600)] = 2.0
    delegate: Annotated[str, Meta(max_length=128)] = ""
    """The id of a task handed to the client."""
    kv_tokens: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    """From here on this much of the context is used."""


class ScriptedAnswer(ScriptedAction, frozen=True, kw_only=True):
    """To a turn. Each is given once, in order; after the last one they begin anew."""

    to: To = "any"
    when: Words = ""
    """Only if what is answered (typed, said or given back by a function) contains this."""
    wait_s: Annotated[float, Meta(ge=0, le=60)] = 0.0


class ContextFigures(_Table, frozen=True):
    """What the model can remember, as units use it up."""

    limit: Annotated[int, Meta(ge=1, le=10_000_000)] = 8192
    start: Annotated[int, Meta(ge=0, le=10_000_000)] = 200
    per_unit: Annotated[int, Meta(ge=0, le=100_000)] = 15
    slide_to: Annotated[float, Meta(ge=0, lt=1)] = 0.5
    """The share that is left where a session goes on at the limit."""


class Script(_Table, frozen=True):
    """A whole script."""

    title: Annotated[str, Meta(min_length=1, max_length=200)] = "Scripted engine"
    description: Annotated[str, Meta(max_length=1_000)] = (
        "Says what a script tells it to say, whatever it hears. For tests and demonstrations."
    )
    sound: Literal["speech", "tones"] = "speech"
    voice: Annotated[str, Meta(min_length=1, max_length=64)] = "en-us"
    """Of espeak-ng."""
    rate_wpm: Annotated[int, Meta(ge=80, le=450)] = 165
    unit_ms: Literal[500, 1000] = 1000
    listens: bool = True
    """Whether the caller's voice is heard at all: it interrupts, and its turns are answered."""
    video: bool = False
    """Whether a camera is offered; its pictures change nothing."""
    repeat_s: Seconds = 0.0
    """The cues begin anew every so many seconds; 0: they come once."""
    context: ContextFigures = ContextFigures()
    cue: Annotated[tuple[Cue, ...], Meta(max_length=1_000)] = ()
    answer: Annotated[tuple[ScriptedAnswer, ...], Meta(max_length=1_000)] = ()

    @property
    def actions(self) -> Iterator[ScriptedAction]:
        yield from self.cue
        yield from self.answer


def find(name: str) -> Path:
    """The file of a script: a path, or the name of one that ships with us; empty: the default."""
    shipped = SHIPPED / f"{name or DEFAULT}.toml"
    if re.fullmatch(r"[a-z_]*", name) and shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(sorted(path.stem for path in SHIPPED.glob("*.toml")))
    raise ScriptError(f"script {name}: no such file, nor one of {known}")


def load(name: str) -> Script:
    """Read the script of this name or path; raises `ScriptError`."""
    path = find(name)
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SCRIPT_BYTES + 1)
        if len(data) > MAX_SCRIPT_BYTES:
            raise ScriptError(f"script {path}: more than {MAX_SCRIPT_BYTES >> 20} MB")
        text = data.decode()
        table = tomllib.loads(text)
    except OSError as error:
        raise ScriptError(f"script {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ScriptError(f"script {path}: not TOML: {error}") from None
    try:
        script = msgspec.convert(table, Script)
    except msgspec.ValidationError as error:
        what, field = _blamed(str(error))
        raise complaint(path, text, field, what) from None
    for field, what in _faults(script):
        raise complaint(path, text, field, what)
    return script


def complaint(path: Path, text: str, field: str, what: str) -> ScriptError:
    """An error that names the file, the line and the field."""
    line = line_of(text, field)
    where = f" line {line}:" if line is not None else ""
    return ScriptError(f"script {path}:{where} {field + ': ' if field else ''}{what}")


def _blamed(message: str) -> tuple[str, str]:
    """What is wrong and with which field, from the words of a validation error."""
    match = _WHERE.match(message)
    assert match is not None
    what, path = match["what"].replace("`", ""), match["path"] or ""
    unknown = _UNKNOWN.search(message)
    if unknown is not None:
        name = unknown["name"]
        return "there is no such field", f"{path}.{name}" if path else name
    return what[:1].lower() + what[1:], path


def _faults(script: Script) -> Iterator[tuple[str, str]]:
    """Fields that are wrong beside each other, with what is wrong."""
    for index, cue in enumerate(script.cue):
        where = f"cue[{index}]"
        if cue.decisions and not cue.say:
            yield f"{where}.decisions", "there is nothing to say"
        if script.repeat_s and cue.at >= script.repeat_s:
            yield f"{where}.at", f"never comes: the cues begin anew after {script.repeat_s:g} s"
        if not _does_something(cue):
            yield where, "does nothing"
        if cue.fails and not (cue.say or cue.calls):
            yield f"{where}.fails", "there is no response that could fail"
    for index, answer in enumerate(script.answer):
        if not (answer.say or answer.calls or answer.end or answer.fails):
            yield f"answer[{index}]", "answers nothing"
        if answer.to == "aside" and (answer.heard or answer.end):
            yield f"answer[{index}].to", "an aside is neither heard nor ends a session"


def _does_something(cue: Cue) -> bool:
    return bool(cue.say or cue.heard or cue.calls or cue.warn or cue.delegate or cue.end) or (
        cue.kv_tokens is not None
    )
