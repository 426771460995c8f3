"""The examples of docs/clients.md, as they stand there, and how each is run."""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from tests import ROOT

PAGE = ROOT / "docs" / "clients.md"
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
TERMINAL = re.compile(r"(?:^    omnicall call .*\n)+", re.MULTILINE)


class Snippet(Struct, frozen=True):
    """An example that is known by words of which it has some that no other has."""

    name: str
    words: str
    kind: Literal["python", "node", "page", "terminal", "unrun"]
    needs: str = ""
    """The package that may be missing."""
    is_endless: bool = False
    """It goes on until the call is hung up."""


SNIPPETS = (
    Snippet("omnicall-js", "new OmnicallCall(", "page"),
    Snippet("omnicall-python", "import omnicall.client", "python"),
    Snippet("omnicall-call", "omnicall call http", "terminal"),
    Snippet("openai-live", "client.live.connect", "python", is_endless=True),
    Snippet("livekit-live", "import GPTLiveModel", "python", "livekit.plugins.openai"),
    Snippet("pipecat-live", "import OpenAILiveLLMService", "python", "pipecat"),
    Snippet("openai-realtime", "client.realtime.connect", "python"),
    Snippet("agents-page", "new OpenAIRealtimeWebRTC(", "page", "@openai/agents-realtime"),
    Snippet("agents-node", "transport: 'websocket'", "node", "@openai/agents-realtime"),
    Snippet("openai-node", "new OpenAIRealtimeWS(", "node", "openai"),
    Snippet("openai-agents", "import RealtimeAgent, RealtimeModelConfig", "python", "agents"),
    Snippet("livekit-realtime", "import RealtimeModel\n", "python", "livekit.plugins.openai"),
    Snippet("pipecat-realtime", "import OpenAIRealtimeLLMService", "python", "pipecat"),
    Snippet("swift", "RTCConfiguration()\nconfig", "unrun"),
    Snippet("kotlin", "PeerConnection.RTCConfiguration", "unrun"),
    Snippet("encoders", "whipclientsink", "unrun"),
    Snippet("aiortc-whip", "MediaRecorder(", "python"),
    Snippet("openbmb", "from openbmb_realtime", "python", "openbmb_realtime", is_endless=True),
    Snippet("openai-chat", "client.chat.completions.create", "python"),
)


def texts() -> list[str]:
    """All examples of the page, in order."""
    page = PAGE.read_text()
    found = [(match.start(), match.group(2)) for match in FENCED.finditer(page)]
    found += [(match.start(), match.group()) for match in TERMINAL.finditer(page)]
    return [text for _, text in sorted(found)]


def text_of(name: str) -> str:
    """The example of this name."""
    (snippet,) = [snippet for snippet in SNIPPETS if snippet.name == name]
    (text,) = [text for text in texts() if snippet.words in text]
    return text
