"""What full duplex and turns share: an entry for each session, and their half of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from engine.gpu.timing import Stages, Timer
from engine.minicpmo.llm.batch import Batch
from engine.minicpmo.session.session import Session
from engine.minicpmo.speech.worker import SessionSpeech


@dataclass(eq=False)
class AnswerPart:
    """A decided unit, or a chunk of a reply, while it is spoken."""

    generation: int
    """Of the session's speech when it was requested."""


class SessionEntry:
    """A session in a mode."""

    def __init__(self, session: Session, speech: SessionSpeech) -> None:
        self.session = session
        self.speech = speech
        self.speaking: deque[AnswerPart] = deque()
        """In the order of their requests."""
        self.stages: Stages = []
        """Of the unit or the reply under way."""
        self.is_closed = False

    def close(self) -> None:
        """Drop what is spoken: callbacks hold the entry, and with it tensors."""
        self.is_closed = True
        self.speaking.clear()

    def is_current(self, utterance: AnswerPart) -> bool:
        """Return whether the user is to hear an utterance: nothing has cancelled it since."""
        return utterance.generation == self.speech.generation and not self.session.is_over


Entry = TypeVar("Entry", bound=SessionEntry)
Result = TypeVar("Result")


class Mode(ABC, Generic[Entry, Result]):
    """Drives the sessions of one kind; owned by the model's thread."""

    def __init__(self, batch: Batch[Any, Any, Result]) -> None:
        self.batch = batch
        self._entries: dict[int, Entry] = {}

    def close(self, slot: int) -> None:
        """End the conversation in a slot, if there is one."""
        entry = self._entries.pop(slot, None)
        if entry is not None:
            entry.close()

    def note(self, slots: Iterable[int], stage: str, timer: Timer) -> None:
        """Count a stage of the units or replies of some slots."""
        for slot in slots:
            self._entries[slot].stages.append((stage, timer))

    @abstractmethod
    def under_way(self) -> list[int]:
        """Return the slots that are to choose their next token."""

    @abstractmethod
    def finish(self, results: dict[int, Result]) -> None:
        """Pass on the results that are complete."""
