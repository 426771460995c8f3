"""What leaves a session's cache, and when: sliding windows, and the limit of the context.

Pure bookkeeping over lengths. What it decides, a `Cut` or a `Rebuild`, `LlmRows.apply` carries out.
Source: MiniCPM-o 4.5 inference code (duplex windows "basic" and "context").
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from engine.ipc.protocol import Retention, TokenSplit

WindowMode = Literal["off", "basic", "context"]
ContextPolicy = Literal["slide", "end"]

WARN_AT = (0.8, 0.9, 0.95)
"""Shares of the context limit at which a session is warned, once each."""


class ContextFull(Exception):
    """The session's context has reached its limit and nothing (more) may be dropped."""


@dataclass(frozen=True)
class Cut:
    """Remove `count` positions from `start`; what follows slides left, keys re-rotated."""

    start: int
    count: int


@dataclass(frozen=True)
class Rebuild:
    """Compute `ids` anew behind the first `keep` positions, then append what began at `resume`."""

    keep: int
    ids: tuple[int, ...]
    resume: int


Slide = Cut | Rebuild


@dataclass(frozen=True)
class Marks:
    """When a window forgets."""

    high: int
    """Positions above which the oldest entries go ..."""
    low: int
    """... until at most these are left."""

    @classmethod
    def of(cls, retention: Retention, protected: int, room: int) -> Marks:
        """Those that keep a part of the `room` behind what is protected, or of less."""
        most = max(0, room - protected)
        if retention.max_tokens is not None:
            most = min(most, retention.max_tokens)
        return cls(protected + most, protected + int(most * retention.ratio))


@dataclass(frozen=True)
class Media:
    """How many positions are embeddings, of sound and of pictures."""

    audio: int = 0
    image: int = 0

    def __add__(self, other: Media) -> Media:
        return Media(self.audio + other.audio, self.image + other.image)


NO_MEDIA = Media()


def split(length: int, media: Media, cached: int) -> TokenSplit:
    """Of so many positions how many are of which kind; `cached` of them were not read anew."""
    text = length - media.audio - media.image
    return TokenSplit(text=text, audio=media.audio, image=media.image, cached=cached)


@dataclass(frozen=True)
class Entry:
    """One unit (duplex) or turn (half duplex) in the cache."""

    length: int
    """Positions in the cache."""
    ids: tuple[int, ...] = ()
    """Spoken ids."""
    is_listen: bool = True
    media: Media = Media()


@dataclass(frozen=True)
class WindowSettings:
    """When a duplex session forgets."""

    mode: WindowMode = "off"
    high: int = 4000
    """Basic: positions above which the oldest units go ..."""
    low: int = 3500
    """... until at most these are left."""
    max_units: int = 24
    """Context: units kept verbatim; of older ones only what was spoken stays."""
    max_previous: int = 500
    """Context: ids kept of what was spoken before."""

    def __post_init__(self) -> None:
        if self.mode not in ("off", "basic", "context"):
            raise ValueError(f"window mode {self.mode!r}")
        if not 0 < self.low <= self.high:
            raise ValueError(f"window low {self.low}, high {self.high}")
        if self.max_units < 1 or self.max_previous < 1:
            raise ValueError(f"window of {self.max_units} units, {self.max_previous} ids before")


@dataclass
class DuplexWindow:
    """One session's units and what is protected in front of them."""

    settings: WindowSettings
    prefix_len: int
    """Positions in front of the suffix: system text and voice."""
    suffix_ids: tuple[int, ...]
    marker_ids: tuple[int, ...] = ()
    """Ids that introduce what was spoken before, in context mode."""
    special_ids: frozenset[int] = frozenset()
    entries: list[Entry] = field(default_factory=list)
    previous: list[int] = field(default_factory=list)
    """The marker and the spoken ids of dropped units."""
    dropped_entries: int = 0
    dropped_tokens: int = 0
    retention: Retention | None = None
    """Takes the place of the settings."""
    room: int = 0
    """Positions that the cache has, for the retention."""
    voice: int = 0
    """Positions of the prefix that are sound."""

    @property
    def media(self) -> Media:
        """What of it is embeddings."""
        return sum((entry.media for entry in self.entries), Media(self.voice))

    @property
    def marks(self) -> Marks | None:
        """None: units are not dropped for their positions."""
        if self.retention is not None:
            return Marks.of(self.retention, self.protected, self.room)
        is_basic = self.settings.mode == "basic"
        return Marks(self.settings.high, self.settings.low) if is_basic else None

    @property
    def protected(self) -> int:
        """Positions at the start that no slide removes."""
        return self.prefix_len + len(self.previous) + len(self.suffix_ids)

    @property
    def length(self) -> int:
        return self.protected + sum(entry.length for entry in self.entries)

    def is_due(self, coming: int) -> bool:
        """Return whether registering a unit of `coming` positions makes the window move."""
        if (marks := self.marks) is not None:
            return self.length + coming > marks.high
        if self.settings.mode == "context":
            return len(self.entries) + 1 > self.settings.max_units
        return False

    def register(self, entry: Entry) -> None:
        assert entry.length > 0, f"a unit of {entry.length} positions"
        self.entries.append(entry)

    def slide(self) -> Slide | None:
        """Return the slide that a registered unit makes necessary, already counted here."""
        settings = self.settings
        if (marks := self.marks) is not None:
            excess = self.length - marks.low if self.length > marks.high else 0
            return self._drop(self._oldest(excess))
        if settings.mode == "context" and len(self.entries) > settings.max_units:
            return self._drop(len(self.entries) - settings.max_units)
        return None

    def make_room(self, positions: int) -> Cut | None:
        """Drop the oldest units so that at least `positions` are freed; raises `ContextFull`."""
        count = self._oldest(positions)
        if sum(entry.length for entry in self.entries[:count]) < positions:
            raise ContextFull(f"{positions} positions are needed, {self.protected} are protected")
        return self._forget(count) if count else None

    def _oldest(self, positions: int) -> int:
        """How many of the oldest units hold at least `positions`, or all of them."""
        freed = 0
        for count, entry in enumerate(self.entries):
            if freed >= positions:
                return count
            freed += entry.length
        return len(self.entries)

    def _drop(self, count: int) -> Slide | None:
        if count == 0:
            return None
        gone = self.entries[:count]
        cut = self._forget(count)
        if self.settings.mode == "context" and self._remember(gone):
            ids = (*self.previous, *self.suffix_ids)
            return Rebuild(self.prefix_len, ids, cut.start + cut.count)
        return cut

    def _forget(self, count: int) -> Cut:
        gone, self.entries = self.entries[:count], self.entries[count:]
        positions = sum(entry.length for entry in gone)
        self.dropped_entries += count
        self.dropped_tokens += positions
        return Cut(self.protected, positions)

    def _remember(self, gone: Iterable[Entry]) -> bool:
        """Take over what was spoken in units that go; returns whether anything was."""
        spoken = [
            token
            for entry in gone
            if not entry.is_listen
            for token in entry.ids
            if token not in self.special_ids
        ]
        if not spoken:
            return False
        content = [*self.previous[len(self.marker_ids) :], *spoken]
        self.previous = [*self.marker_ids, *content[-self.settings.max_previous :]]
        return True


@dataclass
class TurnWindow:
    """Half duplex: whole turns go, oldest first, once the cache is above `high`."""

    high: int = 8000
    low: int = 6000
    protected: int = 0
    """Positions of the system message."""
    protected_media: Media = Media()
    entries: list[Entry] = field(default_factory=list)
    retention: Retention | None = None
    """Takes the place of the two marks."""
    room: int = 0
    """Positions that the cache has, for the retention."""

    @property
    def length(self) -> int:
        return self.protected + sum(entry.length for entry in self.entries)

    @property
    def media(self) -> Media:
        """What of it is embeddings."""
        return sum((entry.media for entry in self.entries), self.protected_media)

    @property
    def marks(self) -> Marks:
        if self.retention is not None:
            return Marks.of(self.retention, self.protected, self.room)
        return Marks(self.high, self.low)

    def slide(self, keep_last: int = 1) -> Slide | None:
        """Return the slide that is due, already counted here; the last turns always stay."""
        marks = self.marks
        return self._drop(self.length - marks.low, keep_last) if self.length > marks.high else None

    def make_room(self, positions: int, keep_last: int = 1) -> Slide | None:
        """Drop the oldest turns so that at least `positions` are freed; raises `ContextFull`."""
        excess = 0 if self.retention is None else self.length - self.marks.low
        cut = self._drop(max(positions, excess), keep_last)
        if cut is None or cut.count < positions:
            raise ContextFull(f"{positions} positions are needed")
        return cut

    def _drop(self, positions: int, keep_last: int) -> Cut | None:
        freed = 0
        while freed < positions and len(self.entries) > keep_last:
            freed += self.entries.pop(0).length
        return Cut(self.protected, freed) if freed else None


@dataclass(frozen=True)
class ContextWarning:
    """The context is filling up."""

    used: int
    limit: int


@dataclass
class ContextLimit:
    """Positions a session may use, and what happens when they are used up."""

    limit: int
    policy: ContextPolicy = "slide"
    thresholds: Sequence[float] = WARN_AT
    _passed: int = 0

    def check(self, used: int) -> ContextWarning | None:
        """A warning when `used` has passed a further threshold; shrinking re-arms them."""
        passed = sum(used >= share * self.limit for share in self.thresholds)
        warn = passed > self._passed
        self._passed = passed
        return ContextWarning(used, self.limit) if warn else None

    def lacking(self, used: int, coming: int) -> int:
        """Positions missing for `coming` more; raises `ContextFull` where the session must end."""
        lacking = used + coming - self.limit
        if lacking > 0 and self.policy == "end":
            raise ContextFull(f"{used} of {self.limit} positions are used, {coming} more come")
        return max(0, lacking)
