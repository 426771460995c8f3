"""What is answered to a chat request, as pieces come and whole. Front."""

from typing import Literal

import msgspec

from signaling.session.events import TokenShares

FinishReason = Literal["stop", "length", "tool_calls"]


class ChatUsage(msgspec.Struct, frozen=True):
    """Tokens, as the engine counts them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_kinds: TokenShares = TokenShares()
    completion_kinds: TokenShares = TokenShares()


class Wording(msgspec.Struct, frozen=True):
    """More words of the answer."""

    text: str


class Sounding(msgspec.Struct, frozen=True):
    """More sound of the answer: 24 kHz, int16, mono."""

    pcm: bytes


class CallPiece(msgspec.Struct, frozen=True):
    """A call of a function, or more of its arguments: the pieces of a call have one id."""

    call_id: str
    name: str
    arguments: str
    is_last: bool


class Ended(msgspec.Struct, frozen=True):
    """Nothing follows."""

    reason: FinishReason
    usage: ChatUsage


ChatPiece = Wording | Sounding | CallPiece | Ended
