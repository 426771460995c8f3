"""What a client has told a full-duplex session beside the conversation."""

from __future__ import annotations

from collections.abc import Mapping

from engine.ipc.protocol import ContextKind
from engine.minicpmo.llm.prompts import PromptBuilder

MAX_TOLD_TOKENS = 1024
BEFORE: Mapping[ContextKind, str] = {
    "instructions": "",
    "thinking": "You know this; say it only when it is wanted: ",
    "commentary": "",
}
"""What stands before the words."""


class ToldContext:
    """Rules and knowledge at the end of the system message; what is too much of it is forgotten,
    the oldest knowledge first and rules never. Owned by one session."""

    def __init__(self, prompts: PromptBuilder, most: int) -> None:
        """`most`: tokens of all of it."""
        self._prompts = prompts
        self._most = most
        self._told: list[tuple[ContextKind, str]] = []

    def with_more(self, kind: ContextKind, text: str) -> list[int] | None:
        """Return the ids that end the system message with this in it; None if it is too much."""
        told = [*self._told, (kind, BEFORE[kind] + text)]
        empty = len(self._prompts.duplex_suffix())
        while len(ids := self._suffix(told)) - empty > self._most:
            oldest = next((one for one in told[:-1] if one[0] == "thinking"), None)
            if oldest is None:
                return None
            told.remove(oldest)
        self._told = told
        return ids

    def _suffix(self, told: list[tuple[ContextKind, str]]) -> list[int]:
        return self._prompts.duplex_suffix([text for _, text in told])
