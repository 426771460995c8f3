"""The configuration tree: every field with its bounds and what it means. Built once, in `run.py`.

Loading (files, environment, command line) is in `server.config_loader`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from engine.config import (
    HAS_WORDS,
    BuiltinConfig,
    DelegateConfig,
    EngineKind,
    LogLevel,
    MiniCpmoConfig,
)
from engine.ipc.session_config import Mode
from signaling.hosts import LOOPBACK_HOSTS


class ServerConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the front listens."""

    host: Annotated[str, Meta(max_length=253, description="Address or name to listen on.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port; 0 takes a free one.")] = 8006
    allowed_origins: Annotated[
        tuple[str, ...],
        Meta(
            description="Web origins that may call besides our own pages, e.g. https://a.example."
        ),
    ] = ()
    trusted_proxies: Annotated[
        tuple[str, ...],
        Meta(
            description="Reverse proxies whose word on the client is taken: addresses or networks "
            "such as 10.0.0.0/8. A key is needed then."
        ),
    ] = ()
    proxy_header: Annotated[
        Literal["x-forwarded-for", "forwarded"],
        Meta(description="The header that they write the client's address in."),
    ] = "x-forwarded-for"
    max_connections: Annotated[
        int,
        Meta(
            ge=16,
            le=1_000_000,
            description="HTTP connections at once; an eighth of them from one address.",
        ),
    ] = 1024


class TlsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """HTTPS. Browsers give the microphone to https pages and to localhost only."""

    mode: Annotated[
        Literal["auto", "on", "off"], Meta(description="auto: on unless the host is loopback.")
    ] = "auto"
    cert: Annotated[str, Meta(description="PEM certificate chain; empty: generate one.")] = ""
    key: Annotated[str, Meta(description="PEM private key of that certificate.")] = ""
    dir: Annotated[
        str, Meta(description="Folder of generated certificates; empty: certs/ or the user's own.")
    ] = ""


class AuthConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Authentication. On loopback no key is needed."""

    key: Annotated[
        str, Meta(max_length=256, description="Access key; empty: generated off loopback. Secret.")
    ] = ""
    calls_per_minute: Annotated[
        int,
        Meta(
            ge=1,
            le=100_000,
            description="New calls a minute from one key or address, off loopback.",
        ),
    ] = 120


class EnginesConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The engine processes."""

    kind: Annotated[EngineKind, Meta(description="Which engine answers.")] = "builtin"
    model: Annotated[str, Meta(description="Model folder, for minicpmo.")] = ""
    script: Annotated[
        str,
        Meta(
            max_length=4096,
            description="For scripted: a TOML file, or the name of a script that ships with us.",
        ),
    ] = ""
    count: Annotated[int, Meta(ge=1, le=64, description="Engine processes.")] = 1
    slots: Annotated[int, Meta(ge=1, le=1024, description="Sessions an engine serves at once.")] = 8
    gpu_memory_gib: Annotated[
        float,
        Meta(
            ge=0,
            le=1024,
            description="What an engine takes of its GPU's memory at most, GiB; 0: all that is "
            "free.",
        ),
    ] = 0.0
    ready_timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=3600,
            description="Longest step of an engine's start, s; downloads do not count.",
        ),
    ] = 60.0


class MediaConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Media workers and what they do with sound and pictures."""

    workers: Annotated[
        Literal["auto"] | Annotated[int, Meta(ge=1, le=64)],
        Meta(description="Media worker processes; auto: one for 16 calls, on half of the cores."),
    ] = "auto"
    bitrate: Annotated[
        int, Meta(ge=8_000, le=128_000, description="Opus bitrate of answers, bit/s.")
    ] = 32_000
    complexity: Annotated[
        int, Meta(ge=0, le=10, description="Opus encoder complexity; 1 saves a third of its CPU.")
    ] = 3
    video_fps: Annotated[
        float, Meta(gt=0, le=10, description="Pictures a second that reach the engine.")
    ] = 2.0
    video_side: Annotated[
        int, Meta(ge=64, le=1600, description="Longer side of those pictures at most, pixels.")
    ] = 640
    public_address: Annotated[
        str,
        Meta(max_length=64, description="Address at which a NAT shows this host, to be offered."),
    ] = ""
    public_address_v6: Annotated[
        str, Meta(max_length=64, description="The same of the other family, IPv6.")
    ] = ""
    addresses: Annotated[
        tuple[str, ...],
        Meta(
            max_length=16,
            description="Addresses or networks (CIDR) of this host to offer; empty: all.",
        ),
    ] = ()
    ports: Annotated[
        str,
        Meta(
            pattern=r"^(\d{1,5}-\d{1,5})?$", description="UDP ports, e.g. 50000-50999; empty: any."
        ),
    ] = ""
    stun: Annotated[
        tuple[str, ...],
        Meta(max_length=8, description="STUN servers, stun:host:port; told to callers."),
    ] = ()
    turn: Annotated[
        tuple[str, ...],
        Meta(
            max_length=8,
            description="TURN servers, turn:host:port, turn:host:port?transport=tcp or "
            "turns:host:port.",
        ),
    ] = ()
    turn_secret: Annotated[
        str,
        Meta(
            description="Shared with the TURN servers (coturn: static-auth-secret): passwords that "
            "expire are made of it, ours and those of callers. Secret."
        ),
    ] = ""
    turn_lifetime_s: Annotated[
        int, Meta(ge=60, le=86_400, description="How long such a password lasts, s.")
    ] = 7200
    turn_user: Annotated[str, Meta(description="User name at the TURN server.")] = ""
    turn_password: Annotated[str, Meta(description="Password at the TURN server. Secret.")] = ""
    ice_transport_policy: Annotated[
        Literal["all", "relay"],
        Meta(
            description="relay: offer and use addresses of TURN servers only, none of this host's."
        ),
    ] = "all"
    turn_share_password: Annotated[
        bool,
        Meta(description="Tell callers turn_user and turn_password, which do not expire."),
    ] = False


class CallsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Limits on calls."""

    modes: Annotated[
        tuple[Mode, ...],
        Meta(
            min_length=1,
            max_length=3,
            description="Modes that callers may choose; who asks for another one gets the first.",
        ),
    ] = ("full_duplex", "half_duplex", "turn_based")
    connect_deadline_s: Annotated[
        float,
        Meta(gt=0, le=120, description="A peer not connected by then is dropped, s."),
    ] = 15.0
    max_duration_s: Annotated[float, Meta(gt=0, le=86_400, description="Longest call, s.")] = 3600.0
    idle_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86_400,
            description="A call in which nothing is said or written for so long is ended, s; 0: "
            "never.",
        ),
    ] = 900.0
    grace_s: Annotated[
        float,
        Meta(
            ge=3,
            le=600,
            description="How long a call waits for a client that lost its connection, s.",
        ),
    ] = 30.0
    hurried_grace_s: Annotated[
        float,
        Meta(
            ge=0,
            le=600,
            description="How long such a call keeps its engine slot while others wait for one, s.",
        ),
    ] = 10.0
    pause_keeps_s: Annotated[
        float,
        Meta(ge=5, le=3_600, description="How long a call that pauses keeps its engine slot, s."),
    ] = 60.0
    max_queue: Annotated[
        int, Meta(ge=0, le=10_000, description="Calls that may wait for an engine slot.")
    ] = 16
    max_per_remote: Annotated[
        int,
        Meta(ge=1, le=10_000, description="Calls at once from one address or ephemeral key."),
    ] = 32
    max_per_key: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="Calls at once placed with one access key or the ephemeral keys made with "
            "it; 0: any number.",
        ),
    ] = 0
    max_connecting: Annotated[
        int,
        Meta(
            ge=1,
            le=10_000,
            description="Calls between offer and connection; one caller has a quarter at most.",
        ),
    ] = 64


class ChatConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests to /v1/chat/completions and /v1/audio."""

    slots: Annotated[
        int,
        Meta(
            ge=0,
            le=256,
            description="Requests an engine serves at once, beside its calls; 0: none.",
        ),
    ] = 2
    max_queue: Annotated[
        int, Meta(ge=0, le=1_000, description="Requests that may wait for one of these slots.")
    ] = 32
    wait_s: Annotated[float, Meta(gt=0, le=300, description="Longest wait for a slot, s.")] = 20.0
    max_per_remote: Annotated[
        int,
        Meta(ge=1, le=1_000, description="Requests from one address, those that wait included."),
    ] = 32
    max_duration_s: Annotated[float, Meta(gt=0, le=3_600, description="Longest answer, s.")] = 600.0
    models: Annotated[
        tuple[str, ...],
        Meta(description="Further names of the model, for clients that ask for one of theirs."),
    ] = ()


class PresetsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Ready-made sessions for callers."""

    dir: Annotated[
        str,
        Meta(
            max_length=4096,
            description="Folder of your own presets, NAME.toml; read again when a file changes.",
        ),
    ] = ""


class DataConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """What is kept on disk."""

    dir: Annotated[
        str,
        Meta(
            max_length=4096,
            description="Folder of what is kept, voices for one; empty: the user's own.",
        ),
    ] = ""


class RecordingsConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Calls that are kept: both sides' sound and the words. Callers are told."""

    enabled: Annotated[
        bool, Meta(description="Record every call; the law may ask for more than telling callers.")
    ] = False
    pictures: Annotated[
        bool,
        Meta(
            description="Keep a small picture of the camera, or of what is shared in its place, "
            "every few seconds, too."
        ),
    ] = False
    max_mb: Annotated[
        int,
        Meta(
            ge=20,
            le=100_000_000,
            description="All recordings, MB; the oldest go. One has a quarter of it at most, or as "
            "many slots as all engines have share it; an hour of both sides takes about 290.",
        ),
    ] = 4_000
    max_days: Annotated[
        float, Meta(gt=0, le=36_500, description="A recording is deleted after so many days.")
    ] = 30.0


UploadPolicy = Literal["user", "admin", "nobody"]


class VoicesConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Voices that callers bring."""

    upload: Annotated[
        UploadPolicy,
        Meta(description="Who may upload one: every key, those of administrators, or nobody."),
    ] = "user"
    max_count: Annotated[int, Meta(ge=0, le=1_000, description="Voices kept at most.")] = 64
    per_minute: Annotated[
        int, Meta(ge=1, le=1_000, description="Uploads a minute from one key or address.")
    ] = 6


class LiveRulesConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Sessions of OpenAI Live."""

    delegate_when_said: Annotated[
        tuple[Annotated[str, Meta(min_length=3, max_length=128, pattern=HAS_WORDS)], ...],
        Meta(
            max_length=32,
            description="Words by which a model that cannot delegate itself hands the client a "
            'task as it says them, e.g. "let me check".',
        ),
    ] = ()


class LogConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Logging. INFO never holds keys, speech or SDP."""

    level: Annotated[LogLevel, Meta(description="Least severe lines written.")] = "warning"
    file: Annotated[str, Meta(description="Also append to this file; empty: terminal only.")] = ""
    max_mb: Annotated[
        int,
        Meta(
            ge=0,
            le=100_000,
            description="At this size, MB, the log file becomes FILE.1 and a new one is begun; "
            "0: never.",
        ),
    ] = 100


class Config(Struct, frozen=True, forbid_unknown_fields=True):
    """The whole tree."""

    server: ServerConfig = ServerConfig()
    tls: TlsConfig = TlsConfig()
    auth: AuthConfig = AuthConfig()
    engine: EnginesConfig = EnginesConfig()
    builtin: BuiltinConfig = BuiltinConfig()
    minicpmo: MiniCpmoConfig = MiniCpmoConfig()
    delegate: DelegateConfig = DelegateConfig()
    media: MediaConfig = MediaConfig()
    calls: CallsConfig = CallsConfig()
    chat: ChatConfig = ChatConfig()
    presets: PresetsConfig = PresetsConfig()
    data: DataConfig = DataConfig()
    voices: VoicesConfig = VoicesConfig()
    recordings: RecordingsConfig = RecordingsConfig()
    live: LiveRulesConfig = LiveRulesConfig()
    log: LogConfig = LogConfig()

    @property
    def on_loopback(self) -> bool:
        return self.server.host in LOOPBACK_HOSTS or self.server.host.startswith("127.")

    @property
    def uses_tls(self) -> bool:
        return self.tls.mode == "on" or (self.tls.mode == "auto" and not self.on_loopback)

    @property
    def needs_key(self) -> bool:
        return bool(self.auth.key) or not self.on_loopback or bool(self.server.trusted_proxies)


SECRETS = frozenset(
    {
        *("auth.key", "builtin.chat.api_key", "minicpmo.transcription.api_key"),
        "delegate.chat.api_key",
        *("media.turn_password", "media.turn_secret"),
    }
)
