"""Messages of the server that clients of `openbmb-realtime` 0.1.6 understand. Media worker."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

CloseReason = Literal["stopped", "timeout", "context_full", "server_shutdown", "error"]


class OpenBmbEvent(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Base of all of them."""


class HeardTokens(msgspec.Struct, frozen=True, kw_only=True):
    """What of the input was sound and pictures, where the engine tells it apart."""

    audio_tokens: int | UnsetType = UNSET
    vision_tokens: int | UnsetType = UNSET


class SpokenTokens(msgspec.Struct, frozen=True, kw_only=True):
    """What of the output was sound, where the engine tells it apart."""

    audio_tokens: int


class SessionUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens of the whole session so far."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: HeardTokens | UnsetType = UNSET
    output_tokens_details: SpokenTokens | UnsetType = UNSET


class _Place(OpenBmbEvent, frozen=True, kw_only=True):
    position: int
    """1 is next."""
    estimated_wait_s: float | UnsetType = UNSET


class WaitBegan(_Place, frozen=True, kw_only=True, tag="session.queued"):
    """Every slot is taken; the session waits for its turn."""


class WaitWentOn(_Place, frozen=True, kw_only=True, tag="session.queue_update"):
    """The session waits at another place, or for another time."""


class WaitOver(OpenBmbEvent, frozen=True, kw_only=True, tag="session.queue_done"):
    """An engine is there, after a queue or without one: send `session.init`."""


class DuplexCreated(OpenBmbEvent, frozen=True, kw_only=True, tag="session.created"):
    """The conversation has begun: send sound."""

    session_id: str


class DuplexWords(OpenBmbEvent, frozen=True, kw_only=True, tag="response.output_text.delta"):
    """Words of an answer, before their sound."""

    text: str
    end_of_turn: bool
    """The answer is over; the text is then empty."""


class DuplexSound(OpenBmbEvent, frozen=True, kw_only=True, tag="response.output_audio.delta"):
    """Sound of an answer, at most a second before its time."""

    audio: str
    """Base64 of float32, little endian, 24 kHz, mono."""


class DuplexListen(OpenBmbEvent, frozen=True, kw_only=True, tag="response.listen"):
    """The model listens: after each unit in which it decides so, or after an answer."""

    usage: SessionUsage | UnsetType = UNSET


class DuplexTranscript(
    OpenBmbEvent,
    frozen=True,
    kw_only=True,
    tag="conversation.item.input_audio_transcription.completed",
):
    """What the user said, where the engine writes it down."""

    transcript: str


class DuplexWarning(OpenBmbEvent, frozen=True, kw_only=True, tag="session.warning"):
    """Ours: something that the session survives. The client for Python passes over it."""

    code: str
    message: str


class DuplexClosed(OpenBmbEvent, frozen=True, kw_only=True, tag="session.closed"):
    """The session is over; the connection ends."""

    reason: CloseReason
    message: str
    """The same in words."""
    usage: SessionUsage | UnsetType = UNSET


class DuplexFault(msgspec.Struct, frozen=True, kw_only=True):
    """What went wrong."""

    code: str
    message: str
    type: Literal["client_error", "server_error"]


class DuplexError(OpenBmbEvent, frozen=True, kw_only=True, tag="error"):
    """The session ends because of this: to the client any error is the end."""

    error: DuplexFault


OpenBmbServerMessage = (
    WaitBegan
    | WaitWentOn
    | WaitOver
    | DuplexCreated
    | DuplexWords
    | DuplexSound
    | DuplexListen
    | DuplexTranscript
    | DuplexWarning
    | DuplexClosed
    | DuplexError
)

CLOSE_REASONS: dict[str, CloseReason] = {
    "max_duration": "timeout",
    "no_input": "timeout",
    "connect_timeout": "timeout",
    "not_started": "timeout",
    "context_limit": "context_full",
    "server_shutdown": "server_shutdown",
    "bad_input": "error",
}
"""From the reasons of sessions; failures are errors, the rest was wanted."""


def close_reason(reason: str, *, is_failure: bool) -> CloseReason:
    """Why a session ended, in this protocol's words."""
    return CLOSE_REASONS.get(reason, "error" if is_failure else "stopped")
