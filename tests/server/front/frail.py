"""A server whose native engine breaks for good when it is told a word.

`python -m tests.server.front.frail OPTIONS` is run.py with `main` as its engine processes' entry.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from server.config import Config
from server.front import launch
from server.front.supervisor import ChildSpec

WORD = "fall off the bus"


def main() -> None:
    """Entry of an engine process: after `WORD` nothing works any more, as after a GPU's fault."""
    from engine import process
    from engine.minicpmo.runner import Runner
    from engine.minicpmo.serving.session_messages import SessionMessages
    from engine.minicpmo.session.item_decoding import DecodedItem

    take = SessionMessages.take

    def fault(*given: Any, **more: Any) -> Any:
        raise RuntimeError("the GPU has fallen off the bus")

    def taken(self: SessionMessages, session: Any, message: Any, came: float) -> None:
        if isinstance(message, DecodedItem) and WORD in message.parts:
            for name in ("clear", "hear", "look"):
                setattr(Runner, name, fault)
            fault()
        take(self, session, message, came)

    SessionMessages.take = taken  # type: ignore[method-assign]
    process.main()


def specs(config: Config, folder: Path) -> list[ChildSpec]:
    """The usual children, with engines that are frail."""
    return [
        msgspec.structs.replace(spec, module=__spec__.name) if spec.role == "engine" else spec
        for spec in usual(config, folder)
    ]


usual = launch.specs

if __name__ == "__main__":
    import run

    launch.specs = specs
    sys.exit(run.main())
