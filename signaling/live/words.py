"""What both sides of a Live session say, as it is told: in small pieces on one timeline. Media
worker.
"""

from __future__ import annotations

from collections.abc import Iterator

from signaling.live import server_events as wire
from signaling.live.fragments import Captions, Fragment, split
from signaling.session import events as ev

OUTPUT_HZ = 24_000
MAX_RESPONSES = 16


class SpokenWords:
    """Owns the words of answers that are about to be heard."""

    def __init__(self) -> None:
        self._captions = Captions()
        self._began_ms: dict[str, int] = {}
        """Where on the timeline the responses began to be heard."""
        self._space = ""
        """What comes before the next words: each piece has its own leading space."""

    def hear(
        self, event: ev.SessionEvent, now: float, timeline_ms: int
    ) -> Iterator[wire.OutputWords]:
        """Take what tells of an answer; what is to be told at once."""
        match event:
            case ev.ResponseAudible():
                self._begin(event.response_id, timeline_ms)
            case ev.WordsReleased(modality="audio"):
                began_ms = self._begin(event.response_id, timeline_ms)
                start_ms, end_ms = (
                    began_ms + samples * 1000 // OUTPUT_HZ for samples in (event.start, event.end)
                )
                text = self._space + event.text
                words = text.rstrip()
                self._space = text[len(words) :]
                self._captions.add(words, start_ms, end_ms, now)
                yield from self.due(now)
            case ev.PlayoutEnded():
                if not event.is_cut:
                    yield from map(_words, self._captions.flush())
                self._captions.drop()
                self._space = " "

    def due(self, now: float) -> Iterator[wire.OutputWords]:
        """Return what has begun to be heard since the last call."""
        return map(_words, self._captions.due(now))

    def _begin(self, response_id: str, timeline_ms: int) -> int:
        began_ms = self._began_ms.setdefault(response_id, timeline_ms)
        if len(self._began_ms) > MAX_RESPONSES:
            del self._began_ms[next(iter(self._began_ms))]
        return began_ms


def input_words(event: ev.TranscriptCompleted) -> Iterator[wire.InputWords]:
    """Take what the user said, from its beginning. Partial transcripts may be rewritten, which
    cannot be told.
    """
    said = f" {event.text.strip()}"
    for text, start_ms, end_ms in split(said, event.start_ms, event.end_ms):
        yield wire.InputWords(delta=text, start_ms=start_ms, end_ms=end_ms)


def _words(fragment: Fragment) -> wire.OutputWords:
    text, start_ms, end_ms = fragment
    return wire.OutputWords(delta=text, start_ms=start_ms, end_ms=end_ms)
