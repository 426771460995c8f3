"""What a unit of full duplex is: the time that the model hears, then speaks, at once."""

from __future__ import annotations

from dataclasses import dataclass

CODE_HZ = 25
"""Speech codes in a second of sound."""


@dataclass(frozen=True)
class UnitSpec:
    """A full-duplex unit: how long it is, and how much the model says in it.

    Whoever needs one of these numbers gets it from the model's configuration.
    """

    ms: int = 1_000
    """One of `UNIT_LENGTHS_MS`."""
    max_tokens: int = 20
    """Steps of a unit. The last one never decodes, and the first token is not spoken."""
    max_chars: int = 28
    """A token that brings a unit's text to this many characters is refused."""

    def __post_init__(self) -> None:
        if self.ms not in UNIT_LENGTHS_MS:
            lengths = ", ".join(map(str, UNIT_LENGTHS_MS))
            raise ValueError(f"ms = {self.ms} is not one of {lengths}")
        if self.max_tokens < 2 or self.max_chars < 1:
            raise ValueError(
                f"max_tokens = {self.max_tokens} and max_chars = {self.max_chars} leave no room "
                "for a word"
            )

    def samples(self, hz: int) -> int:
        """Samples of a unit at a rate that gives a whole number of them."""
        return self.ms * hz // 1000

    def codes(self, index: int) -> int:
        """Speech codes of a turn's unit, counted from 0.

        Where a unit has no whole number of them the earlier one has more: 13, 12, 13, 12.
        """
        return self._codes_before(index + 1) - self._codes_before(index)

    def _codes_before(self, units: int) -> int:
        return -(-units * self.ms * CODE_HZ // 1000)


UNIT_LENGTHS_MS = (200, 400, 500, 1_000, 2_000)
"""Whole embeddings of sound, of 100 ms, and a whole number of units in the 10 s by which the
buffer that sound is normalised over slides."""


RELEASED_UNIT = UnitSpec()
