"""The words of spoken answers, for requests that name one by its id. Front."""

import time
from collections import OrderedDict
from collections.abc import Callable

KEPT_S = 3600
MAX_KEPT = 1_000
MAX_KEPT_CHARS = 4_000_000


class SpokenAnswers:
    """Owns them, in memory; the oldest go first."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, str]] = OrderedDict()
        self._chars = 0

    def keep(self, audio_id: str, words: str) -> None:
        self._entries[audio_id] = (self._clock() + KEPT_S, words)
        self._chars += len(words)
        while len(self._entries) > MAX_KEPT or self._chars > MAX_KEPT_CHARS:
            _, (_, dropped) = self._entries.popitem(last=False)
            self._chars -= len(dropped)

    def recall(self, audio_id: str) -> str | None:
        """None for one that is unknown, or too old. May be called in any thread."""
        entry = self._entries.get(audio_id)
        return entry[1] if entry is not None and entry[0] > self._clock() else None
