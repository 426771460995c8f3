"""What becomes of an answer that the caller sounds over: turned down, held, cut, or as it was.

A burst is a stretch of sound that is as loud as the caller. As soon as there is one the answer is
turned down. A burst that is still speech after `HOLD_MS` makes the answer wait, silent; one that
ends soon was an acknowledgement, and the answer goes on where it was; one that goes on, or comes
again within a second, is an interruption. Where an answer cannot wait, because the client has its
sound already, it is cut after `UNHELD_CUT_MS`.
"""

from __future__ import annotations

import math
from collections import deque

from msgspec import Struct

from engine.hearing.vad import FRAME_MS
from engine.ipc.protocol import Loudness, OverlapDecision

WINDOW = 5
BEGIN_LOUD = 3
"""Loud frames within `WINDOW` that are a burst."""
HOLD_MS = 160
HOLD_NEAR_MS = 120
"""The same for a burst about as loud as the caller: nobody else is,"""
HOLD_DOUBTED_MS = 240
"""but for the answer's own echo, as long as nothing is known of it."""
UNHELD_CUT_MS = 240
CUT_MS = 600
"""A word of acknowledgement is shorter, said slowly, too."""
HUM_MS = 960
"""So long "mm-hm" may be."""
AGAIN_MS = 1_000
AGAIN_CUT_MS = 160
GAP_MS = 200
"""Silence that ends a burst: the one within "uh-huh" is shorter."""
HELD_GAP_MS = 400
"""The same where the answer waits: the one behind "wait," is longer."""
AWAITED_GAP_MS = 900
"""The same while the words of the burst are being found: a short command is known by them alone."""
LONGEST_MS = 1_500
"""A burst that nothing has decided by then is decided by what there was."""
LOUD_DB = 12.0
"""A frame so much weaker than the caller usually is belongs to no burst,"""
NEAR_DB = 9.0
"""nor is a burst the caller's that is so much weaker in all,"""
BEGIN_NEAR_DB = 11.0
"""or in its first frames."""
NEARER_DB = 6.0
"""What comes again must be this near: of somebody else's speech only the peaks are noticed."""
SOUNDING_GAP_MS = 60
"""After a longer one a burst does not go on, for the time being."""
NOISE_MS = 1_000
"""What is loud for so long without being speech is not looked at again until it is over."""
MIN_PITCHED = 2
PITCHED_SHARE = 0.3
LOUD_SHARE = 0.5
MOST_HISS = 0.5
"""Of the loud frames, that may be without a pitch and yet of a voice."""
HUM_SHARE = 0.7


class OverlapFrame(Struct, frozen=True):
    """20 ms of the caller's sound, as the policy sees it."""

    above_db: float | None
    """How much louder it is than the caller usually is; None: it is no voice, or is the answer's
    own echo."""
    is_vocal: bool = False
    is_pitched: bool = False
    is_hum: bool = False
    is_hiss: bool = False
    """As an "s" is: part of a voice, and without a pitch."""

    @property
    def is_loud(self) -> bool:
        return self.above_db is not None and self.above_db >= -LOUD_DB


class Step(Struct, frozen=True):
    """What is to be done now."""

    begins: bool = False
    """A burst has begun: from its first loud frame on it is heard."""
    loudness: Loudness | None = None
    decision: OverlapDecision | None = None
    """The burst is decided."""
    took_ms: int = 0
    """From its first loud frame."""


NOTHING = Step()


class Overlap:
    """Owns the burst under way. Fed with every frame while an answer is there to be cut."""

    def __init__(self) -> None:
        self.can_hold = True
        self.awaits_words = False
        """Those of the burst under way are about to be known."""
        self.doubts_echo = False
        """What is heard may be the answer's own echo, of which nothing is known."""
        self._recent: deque[OverlapFrame] = deque(maxlen=WINDOW)
        self._since_ms = AGAIN_MS
        """Since the last burst that was taken for an acknowledgement."""
        self._is_deaf = False
        self._ms = self._loud = self._pitched = self._hums = self._hisses = self._gap_ms = 0
        self._power = 0.0
        self._is_held = self._is_again = False
        self.is_open = False
        """A burst is under way and not decided."""

    def step(self, sounding: OverlapFrame) -> Step:
        """Take the next 20 ms."""
        self._since_ms += FRAME_MS
        if not self.is_open:
            return self._wait(sounding)
        self._add(sounding)
        if self._gap_ms >= self._longest_gap_ms:
            return self.dismiss("acknowledgement" if self.is_speech else "noise")
        if self._is_again and self._ms >= AGAIN_CUT_MS and self.is_speech:
            if self._mean_db >= -NEARER_DB:
                return self._decide("interruption")
        longest_ms = HUM_MS if self._hums > HUM_SHARE * self._loud else CUT_MS
        goes_on = (
            self.is_speech
            and self._gap_ms <= SOUNDING_GAP_MS
            and self._loud >= LOUD_SHARE * self._ms / FRAME_MS
        )
        if goes_on and self._ms >= (longest_ms if self.can_hold else UNHELD_CUT_MS):
            return self._decide("interruption")
        if goes_on and self._ms >= self._hold_ms and self.can_hold and not self._is_held:
            self._is_held = True
            return Step(loudness="held")
        if self._ms >= NOISE_MS and not self.is_speech:
            self._is_deaf = True
            return self.dismiss("noise")
        return self._decide_late() if self._ms >= LONGEST_MS else NOTHING

    def word(self) -> Step:
        """A word was recognised in the burst that always cuts."""
        return self._decide("word") if self.is_open else NOTHING

    def stop(self) -> Step:
        """The burst counts, whatever is known of it: more is not waited for."""
        return self._decide("interruption")

    def dismiss(self, decision: OverlapDecision) -> Step:
        """Take the burst for nothing that interrupts."""
        if not self.is_open:
            return NOTHING
        if decision == "acknowledgement":
            self._since_ms = 0
        return self._decide(decision)

    def reset(self) -> None:
        """Forget the burst and what came before: no answer is there any more."""
        self.is_open = self._is_deaf = False
        self._recent.clear()
        self._since_ms = AGAIN_MS

    @property
    def is_speech(self) -> bool:
        """Whether the burst sounds like the caller's voice so far."""
        open_frames = max(self._loud - self._hisses, self._loud * (1 - MOST_HISS))
        is_voice = self._pitched >= max(MIN_PITCHED, PITCHED_SHARE * open_frames)
        return is_voice and self._mean_db >= -NEAR_DB

    @property
    def _hold_ms(self) -> int:
        if self.doubts_echo:
            return HOLD_DOUBTED_MS
        return HOLD_NEAR_MS if self._mean_db >= -NEARER_DB else HOLD_MS

    @property
    def _longest_gap_ms(self) -> int:
        if not self._is_held:
            return GAP_MS
        return AWAITED_GAP_MS if self.awaits_words else HELD_GAP_MS

    @property
    def _mean_db(self) -> float:
        """How much louder than the caller the loud part of the burst is."""
        return 10 * math.log10(self._power / self._loud) if self._loud else -math.inf

    def _wait(self, sounding: OverlapFrame) -> Step:
        self._recent.append(sounding)
        loud = [frame.is_loud for frame in self._recent]
        if self._is_deaf:
            self._is_deaf = any(loud)
            return NOTHING
        if sum(loud) < BEGIN_LOUD or not any(frame.is_vocal for frame in self._recent):
            return NOTHING
        self._begin()
        for frame in list(self._recent)[loud.index(True) :]:
            self._add(frame)
        if self._mean_db < -BEGIN_NEAR_DB:
            self.is_open = False
            return NOTHING
        self._is_again = self._since_ms <= AGAIN_MS
        self._recent.clear()
        return Step(begins=True, loudness="ducked")

    def _begin(self) -> None:
        self.is_open = True
        self._ms = self._loud = self._pitched = self._hums = self._hisses = self._gap_ms = 0
        self._power = 0.0
        self._is_held = self._is_again = self.awaits_words = False

    def _add(self, frame: OverlapFrame) -> None:
        self._ms += FRAME_MS
        self._loud += frame.is_loud
        if frame.is_loud and frame.above_db is not None:
            self._power += 10 ** (frame.above_db / 10)
            self._pitched += frame.is_pitched
            self._hums += frame.is_hum
            self._hisses += frame.is_hiss
        self._gap_ms = 0 if frame.is_loud else self._gap_ms + FRAME_MS

    def _decide_late(self) -> Step:
        """Decide a burst whose gaps are too short to end it and too long for it to go on."""
        if not self._is_held:
            return self.dismiss("noise")
        is_enough = self.is_speech and self._loud * FRAME_MS >= UNHELD_CUT_MS
        return self._decide("interruption") if is_enough else self.dismiss("acknowledgement")

    def _decide(self, decision: OverlapDecision) -> Step:
        self.is_open = False
        self._recent.clear()
        cuts = decision in ("interruption", "word")
        return Step(loudness=None if cuts else "full", decision=decision, took_ms=self._ms)
