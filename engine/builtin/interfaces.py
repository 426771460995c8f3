"""The interfaces between the parts of a cascade.

A session (`session.py`) owns turn-taking; a recogniser turns an utterance into a transcript; an
answerer turns a turn into speech. Echo and built-in engine differ only in these two parts.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from typing import Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from engine.builtin.call_deltas import CallPart
from engine.builtin.history import History
from engine.builtin.picture_facts import Camera, Reads
from engine.builtin.recogniser_link import Doubt
from engine.files.decoder import FileDecoder
from engine.ipc.protocol import (
    CreateResponse,
    FunctionTool,
    SessionConfig,
    TokenSplit,
    ToolChoice,
)
from engine.ipc.session_config import SETTINGS


class Speech(Struct, frozen=True):
    """A stretch of an answer."""

    pcm: NDArray[np.int16]
    """24 kHz."""
    words: tuple[tuple[int, str], ...]
    """(sample at which it is spoken, word with its white space)."""
    last: bool = False
    """Nothing of the answer follows. May be left out where that is not known in time."""


class Transcript(Struct, frozen=True):
    text: str
    error: str = ""
    """Why there is no text."""
    doubt: Doubt = ""
    """Why there is no text although nothing failed, where that is known."""
    is_overload: bool = False
    """It failed because too many speak at once, not by itself."""
    pcm: bytes = b""
    """The utterance itself, if the recogniser keeps it: 16 kHz."""


class Utterance(Protocol):
    """One stretch of user speech on its way to text. Nothing here blocks."""

    @property
    def is_owed(self) -> bool:
        """Words of what was fed may still come."""

    def feed(self, pcm: bytes) -> None: ...

    def pause(self) -> None:
        """Take a moment of silence for what may be the end: what was fed is probably all."""

    def resume(self) -> None:
        """It was not the end: the speaker goes on."""

    async def finish(self) -> Transcript:
        """Wait for the transcript; a failure is reported in its `error`, never raised.

        Who is cancelled while waiting has discarded it.
        """

    def abandon(self) -> None:
        """Discard it; idempotent, also after `finish`."""


class Recogniser(Protocol):
    """Belongs to one session, so that it may adapt to its speaker."""

    def listen(self, on_partial: Callable[[str], None], language: str = "") -> Utterance:
        """`language`: the session's, as `en`; empty: not known."""


class Turn:
    """One answer to be given: what it answers, and what is learnt while giving it."""

    def __init__(
        self,
        conversation: History,
        camera: Camera,
        config: SessionConfig,
        *,
        voice: str = "",
        instructions: str = "",
        with_audio: bool = True,
        transcript: Transcript | None = None,
        asked: CreateResponse | None = None,
        says: str = "",
    ) -> None:
        self.conversation = conversation
        self.camera = camera
        self.config = config
        self.voice = voice
        self.instructions = instructions
        self.with_audio = with_audio
        self.transcript = transcript
        self.says = says
        """Words of the client's, to be said as they are."""
        self._asked = asked
        self.stages_ms: dict[str, float] = {}
        self.ends_session = False
        self.incomplete = ""
        """Why the answer is cut short, if it is."""
        self.has_pictures = False
        """Whether the model is shown any."""
        self.input_tokens = 0
        self.output_tokens = 0
        self.input_split = TokenSplit()
        self.output_split = TokenSplit()

    @property
    def tools(self) -> tuple[FunctionTool, ...]:
        """The functions that may be called."""
        asked = self._asked
        return self.config.tools if asked is None or asked.tools is None else asked.tools

    @property
    def tool_choice(self) -> tuple[ToolChoice, str]:
        """Whether a function is called, and which one it must be; empty: any."""
        asked = self._asked
        if asked is None or asked.tool_choice is None:
            return self.config.tool_choice, self.config.tool_name
        return asked.tool_choice, asked.tool_name

    @property
    def max_output_tokens(self) -> int | None:
        asked = None if self._asked is None else self._asked.max_output_tokens
        return asked or self.config.sampling.max_output_tokens


class Answerer(Protocol):
    def answer(self, turn: Turn) -> AsyncGenerator[Speech | CallPart, None]:
        """Yield the answer as it comes; raise `AnswerFailed` after an apology has been yielded."""


class AnswerFailed(Exception):
    """The answer could not be given in full; the text is for people."""


class ChatFailed(AnswerFailed):
    """The endpoint did not give a whole answer; `spoken` is the short sentence for the user.

    Both texts are ours: what the endpoint says may be confidential.
    """

    def __init__(self, spoken: str, reason: str) -> None:
        super().__init__(reason)
        self.spoken = spoken


class Parts(Struct, frozen=True):
    """The parts of a session."""

    recogniser: Recogniser
    answerer: Answerer
    eyes: Executor
    """Where pictures are looked at: one thread."""
    decoder: FileDecoder
    has_voice: Callable[[str], bool]
    has_model: bool = False
    """A language model answers: it calls functions, takes instructions, and answers asides."""
    honours: frozenset[str] = SETTINGS
    """The settings that have an effect."""
    reader: Reads | None = None
    """Of text in pictures."""
    reading: Executor | None = None
    """Where it reads: one thread. None: that of the eyes."""
