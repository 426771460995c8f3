"""What an engine counted of tokens, as sessions tell it."""

from __future__ import annotations

from msgspec.structs import asdict

from engine.ipc.protocol import TokenSplit
from signaling.session.events import TokenShares


def shares(split: TokenSplit) -> TokenShares:
    return TokenShares(**asdict(split))
