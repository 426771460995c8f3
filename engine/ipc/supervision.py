"""The messages between a child process (an engine or a media worker) and its supervisor."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.ipc.protocol import Hello, Message, Ping, Pong, Welcome

MAX_VOICE_BYTES = 2 * 1024 * 1024
"""Of a recording for a voice: 20 s at 24 kHz, 16 bits, take half of it."""
OWN_VOICES_ONLY = "This engine speaks with its own voices only."
"""Why an uploaded voice is of no use to an engine that takes none; for people."""
VoiceId = Annotated[str, Meta(min_length=1, max_length=64)]


class Progress(Message, frozen=True):
    """What a starting child is doing, for people; each one restarts its time limit."""

    text: str
    done_bytes: int = 0
    total_bytes: int = 0
    """0: not known."""
    is_download: bool = False
    """How long that takes is the network's affair: no limit counts until the next progress."""

    @property
    def percent(self) -> int | None:
        """Of the bytes; None where they are not known."""
        if not self.total_bytes:
            return None
        return min(100, 100 * self.done_bytes // self.total_bytes)

    def __str__(self) -> str:
        if self.percent is None:
            return self.text
        done_gb, total_gb = self.done_bytes / 1e9, self.total_bytes / 1e9
        return f"{self.text}: {done_gb:.2f} of {total_gb:.2f} GB ({self.percent} %)"


class Ready(Message, frozen=True):
    """Sent once after warm-up; a child that does not send it in time is killed."""

    pid: int
    endpoint: str = ""
    """Where an engine listens for media workers."""
    welcome: Welcome | None = None
    build_ms: float = 0.0


class Quantiles(Struct, frozen=True):
    count: int
    p50: float
    p95: float
    p99: float


class EngineStats(Message, frozen=True):
    """Once a second from an engine to its supervisor."""

    slots: int
    slots_used: int
    capacity: int
    """Sessions that it can serve at its present pace, those there are included."""
    unit_p99_ms: float
    """Of the last seconds: from a unit's last sound to all that it led to."""
    late_share: float
    """Of the units of the last seconds, those that took longer than a unit lasts; 0 to 1."""
    oldest_pending_ms: float
    dropped_ms: int
    units: int
    stages_ms: dict[str, Quantiles]
    cpu_s: float
    """Its ingest process included."""
    rss_bytes: int
    loop_lag_ms: float
    tasks: int = 0
    """Tasks of the event loop; one that only grows is a leak."""


EXIT_FATAL = 3
"""The exit code of a child that has said `Fatal`."""


class Fatal(Message, frozen=True):
    """Precedes an exit that no restart is likely to mend by itself; the reason is for people."""

    reason: str


class Shutdown(Message, frozen=True):
    """Tell the sessions and exit within `grace_s`."""

    grace_s: float


class WorkerGone(Message, frozen=True):
    """To an engine: the media worker that said `Hello` with this name is dead, its sessions too."""

    name: str


class KeepVoice(Message, frozen=True):
    """To an engine: prepare this voice when there is time; answered by one `VoiceReport`."""

    voice: VoiceId
    sound: Annotated[bytes, Meta(max_length=MAX_VOICE_BYTES)]
    """A WAV file."""


class DropVoice(Message, frozen=True):
    """To an engine: nobody is to get this voice any more."""

    voice: VoiceId


class DefaultVoice(Message, frozen=True):
    """To an engine: who names no voice gets this one; empty: the engine's own choice."""

    voice: Annotated[str, Meta(max_length=64)]


class VoiceReport(Message, frozen=True):
    """What became of a voice in this engine."""

    voice: VoiceId
    state: Literal["ready", "failed", "unsupported"]
    reason: str = ""
    """For people, unless it is ready."""


def credential(name: str, secret: str) -> str:
    """What a child calls itself in its `Hello` to the supervisor."""
    return f"{name}:{secret}" if secret else name


def credential_parts(said: str) -> tuple[str, str]:
    """The name and the secret of a `credential`."""
    name, _, secret = said.partition(":")
    return name, secret


ToChild = Ping | Shutdown | WorkerGone | KeepVoice | DropVoice | DefaultVoice
FromChild = Hello | Progress | Ready | Pong | EngineStats | Fatal | VoiceReport
