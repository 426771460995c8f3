"""The configuration of a Live session, strict and fixed at the start. Any process.

Types: the Live resources of OpenAI's API reference (`SessionConfig`, `MediaSessionConfig`).
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

MAX_INPUT_MESSAGES = 128
MAX_CHARS = 65_536
MAX_BACKEND_TOOLS = 128
MAX_SELECTORS = 128

Label = Annotated[str, Meta(min_length=1, max_length=256)]
LongText = Annotated[str, Meta(max_length=MAX_CHARS)]
Milliseconds = Annotated[int, Meta(ge=0, le=600_000)]


class _Strict(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """Absent and null are the same, but for `delegation` in an update."""


# ------------------------------------------------------------------ sound


class LinearPcm(_Strict, frozen=True, kw_only=True, tag_field="type", tag="audio/pcm"):
    rate: Literal[16000, 24000] = 24000


class MuLaw(_Strict, frozen=True, kw_only=True, tag_field="type", tag="audio/pcmu"):
    rate: Literal[8000] = 8000


class ALaw(_Strict, frozen=True, kw_only=True, tag_field="type", tag="audio/pcma"):
    rate: Literal[8000] = 8000


WireFormat = LinearPcm | MuLaw | ALaw


class CustomVoice(_Strict, frozen=True, kw_only=True):
    id: Label


class LiveOutput(_Strict, frozen=True, kw_only=True):
    voice: Label | CustomVoice | None = None


class LiveAudio(_Strict, frozen=True, kw_only=True):
    format: WireFormat | None = None
    output: LiveOutput | None = None


# ------------------------------------------------------------------ history


class TextInput(_Strict, frozen=True, kw_only=True):
    text: LongText
    type: Literal["input_text"] | None = None


class TextOutput(_Strict, frozen=True, kw_only=True):
    text: LongText
    type: Literal["text", "output_text"] | None = None


class _PastMessage(_Strict, frozen=True, kw_only=True, tag_field="role"):
    id: Annotated[str, Meta(max_length=128)] | None = None
    status: Literal["incomplete", "completed"] | None = None
    type: Literal["message"] | None = None


class PastRule(_PastMessage, frozen=True, kw_only=True, tag="developer"):
    content: Annotated[tuple[TextInput, ...], Meta(min_length=1, max_length=1)]


class PastQuestion(_PastMessage, frozen=True, kw_only=True, tag="user"):
    content: Annotated[tuple[TextInput, ...], Meta(min_length=1, max_length=1)]


class PastAnswer(_PastMessage, frozen=True, kw_only=True, tag="assistant"):
    content: Annotated[tuple[TextOutput, ...], Meta(min_length=1, max_length=1)]


PastMessage = PastRule | PastQuestion | PastAnswer


# ------------------------------------------------------------------ delegation


class Reasoning(_Strict, frozen=True, kw_only=True):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    summary: Literal["concise", "detailed", "auto"] | None = None


class BackendText(_Strict, frozen=True, kw_only=True):
    verbosity: Literal["low", "medium", "high"] | None = None


class BackendUpdate(_Strict, frozen=True, kw_only=True):
    """The text model that answers delegated tasks, as far as it is given."""

    model: Label | None = None
    instructions: LongText | None = None
    max_output_tokens: Annotated[int, Meta(ge=16, le=1_000_000)] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: Reasoning | None = None
    service_tier: (
        Literal["auto", "default", "fast_tier_temp_pilot", "flex", "priority", "ultrafast"] | None
    ) = None
    text: BackendText | None = None
    tool_choice: str | dict[str, Any] | None = None
    tools: Annotated[tuple[dict[str, Any], ...], Meta(max_length=MAX_BACKEND_TOOLS)] | None = None


class Backend(BackendUpdate, frozen=True, kw_only=True):
    model: Label


class ClientDelegation(_Strict, frozen=True, kw_only=True, tag_field="type", tag="client"):
    """The application answers delegated tasks."""

    acknowledgement_delay_ms: Milliseconds | None = None


class ResponsesDelegation(_Strict, frozen=True, kw_only=True, tag_field="type", tag="responses"):
    """A text model answers delegated tasks, with the application's functions."""

    responses: Backend
    acknowledgement_delay_ms: Milliseconds | None = None


class ResponsesDelegationUpdate(
    _Strict, frozen=True, kw_only=True, tag_field="type", tag="responses"
):
    responses: BackendUpdate | None = None
    acknowledgement_delay_ms: Milliseconds | None = None


Delegation = ClientDelegation | ResponsesDelegation


# ------------------------------------------------------------------ the session


class EventSelector(_Strict, frozen=True, kw_only=True):
    type: Label
    response_event: Label | None = None
    """With `response.event`, and only there."""


class DataChannelRights(_Strict, frozen=True, kw_only=True):
    """What the page at the other end of a data channel may send and is told."""

    allowed_client_events: (
        Literal["all"] | Annotated[tuple[Label, ...], Meta(max_length=MAX_SELECTORS)] | None
    ) = None
    allowed_server_events: (
        Literal["all"] | Annotated[tuple[EventSelector, ...], Meta(max_length=MAX_SELECTORS)] | None
    ) = None


class ClientRights(_Strict, frozen=True, kw_only=True):
    data_channel: DataChannelRights


class WakePolicy(_Strict, frozen=True, kw_only=True):
    """What ends an idle pause."""

    type: Literal["speech"]
    vad_threshold: Annotated[float, Meta(ge=0, le=1)] = 0.5


class LiveConfig(_Strict, frozen=True, kw_only=True):
    """What `session.start` brings."""

    model: Label
    instructions: LongText | None = None
    input: Annotated[tuple[PastMessage, ...], Meta(max_length=MAX_INPUT_MESSAGES)] | None = None
    audio: LiveAudio | None = None
    delegation: Delegation | None = None
    client: ClientRights | None = None
    store: bool | None = None
    safety_identifier: Annotated[str, Meta(max_length=512)] | None = None

    @property
    def format(self) -> WireFormat:
        """Of the sound of a WebSocket."""
        given = None if self.audio is None else self.audio.format
        return given or LinearPcm()

    @property
    def voice(self) -> str:
        """As it was asked for; empty: the default."""
        asked = None if self.audio is None or self.audio.output is None else self.audio.output.voice
        return asked.id if isinstance(asked, CustomVoice) else asked or ""

    @property
    def rights(self) -> DataChannelRights:
        return DataChannelRights() if self.client is None else self.client.data_channel


class CalledConfig(LiveConfig, frozen=True, kw_only=True):
    """What the POST of an offer brings."""

    idle_timeout_s: Annotated[int, Meta(ge=1, le=86_400)] | None = None
    wake_policy: WakePolicy | None = None


FIXED = frozenset(CalledConfig.__struct_fields__) - {"delegation"}
"""Members that nothing changes after the start."""


class LiveUpdate(_Strict, frozen=True, kw_only=True):
    """What `session.update` may change."""

    delegation: ClientDelegation | ResponsesDelegationUpdate | None | msgspec.UnsetType = (
        msgspec.UNSET
    )
