"""What one session sounds and looks like, kept until the model needs it."""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable

from engine.hearing.hearing import Dismissed, Heard, Hearing
from engine.hearing.vad import Onset, Voice
from engine.ingest.messages import HeardEvent, ListeningNeeds, SoundHeard
from engine.ipc.protocol import INPUT_HZ, AudioIn, FromEngine, ImageIn, SessionConfig

NEAR_S = 0.06
"""Before the end of a unit sound is passed on as it comes: the model gathers units by that."""
LONGEST_S = 0.5
"""No more sound is kept,"""
IDLE_S = 0.1
"""and none where no more has come for so long."""
PICTURE_LEAD_S = (0.1, 0.3)
"""So long before the end of a unit its picture is passed on; sessions differ, so that not all
pictures come at once."""


class SessionEar:
    """Owned by the ingest process. `send` tells the media worker what cannot wait."""

    def __init__(
        self,
        session: str,
        config: SessionConfig,
        send: Callable[[FromEngine], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._session = session
        self._clock = clock
        self._mode = config.mode
        self._hearing = Hearing(session, config.turn_detection, send)
        self._needs = ListeningNeeds(session, over=False)
        self._pcm = bytearray()
        self._events: list[HeardEvent] = []
        self._voice = bytearray()
        """Of an utterance, behind the events."""
        self._is_urgent = False
        self._arrived = 0.0
        self._count = 0
        """Samples that came so far."""
        self._picture: ImageIn | None = None
        self._has_shown = False
        """The unit that is being spoken into has its picture."""
        shortest, longest = PICTURE_LEAD_S
        spread = zlib.crc32(session.encode()) / 2**32
        self._picture_lead = int(INPUT_HZ * (shortest + spread * (longest - shortest)))

    @property
    def session(self) -> str:
        return self._session

    @property
    def is_due(self) -> bool:
        """What is kept must not wait."""
        return self._is_urgent or len(self._pcm) >= 2 * INPUT_HZ * LONGEST_S

    @property
    def is_idle(self) -> bool:
        """Something is kept, and nothing more comes."""
        return bool(self._pcm) and self._clock() - self._arrived >= IDLE_S

    def configure(self, config: SessionConfig) -> None:
        """Take new settings."""
        self._mode = config.mode
        self._hearing.configure(config.turn_detection)

    def needs(self, needs: ListeningNeeds) -> None:
        self._needs = needs

    def hear(self, message: AudioIn) -> None:
        """Take the next of its sound."""
        # Half a sample would misalign all that follows.
        pcm = message.pcm[: len(message.pcm) & ~1]
        samples = len(pcm) // 2
        lacking = self._lacking()
        self._pcm += pcm
        self._count += samples
        self._arrived = self._clock()
        if lacking is None or samples > lacking - int(NEAR_S * INPUT_HZ):
            self._is_urgent |= self._mode == "full_duplex"
        if lacking is not None and samples >= lacking:
            self._has_shown = False
        over = self._needs.over and self._mode != "turn_based"
        played = message.played
        self._keep(self._hearing.push(message.pts, message.pcm, over=over, played=played))

    def look(self, picture: ImageIn) -> ImageIn | None:
        """Take a picture; return it if it is not to be kept for the end of the unit."""
        self._picture = picture
        if not picture.rgb or self._mode != "full_duplex" or not self._needs.unit_samples:
            return self.take_picture(now=True)
        return self.take_picture()

    def take_picture(self, *, now: bool = False) -> ImageIn | None:
        """Return the newest picture, once, if the unit that ends next is to be seen with it."""
        lacking = self._lacking()
        is_time = lacking is not None and lacking <= self._picture_lead and not self._has_shown
        if self._picture is None or not (now or is_time):
            return None
        self._has_shown = lacking is not None
        picture, self._picture = self._picture, None
        return picture

    def take(self) -> SoundHeard | None:
        """Return all that is kept, if anything is."""
        return self._take() if self._pcm or self._events else None

    def commit(self) -> SoundHeard:
        """End the utterance under way; what was heard by that. `take` comes first."""
        self._keep(self._hearing.stop())
        return self._take(is_commit=True)

    def _take(self, *, is_commit: bool = False) -> SoundHeard:
        self._end_voice()
        heard = SoundHeard(
            self._session,
            bytes(self._pcm),
            self._arrived,
            self._hearing.position,
            self._hearing.is_speaking,
            tuple(self._events),
            is_commit,
        )
        self._pcm.clear()
        self._events.clear()
        self._is_urgent = False
        return heard

    def _lacking(self) -> int | None:
        """Samples until the next end of a unit, 1 at least; None where it is not known."""
        size = self._needs.unit_samples
        return (self._needs.unit_end - self._count - 1) % size + 1 if size else None

    def _keep(self, heard: list[Heard]) -> None:
        for event in heard:
            if isinstance(event, Voice):
                self._voice += event.pcm
                continue
            self._end_voice()
            if not isinstance(event, Dismissed):
                self._events.append(event)
                self._is_urgent |= not isinstance(event, Onset)

    def _end_voice(self) -> None:
        """Make one event of the voice that has come without another event in it."""
        if self._voice:
            self._events.append(Voice(bytes(self._voice)))
            self._voice.clear()
