"""One utterance on its way through a recogniser process: buffered, fed as fast as it is taken."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from engine.builtin.interfaces import Transcript
from engine.builtin.recogniser_link import Abandon, Begin, FeedAudio, Finish, ToRecogniser

MAX_BYTES = 2 * 16_000 * 60
WINDOW_BYTES = 32_000
"""Sound on its way to a recogniser, 1 s: what it must still chew when its utterance is given up."""
FEED_BYTES = 6_400
IDLE_S = 1.0
"""Of an utterance that has not ended and gets no sound for so long, a recogniser is not kept where
others wait for one: the speech of who commits turns by hand, or of a client that sends no more."""
OVERLOADED = Transcript(
    "", error="too many people speak at once; this was not understood", is_overload=True
)

_idents = itertools.count(1)


class Waits(Struct, frozen=True):
    """Time limits after the end of an utterance, s."""

    for_turn: float = 4.0
    """For an answer: later ones must not wait for this one."""
    for_text: float = 30.0
    """For a transcript: far longer, so that work under way is not thrown away."""


class Link(Protocol):
    """The recogniser process that works at an utterance."""

    def send(self, message: ToRecogniser) -> None: ...


class Owner(Protocol):
    """Allocates recognisers and their time."""

    def has_way(self, utterance: SpokenUtterance) -> bool:
        """Return whether it may be processed; if not, `pump` is called when that changes."""

    def go_on(self, utterance: SpokenUtterance) -> None:
        """Find a recogniser for one that had given up its own."""

    def settled(self, utterance: SpokenUtterance) -> None:
        """Called once, when its result is decided, whatever it is."""


class SpeakerTraits(Protocol):
    """The traits of its speaker that a recogniser needs."""

    cepstral_mean: str
    commands: bool
    language: str


OnSettled = Callable[["SpokenUtterance", Transcript], None]


class SpokenUtterance:
    """Buffered until a recogniser takes it, and what that is late with. Implements `Utterance`."""

    def __init__(
        self,
        speaker: SpeakerTraits,
        on_partial: Callable[[str], None],
        *,
        waits: Waits,
        owner: Owner,
        on_settled: OnSettled | None = None,
    ) -> None:
        """`on_settled` is called once, when the result is decided."""
        self.ident = next(_idents)
        self.speaker = speaker
        self.on_partial = on_partial
        self._waits = waits
        self._owner = owner
        self._on_settled = on_settled
        self._loop = asyncio.get_running_loop()
        self._result: asyncio.Future[Transcript] = self._loop.create_future()
        self._link: Link | None = None
        self._pcm = bytearray()
        """All of it: a recogniser that takes it over begins anew."""
        self._sent = self._taken = 0
        self._fed_s = self._loop.time()
        self._is_finishing = self._told_finish = self._rests = False

    @property
    def is_settled(self) -> bool:
        return self._result.done()

    @property
    def is_dropped(self) -> bool:
        """It was given up because too many spoke at once."""
        return self.is_settled and self._result.result() is OVERLOADED

    @property
    def is_behind(self) -> bool:
        """More waits than what live speech brings."""
        return len(self._pcm) - self._sent >= WINDOW_BYTES

    @property
    def is_idle(self) -> bool:
        """It has not ended, its recogniser has nothing to do, and nothing more came for a while."""
        is_done = len(self._pcm) - self._taken < FEED_BYTES and not self._is_finishing
        return is_done and self._loop.time() - self._fed_s > IDLE_S

    @property
    def is_owed(self) -> bool:
        """The recogniser still has work for it."""
        return self._told_finish or self._sent - self._taken >= FEED_BYTES

    def feed(self, pcm: bytes) -> None:
        """Take the next PCM; what exceeds a minute in all is refused with the whole utterance."""
        if self.is_settled or self._is_finishing:
            return
        if len(self._pcm) + len(pcm) > MAX_BYTES:
            self.settle(Transcript("", error="the utterance is too long"))
            return
        self._pcm += pcm
        self._fed_s = self._loop.time()
        self._go_on()

    def pause(self) -> None:
        """Nothing depends on it: the sound is followed as it comes."""

    def resume(self) -> None:
        """The same."""

    def end(self) -> None:
        """There is no more of it."""
        self._is_finishing = True
        self._go_on()

    async def finish(self) -> Transcript:
        """Who is cancelled in here gives it up."""
        self.end()
        try:
            return await self._finished()
        except asyncio.CancelledError:
            self.abandon()
            raise

    async def _finished(self) -> Transcript:
        waits = self._waits
        for seconds in (waits.for_turn, waits.for_text - waits.for_turn):
            try:
                async with asyncio.timeout(seconds):
                    return await asyncio.shield(self._result)
            except TimeoutError:
                if self._link is None or not self._owner.has_way(self):
                    break
        # A process that is merely slow goes on with others; one that is stuck is ended elsewhere.
        self.settle(OVERLOADED)
        return self._result.result()

    def abandon(self) -> None:
        self.settle(Transcript("", error="abandoned"))

    def attach(self, link: Link) -> None:
        """Hand over what was buffered, and what comes, to `link`."""
        self._link = link
        traits = self.speaker
        link.send(Begin(self.ident, traits.cepstral_mean, traits.commands, traits.language))
        self.pump()

    def rest(self) -> None:
        """Let the recogniser go until there is more sound, or the end."""
        link, self._link = self._link, None
        if link is not None:
            link.send(Abandon(self.ident))
        self._sent = self._taken = 0
        self._rests = True

    def taken(self, num_bytes: int) -> None:
        """Note how much of it the recogniser has processed."""
        self._taken = num_bytes
        self.pump()

    def settle(self, transcript: Transcript) -> None:
        """Decide the result, once, and free the recogniser."""
        if self.is_settled:
            return
        self._result.set_result(transcript)
        self._pcm.clear()
        self._sent = self._taken = 0
        link, self._link = self._link, None
        if link is not None:
            link.send(Abandon(self.ident))
        self._owner.settled(self)
        if self._on_settled is not None:
            self._on_settled(self, transcript)

    def pump(self) -> None:
        """Send what fits into the recogniser's window."""
        link = self._link
        if link is None or not self._owner.has_way(self):
            return
        while self._sent < len(self._pcm) and self._sent - self._taken < WINDOW_BYTES:
            pcm = bytes(self._pcm[self._sent : self._sent + FEED_BYTES])
            self._sent += len(pcm)
            link.send(FeedAudio(pcm))
        if self._is_finishing and self._sent == len(self._pcm) and not self._told_finish:
            self._told_finish = True
            link.send(Finish(self.ident))

    def _go_on(self) -> None:
        if self._rests and not self.is_settled:
            self._rests = False
            self._owner.go_on(self)
        else:
            self.pump()
