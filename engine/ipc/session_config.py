"""What a session may set, as an engine sees it; part of the protocol."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

MAX_TEXT_CHARS = 65_536
MAX_TOOLS = 128
MAX_TOOL_JSON_CHARS = 128 * 1024

Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
Mode = Literal["full_duplex", "half_duplex", "turn_based"]
Modality = Literal["audio", "text"]
ToolChoice = Literal["auto", "none", "required"]
FunctionName = Annotated[str, Meta(min_length=1, max_length=128)]


CUT_WORDS = (
    "stop",
    "wait",
    "no",
    "hold on",
    "hang on",
    "be quiet",
    "shut up",
    "enough",
    "停",
    "等等",
    "等一下",
    "等下",
    "不要",
    "不对",
    "别说了",
    "够了",
)
"""With which callers end an answer, in the languages that engines here understand."""


class TurnDetection(Struct, frozen=True):
    """How the engine finds the ends of what the user says; a native duplex model ignores it."""

    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5
    """0 takes everything for speech, 1 only what is loud and clear."""
    prefix_padding_ms: Annotated[int, Meta(ge=0, le=2000)] = 300
    silence_duration_ms: Annotated[int, Meta(ge=100, le=5000)] = 320
    """Silence that ends an utterance."""
    patience: Annotated[float, Meta(ge=1, le=10)] = 1.0
    """By how much that silence is longer where the voice or the words have not come to an end."""
    create_response: bool = True
    interrupt_response: bool = True
    overlap: Literal["cut", "smart", "hold"] = "smart"
    """What of the caller's sound ends an answer: all speech; what is no acknowledgement and nobody
    else's; or nothing but `cut_words`."""
    cut_words: Annotated[
        tuple[Annotated[str, Meta(min_length=1, max_length=64)], ...], Meta(max_length=64)
    ] = CUT_WORDS
    """These end an answer as soon as they are understood."""
    can_hold: bool = True
    """An answer that is heard can wait; not where its sound is at the client already."""


class Sampling(Struct, frozen=True):
    """Generation parameters; None leaves the engine's own default."""

    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, Meta(gt=0, le=1)] | None = None
    top_k: Annotated[int, Meta(ge=0, le=1000)] | None = None
    repetition_penalty: Annotated[float, Meta(gt=0, le=5)] | None = None
    length_penalty: Annotated[float, Meta(gt=0, le=5)] | None = None
    max_output_tokens: Annotated[int, Meta(ge=1, le=32_768)] | None = None
    greedy: bool = False
    seed: Annotated[int, Meta(ge=0)] | None = None


class FunctionTool(Struct, frozen=True):
    """A function of the client's that the engine may call."""

    name: FunctionName
    description: Text = ""
    parameters: Annotated[str, Meta(max_length=MAX_TOOL_JSON_CHARS)] = "{}"
    """A JSON Schema, as text."""


class Retention(Struct, frozen=True):
    """How much of a conversation stays when it is too long and forgets its oldest part."""

    ratio: Annotated[float, Meta(ge=0, le=1)]
    """Of what it may have at most."""
    max_tokens: Annotated[int, Meta(ge=0)] | None = None
    """Of the conversation without the instructions; None: as many as there is room for."""


class SessionConfig(Struct, frozen=True):
    """Everything a session may set; `UpdateSession` replaces it whole, also during a call."""

    mode: Mode = "full_duplex"
    instructions: Text = ""
    appendix: Text = ""
    """What the model reads behind the instructions, or the engine's own if there are none."""
    voice: Annotated[str, Meta(max_length=256)] = ""
    """Empty: the engine's default voice."""
    speed: Annotated[float, Meta(ge=0.25, le=4)] = 1.0
    modalities: tuple[Modality, ...] = ("audio",)
    turn_detection: TurnDetection = TurnDetection()
    sampling: Sampling = Sampling()
    transcribe: bool = True
    transcribe_language: Annotated[str, Meta(max_length=32)] = ""
    """A code, as `en`; empty: any of those that are written down."""
    max_image_slices: Annotated[int, Meta(ge=1, le=16)] = 1
    context_policy: Literal["slide", "end"] = "slide"
    """What happens at the model's context limit, after the warnings."""
    retention: Retention | None = None
    """None: the engine decides how much it forgets at once."""
    tools: Annotated[tuple[FunctionTool, ...], Meta(max_length=MAX_TOOLS)] = ()
    tool_choice: ToolChoice = "auto"
    tool_name: str = ""
    """With `required`: the one function that must be called; empty: any."""
    options: dict[str, str | int | float | bool] = {}
    """Settings of one kind of engine; unknown names are answered with a `SessionWarning`."""

    def system_text(self, own: str = "") -> str:
        """Return what the model is told first; `own`: what the engine says for instructions."""
        return "\n\n".join(filter(None, (self.instructions or own, self.appendix)))


def _values(struct: type[Struct], config: Any) -> dict[str, bool]:
    """The settings of a struct: whether each differs from its default."""
    usual = struct()
    return {
        name: getattr(config, name) != getattr(usual, name) for name in struct.__struct_fields__
    }


TOLD_ELSEWHERE = frozenset(
    {
        *("sampling", "tools", "tool_choice", "tool_name"),
        *("transcribe", "transcribe_language"),
        "appendix",
    }
)
"""`Welcome.tool_modes`, `.transcribes` and `.writes` tell of these; `appendix` goes with the
instructions."""
SETTINGS = frozenset({*_values(SessionConfig, SessionConfig()), *_values(Sampling, Sampling())})


def unhonoured(config: SessionConfig, honours: Collection[str]) -> list[str]:
    """The settings that differ from their defaults and that an engine does not name."""
    asked = _values(SessionConfig, config) | _values(Sampling, config.sampling)
    return [
        name
        for name, is_set in asked.items()
        if is_set and name not in honours and name not in TOLD_ELSEWHERE
    ]
