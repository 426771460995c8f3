"""What an ingest process and its engine tell each other, beside what it passes on.

`SoundHeard` stands for many `AudioIn`, with what was heard in them; `ListeningNeeds` tells what
the ingest process has to know of a session for that.
"""

from __future__ import annotations

from typing import Annotated, Protocol, runtime_checkable

from msgspec import Meta

from engine.hearing.hearing import AnswerCut, Counted
from engine.hearing.vad import Offset, Onset, Voice
from engine.ipc.message import MAX_AUDIO_BYTES, Count, Message, SessionId
from engine.ipc.protocol import FromEngine, ToEngine

MAX_HELD_BYTES = 4 * MAX_AUDIO_BYTES

HeardEvent = Onset | Voice | Offset | Counted | AnswerCut


class SoundHeard(Message, frozen=True):
    """The next of a session's sound, and what was heard up to its end."""

    session: SessionId
    pcm: Annotated[bytes, Meta(max_length=MAX_HELD_BYTES)]
    arrived: float
    """When the last of it came, on this machine's monotonic clock."""
    position: Count
    """Where the stream ends now, in samples."""
    is_speaking: bool
    """An utterance that counts is under way."""
    events: tuple[HeardEvent, ...] = ()
    is_commit: bool = False
    """The events come of the client's commit, which follows."""


class ListeningNeeds(Message, frozen=True):
    """To the ingest process, whenever it changes."""

    session: SessionId
    over: bool
    """An answer is heard, or about to be."""
    unit_end: Count = 0
    """A unit ends after so many samples, and every `unit_samples` before and behind that."""
    unit_samples: Count = 0
    """0: it is not known yet where units end."""


FromIngest = ToEngine | SoundHeard
ToIngest = FromEngine | ListeningNeeds


@runtime_checkable
class SoundTaker(Protocol):
    """A session behind an ingest process."""

    def take_sound(self, message: SoundHeard) -> None:
        """Take what stands for many `AudioIn`, as `EngineSession.handle` takes messages."""
