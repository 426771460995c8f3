"""What the thread that owns the model is told, beside messages of sessions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from engine.ipc.supervision import VoiceReport
from engine.minicpmo.session.item_decoding import ModelMessage
from engine.minicpmo.session.session import Session
from engine.minicpmo.speech.voices import PreparedVoice
from engine.minicpmo.speech.worker import SpeechChunk


@dataclass(frozen=True)
class Opening:
    """A session to begin."""

    session: Session


@dataclass(frozen=True)
class Closing:
    """A session to end; `done` is called when its slot is clear."""

    slot: int
    done: Callable[[], None]


@dataclass(frozen=True)
class KeepPrepared:
    """An uploaded voice to be taken when nothing else is due; `told` is called from the thread."""

    prepared: PreparedVoice
    told: Callable[[VoiceReport], None]


@dataclass(frozen=True)
class WithdrawVoice:
    """An uploaded voice that nobody is to get any more."""

    voice: str


@dataclass(frozen=True)
class PreferVoice:
    """The voice of who names none; empty: the engine's own default."""

    voice: str


VoiceOrder = KeepPrepared | WithdrawVoice | PreferVoice
Order = tuple[int, ModelMessage] | Opening | Closing | SpeechChunk | VoiceOrder
