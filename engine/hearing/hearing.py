"""What a session hears: utterances of the caller, judged where an answer is being given.

Every engine has one in front of what it does with speech. Where nothing is answered an utterance
counts as soon as it begins; over an answer `Overlap` decides, and what becomes of the answer is
told here, so that all engines do the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from msgspec import Struct

from engine.hearing.callerlevel import CallerLevel
from engine.hearing.echo import EchoTrack
from engine.hearing.overlap import Overlap, OverlapFrame, Step
from engine.hearing.turnend import Phrase, phrase_of
from engine.hearing.vad import Event, Frame, Offset, Onset, Segmenter, Voice
from engine.ipc.protocol import (
    INPUT_HZ,
    FromEngine,
    Loudness,
    OverlapDecision,
    OverlapTold,
    TurnDetection,
)

SILENT = OverlapFrame(None)
HUM_HZ = 900
HUM_SHARE = 0.01
"""Of its power above `HUM_HZ`; a closed mouth lets no more through."""
SENTENCE_WORDS = 3
"""So many words are no acknowledgement, however fast they are spoken."""


class Counted(Struct, frozen=True, tag=True):
    """The utterance that began is the caller's turn: it is told, and answered when it ends."""

    pts: int


class AnswerCut(Struct, frozen=True, tag=True):
    """An answer that is given, or about to be, ends: the caller has spoken over it."""


class Dismissed(Struct, frozen=True):
    """What began was nothing that counts: all of it is to be forgotten."""


Heard = Event | Counted | AnswerCut | Dismissed


class Hearing:
    """Owns the segmenter and what is known of the caller's voice."""

    def __init__(
        self, session: str, detection: TurnDetection, send: Callable[[FromEngine], None]
    ) -> None:
        self._session = session
        self._send = send
        self._segmenter = Segmenter(detection)
        self._overlap = Overlap()
        self._level = CallerLevel()
        self._onset = 0
        self._is_pending = False
        self._is_over = False
        self._last_frame = b""
        self.configure(detection)

    def configure(self, detection: TurnDetection) -> None:
        """Change the settings; an utterance under way goes on."""
        self._detection = detection
        self._segmenter.configure(detection)
        self._overlap.can_hold = detection.can_hold
        self._cutting = _cutting(detection.cut_words)

    @property
    def is_speaking(self) -> bool:
        """An utterance that counts is under way."""
        return self._segmenter.is_speaking and not self._is_pending

    @property
    def is_undecided(self) -> bool:
        """Something is heard over an answer, and it is not known yet what."""
        return self._is_pending

    @property
    def echo(self) -> EchoTrack:
        """What is known of the answers' own echo."""
        return self._segmenter.echo

    @property
    def position(self) -> int:
        """Samples of the stream taken so far."""
        return self._segmenter.position

    def push(self, pts: int, pcm: bytes, *, over: bool, played: bytes = b"") -> list[Heard]:
        """Take PCM at `pts`. `over`: an answer is being heard, or is about to be. `played`: what
        was sent to the caller meanwhile, packets of 20 ms and 24 kHz; its echo is not the caller.
        """
        self.echo.play(played)
        found: list[Heard] = []
        for frame in self._segmenter.frames.push(pts, pcm):
            found += self._take(frame, over)
        return found

    def stop(self) -> list[Heard]:
        """End the utterance under way, if any, now."""
        counted = self._apply(self._overlap.stop()) if self._is_pending else []
        return [
            *(event for event in counted if not isinstance(event, AnswerCut)),
            *self._segmenter.stop(),
        ]

    def cuts(self, text: str) -> bool:
        """Whether there is a word in it that always ends an answer."""
        return bool(self._cutting.search(text.lower()))

    def await_words(self) -> None:
        """What was said so far is about to be known."""
        self._segmenter.turn_end.phrase = "awaited"
        self._overlap.awaits_words = True

    def words(self, text: str, phrase: Phrase = "", *, is_command: bool = False) -> list[Heard]:
        """Take what the recogniser understands so far of the utterance under way.

        `phrase`: what it is, where more is known than its last word tells. `is_command`: it asks
        for something.
        """
        self._segmenter.turn_end.phrase = phrase or phrase_of(text)
        self._overlap.awaits_words = False
        has_word = self.cuts(text)
        if self._is_pending and has_word:
            return self._apply(self._overlap.word())
        # Of a noise a recogniser makes a word or two, such as "Bye.".
        is_command = is_command and self._overlap.is_speech
        if self._is_pending and (is_command or len(text.split()) >= SENTENCE_WORDS):
            return self._apply(self._overlap.stop())
        if not has_word:
            return []
        is_held_off = self._is_over and self._detection.overlap == "hold" and self.is_speaking
        return [AnswerCut()] if is_held_off else []

    def _take(self, frame: bytes, over: bool) -> list[Heard]:
        detection = self._detection
        over = over and detection.interrupt_response
        is_judged = over and detection.overlap != "cut"
        if is_judged and not self._is_over and not self.is_speaking:
            self._overlap.reset()
        self._is_over = over
        if self._is_pending or (is_judged and not self.is_speaking):
            return self._judge(frame, over)
        _, events = self._segmenter.step(frame, strict=over)
        self._last_frame = frame
        return [heard for event in events for heard in self._count(event, over)]

    def _count(self, event: Event, over: bool) -> list[Heard]:
        """Where nothing is judged an utterance counts from its onset on."""
        match event:
            case Onset(pts=pts):
                self._level.begin()
                return [event, Counted(pts), *([AnswerCut()] if over else [])]
            case Offset():
                self._level.end()
                return [event]
            case Voice(pcm=pcm):
                self._level.add(pcm)
        return [event]

    def _judge(self, frame: bytes, over: bool) -> list[Heard]:
        facts, events = self._segmenter.step(frame, strict=False, is_judged=True)
        found: list[Heard] = [event for event in events if not isinstance(event, Offset)]
        self._overlap.doubts_echo = self.echo.is_awaited and not self.echo.is_known
        step = self._overlap.step(self._sounding(facts, frame))
        if step.begins:
            onset = self._segmenter.begin()
            self._onset, self._is_pending = onset.pts, True
            found.append(onset)
        self._last_frame = frame
        return found + self._apply(step, over=over)

    def _sounding(self, facts: Frame, frame: bytes) -> OverlapFrame:
        if not facts.voiced:
            return SILENT
        is_hum = facts.pitched and _is_hum(self._last_frame + frame)
        above_db = facts.level_db - self._level.usual_db
        is_hiss = facts.vocal and not facts.pitched
        return OverlapFrame(above_db, facts.vocal, facts.pitched, is_hum, is_hiss)

    def _apply(self, step: Step, *, over: bool = True) -> list[Heard]:
        decision, loudness = step.decision, step.loudness
        if decision == "acknowledgement" and not over:
            # The answer has ended meanwhile: it was said behind it, not over it.
            decision = "interruption"
        counts = decision in ("interruption", "word")
        cuts = counts and (self._detection.overlap == "smart" or decision == "word")
        if self._detection.overlap == "hold":
            loudness = "full" if counts and not cuts else None if loudness == "held" else loudness
        self._tell(loudness, decision, step.took_ms)
        if decision is None:
            return []
        self._is_pending = False
        if counts:
            self._level.begin()
            return [Counted(self._onset), *([AnswerCut()] if cuts else [])]
        self._segmenter.abandon()
        return [Dismissed()]

    def _tell(
        self, loudness: Loudness | None, decision: OverlapDecision | None, took_ms: int
    ) -> None:
        if loudness or decision:
            told = OverlapTold(self._session, loudness or "", decision or "", self._onset, took_ms)
            self._send(told)


def _is_hum(pcm: bytes) -> bool:
    """Whether 40 ms of voice have nothing but a low murmur."""
    samples = np.frombuffer(pcm, np.int16).astype(np.float32)
    power = np.abs(np.fft.rfft(samples * np.hanning(len(samples)))) ** 2
    border = HUM_HZ * len(samples) // INPUT_HZ
    return float(power[border:].sum()) < HUM_SHARE * float(power.sum())


def _cutting(words: tuple[str, ...]) -> re.Pattern[str]:
    """Finds any of the words: whole ones, where they are written with spaces between."""
    if not words:
        return re.compile(r"(?!)")
    known = sorted((re.escape(word.lower()) for word in words), key=len, reverse=True)
    spaced = "|".join(word for word in known if word.isascii())
    joined = "|".join(word for word in known if not word.isascii())
    parts = [rf"\b(?:{spaced})\b"] if spaced else []
    return re.compile("|".join([*parts, *([joined] if joined else [])]))
