"""A reply of a conversation in turns: how it is generated, its pieces, and how far it has come."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from engine.minicpmo.llm.context_window import ContextWarning
from engine.minicpmo.llm.sampler import TurnSampling
from engine.minicpmo.llm.tokenizer import TextStream

CHUNK_TOKENS = 10
"""Tokens of a chunk; the first has one more, since its last one is held back for its state."""


@dataclass(frozen=True)
class ReplySettings:
    """How one reply is generated."""

    sampling: TurnSampling = TurnSampling()
    max_new_tokens: int = 256
    """Rounded up to whole chunks, the first of which has a token more."""
    chunk_tokens: int = CHUNK_TOKENS
    """Speech is made of ten tokens at once; what is only read may come sooner."""
    speech: bool = True
    """The reply will be spoken: it opens with tts_bos, ids that cannot be said are forbidden."""
    thinking: bool = False
    """The model may think aloud first; otherwise an empty thought is put in front."""
    tts_template: bool = True
    """Open with tts_bos; the original does so for texts, too."""
    skip_special: bool = False
    """Leave special tokens out of the text."""
    finish_at_limit: bool = True
    """At `max_new_tokens` feed and report the last token, too; the original loses it."""
    aside: int = 0
    """The newest positions of the user's message are for this reply only: the next message finds
    them gone."""
    may_call: bool = False
    """Functions may be called; otherwise the reply ends where a call would begin."""
    call_opening: tuple[int, ...] = ()
    """The reply is a call that begins with these ids."""
    says: tuple[int, ...] = ()
    """The whole of the reply, which the model does not choose."""

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "chunk_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} = {getattr(self, name)}")


@dataclass(frozen=True)
class ReplyChunk:
    """A piece of a reply, all of whose tokens are in the cache."""

    ids: tuple[int, ...]
    hidden: tuple[Tensor, ...]
    """[C] each, the state after feeding the token."""
    text: str
    """Never ends in half a character."""
    sampled: tuple[int, ...]
    """Ids chosen in this chunk; its last one waits for the next unless the reply is over."""
    is_last: bool
    by_limit: bool = False
    """The reply was cut by `max_new_tokens`."""
    warning: ContextWarning | None = None
    call: str = ""
    """A call of a function as the model wrote it; the chunk has no ids then."""
    ends_speech: bool = False
    """Nothing more of the reply is said; calls follow."""


@dataclass
class ReplyState:
    """How far a reply has come; owned by its conversation's `TurnState`."""

    settings: ReplySettings
    stream: TextStream
    start: int
    """Position of its opening rows."""
    opening: int = 0
    """Number of its opening rows."""
    ids: list[int] = field(default_factory=list)
    """All that stand in the cache: the opening's and those written since."""
    earlier: list[int] = field(default_factory=list)
    """Ids of finished chunks."""
    chunk: list[int] = field(default_factory=list)
    """Ids of this chunk."""
    fed: list[tuple[int, Tensor]] = field(default_factory=list)
    """In the cache, not yet handed out."""
    waiting: int | None = None
    """Chosen, not yet fed."""
    chunks: int = 0
    over: bool = False
    call: list[int] | None = None
    """Ids of the call that is being written, without its marks."""
    call_start: int = 0
    """Position of its first mark."""
    num_unsaid: int = 0
    """Ids of calls and around them, of which the user hears nothing."""
    is_unsaid: bool = False
    """The id that waits is one of them."""
    has_called: bool = False

    aside: int = 0
    """Positions in front of the opening that go with this reply."""

    @property
    def max_chunks(self) -> int:
        return -(-self.settings.max_new_tokens // self.settings.chunk_tokens)

    @property
    def is_chunk_full(self) -> bool:
        return len(self.chunk) >= self.settings.chunk_tokens + (self.chunks == 0)
