"""What a target of a campaign is, and the outcome of a case."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random

from msgspec import Struct

CORPUS = Path(__file__).with_name("corpus")
FINDING = "finding"
"""How the names of cases begin that once found something."""


class Finding(Struct, frozen=True):
    """Something that must not happen; `case` makes it happen again, by itself if `is_alone`."""

    what: str
    case: bytes
    is_alone: bool = True


class Target:
    """One door and the grammar of what comes through it; override what matters.

    `mutate` and `signature` are pure: the same seed gives the same cases. `try_case` gives a case
    to the living thing and says what was wrong, if it can tell; the oracles look at the rest.
    """

    name: str = ""
    needs_server = True
    options: Sequence[str] = ()
    """More of the server's command line."""
    environment: Mapping[str, str] = {}
    concurrency = 1
    corpus = ""
    """The folder of its seeds; empty: its name."""

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        """A new case."""
        raise NotImplementedError

    def signature(self, case: bytes) -> str:
        """What parsers make of the case; new ones are grown from. An exception is a fault."""
        return ""

    async def open(self, url: str, folder: Path) -> None:
        """Get ready; `folder` holds the server's sockets and files."""

    async def try_case(self, case: bytes) -> str:
        """Give it; what was wrong, or nothing."""
        raise NotImplementedError

    async def settle(self) -> str:
        """After some cases: what was wrong, or nothing."""
        return ""

    async def close(self) -> None:
        """Let go of everything."""

    def seeds(self) -> dict[str, bytes]:
        """The corpus, by file name."""
        folder = CORPUS / (self.corpus or self.name)
        paths = sorted(folder.iterdir()) if folder.is_dir() else []
        return {path.name: path.read_bytes() for path in paths}
