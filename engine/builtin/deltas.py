"""Text that comes in pieces, as language models send it."""

from __future__ import annotations

import codecs


class DeltaJoiner:
    """Joins characters that were cut between two pieces; lone halves become U+FFFD."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-16-le")("replace")

    def push(self, delta: str) -> str:
        """What is now known of the text: half a pair at the end waits for the next piece."""
        return self._decoder.decode(delta.encode("utf-16-le", "surrogatepass"))

    def flush(self) -> str:
        """What is left at the end: half a pair is U+FFFD."""
        return self._decoder.decode(b"", final=True)
