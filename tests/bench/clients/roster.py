"""The clients: where each comes from, how it is started, what it cannot do by design."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

Runtime = Literal["python", "node", "own"]


class Client(Struct, frozen=True):
    """A row of the table."""

    name: str
    title: str
    driver: str
    """A module of drivers/, or a file for Node there."""
    runtime: Runtime = "own"
    """`python`: any of those given that has the module; `own`: that of the bench."""
    needs: str = ""
    """The module or package that must be there."""
    install: str = ""
    arguments: tuple[str, ...] = ()
    is_secure: bool = False
    """Calls the server with TLS, whose certificate it is told to trust."""
    lacks: dict[str, str] = {}
    """Steps that are left out, with the reason."""
    notes: tuple[str, ...] = ()
    only_sends: bool = False
    more: tuple[str, ...] = ()
    """Steps beyond those of the table."""


STOPS = "Nothing tells it of an interruption: the sound stops."
NPM = "npm install"
PIP = "pip install"
LIVE_TEXT = "Live has no typed messages: instructions or commentary are appended, and spoken."
WHIP = dict.fromkeys(
    ("captions", "interruption", "text", "tools"),
    "WHIP carries sound and pictures; events need a data channel, which this client does not open.",
)
SENDS = "Only sends, so the answer is not heard; pictures arrive, too."
AGENTS = "Hand-over to another agent and the history of the session were checked, too."

CLIENTS = (
    Client(
        "agents-webrtc",
        "`@openai/agents-realtime`, Chromium, WebRTC",
        "in_chromium",
        needs="@openai/agents-realtime",
        install=f"{NPM} @openai/agents-realtime",
        arguments=("agents", "{modules}"),
        notes=(AGENTS,),
        more=("handoff", "history"),
    ),
    Client(
        "agents-websocket",
        "`@openai/agents-realtime`, Node, WebSocket",
        "agents_node.mjs",
        "node",
        "@openai/agents-realtime",
        f"{NPM} @openai/agents-realtime",
        arguments=("{modules}",),
        notes=(AGENTS,),
        more=("handoff", "history"),
    ),
    Client(
        "openai-realtime",
        "`openai` Python, `realtime.connect`",
        "openai_realtime",
        needs="openai",
        install=f"{PIP} 'openai[realtime]'",
    ),
    Client(
        "openai-sideband",
        "`openai` Python, `realtime.connect(call_id=)`",
        "openai_sideband",
        needs="openai",
        install=f"{PIP} 'openai[realtime]'",
        notes=("Beside a WebRTC call of `omnicall.client`, whose voice it is.",),
    ),
    Client(
        "openai-live",
        "`openai` Python, `live.connect` and sideband",
        "openai_live",
        needs="openai",
        install=f"{PIP} 'openai[realtime]'",
        notes=(LIVE_TEXT, STOPS),
        more=("sideband",),
    ),
    Client(
        "openai-chat",
        "`openai` Python, `chat.completions`, `models`",
        "openai_chat",
        needs="openai",
        install=f"{PIP} openai",
        lacks={"hang-up": "There is no call."},
        notes=("Interruption is the end of a stream that is closed.",),
    ),
    Client(
        "openai-npm",
        "`openai` npm, `OpenAIRealtimeWS`",
        "openai_node.mjs",
        "node",
        "openai",
        f"{NPM} openai ws",
        arguments=("{modules}",),
        is_secure=True,
        notes=("`wss:` only: `--tls`, and `NODE_EXTRA_CA_CERTS=certs/omnicall.crt`.",),
    ),
    Client(
        "openai-agents",
        "`openai-agents` Python, realtime",
        "openai_agents",
        "python",
        "agents.realtime",
        f"{PIP} openai-agents",
        notes=(AGENTS,),
        more=("handoff", "history"),
    ),
    Client(
        "livekit-live",
        "LiveKit agents, `GPTLiveModel`",
        "livekit_agents",
        "python",
        "livekit.plugins.openai",
        f"{PIP} livekit-agents livekit-plugins-openai",
        arguments=("live",),
        notes=(LIVE_TEXT, STOPS),
    ),
    Client(
        "livekit-realtime",
        "LiveKit agents, `RealtimeModel`",
        "livekit_agents",
        "python",
        "livekit.plugins.openai",
        f"{PIP} livekit-agents livekit-plugins-openai",
        arguments=("realtime",),
    ),
    Client(
        "pipecat-live",
        "pipecat, `OpenAILiveLLMService`",
        "pipecat_pipeline",
        "python",
        "pipecat",
        f"{PIP} 'pipecat-ai[openai]'",
        arguments=("live",),
        lacks={"text": "Its service for Live sends no text of the user to the model."},
        notes=(STOPS,),
    ),
    Client(
        "pipecat-realtime",
        "pipecat, `OpenAIRealtimeLLMService`",
        "pipecat_pipeline",
        "python",
        "pipecat",
        f"{PIP} 'pipecat-ai[openai]'",
        arguments=("realtime",),
    ),
    Client(
        "openbmb",
        "`openbmb-realtime`",
        "openbmb",
        "python",
        "openbmb_realtime",
        f"{PIP} openbmb-realtime",
        lacks=dict.fromkeys(("text", "tools"), "Its protocol has no typed text and no functions."),
        notes=(STOPS,),
    ),
    Client(
        "whip-web",
        "`@eyevinn/whip-web-client`, Chromium",
        "in_chromium",
        needs="@eyevinn/whip-web-client",
        install=f"{NPM} @eyevinn/whip-web-client",
        arguments=("whip", "{modules}"),
        lacks=WHIP,
        notes=(SENDS,),
        only_sends=True,
    ),
    Client(
        "gstreamer",
        "GStreamer `webrtcbin`, WHIP",
        "whip_encoders",
        needs="gstreamer",
        install="apt-get install python3-gi gir1.2-gst-plugins-bad-1.0 gstreamer1.0-nice",
        arguments=("gstreamer",),
        lacks=WHIP,
    ),
    Client(
        "ffmpeg",
        "FFmpeg's WHIP muxer (PyAV)",
        "whip_encoders",
        needs="av",
        install=f"{PIP} av",
        arguments=("ffmpeg",),
        lacks=WHIP,
        notes=(SENDS,),
        only_sends=True,
    ),
    Client(
        "omnicall-webrtc", "`omnicall.client`, WebRTC", "omnicall_python", arguments=("webrtc",)
    ),
    Client(
        "omnicall-websocket",
        "`omnicall.client`, WebSocket",
        "omnicall_python",
        arguments=("websocket",),
    ),
    Client(
        "omnicall-js",
        "`web/lib/omnicall.js`, Chromium",
        "in_chromium",
        arguments=("omnicall", "{modules}"),
    ),
    Client(
        "omnicall-firefox",
        "`web/lib/omnicall.js`, Firefox",
        "in_firefox",
        needs="firefox",
        install="apt-get install firefox-esr pulseaudio",
        notes=("Firefox 153 with PulseAudio: without a sound server none of its sound begins.",),
    ),
)
