"""What an engine process is told at its start; built by the server from the configuration tree."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

EngineKind = Literal["builtin", "echo", "minicpmo", "scripted"]
KvCacheType = Literal["auto", "fp8"]
WeightsType = Literal["auto", "fp8", "int4"]
SpeechKind = Literal["auto", "basic"]
LogLevel = Literal["debug", "info", "warning", "error"]
HAS_WORDS = r"\w"
"""Matches what is more than signs."""


class ChatEndpoint(Struct, frozen=True, forbid_unknown_fields=True):
    """An OpenAI-compatible chat endpoint."""

    url: Annotated[
        str, Meta(max_length=2048, description="Base URL ending in /v1; empty: none is asked.")
    ] = ""
    model: Annotated[
        str, Meta(max_length=256, description="Model name sent with each request.")
    ] = ""
    api_key: Annotated[str, Meta(max_length=512, description="Bearer key; secret.")] = ""
    timeout_s: Annotated[
        float,
        Meta(
            gt=0,
            le=120,
            description="Longest wait for the first word and between words, s; signs of life "
            "without words do not count.",
        ),
    ] = 10.0
    max_requests: Annotated[
        int,
        Meta(
            ge=1,
            le=1024,
            description="Requests at once; as many wait, and of more the oldest is given up.",
        ),
    ] = 32
    max_tokens: Annotated[int, Meta(ge=1, le=8192, description="Longest answer, tokens.")] = 300
    send_picture: Annotated[
        bool, Meta(description="Send the newest camera picture with each request.")
    ] = True


class BuiltinConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The CPU demo engine."""

    speech: Annotated[
        SpeechKind,
        Meta(
            description="auto: the neural voice and recogniser of omnicall[voice] where they are "
            "installed; basic: espeak-ng and pocketsphinx."
        ),
    ] = "auto"
    recognisers: Annotated[int, Meta(ge=1, le=16, description="Forked recogniser processes.")] = 2
    voice: Annotated[
        str,
        Meta(
            max_length=64,
            description="A Piper voice's name, or an espeak-ng voice, e.g. en-us, en-gb, cmn; "
            "empty: the best one there is.",
        ),
    ] = ""
    voice_dir: Annotated[
        str, Meta(description="Folder of your own Piper voices: NAME.onnx with NAME.onnx.json.")
    ] = ""
    recogniser_dir: Annotated[
        str,
        Meta(
            description="Folder of your own Whisper models in CTranslate2's form: one, or a folder "
            "for each."
        ),
    ] = ""
    languages: Annotated[
        tuple[Annotated[str, Meta(min_length=2, max_length=3)], ...],
        Meta(
            min_length=1,
            max_length=16,
            description="Languages to be understood, of those that the recognisers know.",
        ),
    ] = ("en", "zh")
    rate_wpm: Annotated[int, Meta(ge=80, le=450, description="Speaking rate, words a minute.")] = (
        165
    )
    chat: ChatEndpoint = ChatEndpoint()


class TranscriptionConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """Who writes down what callers say, where the model does not; nobody unless one is named."""

    builtin: Annotated[
        bool,
        Meta(
            description="The recogniser of the built-in engine, as `builtin` sets it: that of "
            "omnicall[voice] where it is installed, else one for clear English."
        ),
    ] = False
    url: Annotated[
        str,
        Meta(
            max_length=2048,
            description="An OpenAI-compatible endpoint with /audio/transcriptions: its base URL, "
            "ending in /v1.",
        ),
    ] = ""
    model: Annotated[
        str, Meta(max_length=256, description="Model name sent with each request.")
    ] = ""
    api_key: Annotated[str, Meta(max_length=512, description="Bearer key; secret.")] = ""
    timeout_s: Annotated[
        float, Meta(gt=0, le=120, description="Longest wait for the words of an utterance, s.")
    ] = 10.0
    max_requests: Annotated[int, Meta(ge=1, le=1024, description="Requests at once.")] = 16


class MiniCpmoConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """The native MiniCPM-o 4.5 engine."""

    device: Annotated[
        Literal["auto", "cuda", "cpu"], Meta(description="auto: the GPU if there is one.")
    ] = "auto"
    max_context: Annotated[
        int, Meta(ge=256, le=40_960, description="Positions a session may remember.")
    ] = 8192
    kv_cache_dtype: Annotated[
        KvCacheType,
        Meta(
            description="Format of what a session remembers; auto: the model's, fp8: 8 bits, "
            "half the memory and a little less exact."
        ),
    ] = "auto"
    weights_dtype: Annotated[
        WeightsType,
        Meta(
            description="Format of the language model's layers; auto: as stored, fp8: 8 bits, half "
            "the memory and faster (compute capability 8.9 or more), int4: 4 bits, a quarter of "
            "the memory and less exact."
        ),
    ] = "auto"
    assets: Annotated[
        str,
        Meta(
            max_length=4096,
            description="Another folder of the model, whose assets serve where engine.model has "
            "none, as a published 4-bit folder.",
        ),
    ] = ""
    ingest: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="Hear and keep what callers send in a process of its own, so that the "
            "model's has only the model to run; auto: with a GPU."
        ),
    ] = "auto"
    speech_context: Annotated[
        int,
        Meta(ge=256, le=4096, description="Positions of a spoken turn; beyond it the oldest go."),
    ] = 2048
    first_chunk_codes: Annotated[
        int,
        Meta(
            ge=0,
            le=19,
            description="Codes of a turn's early first part, 5 to 19; 0: none, as published.",
        ),
    ] = 9
    voice: Annotated[
        str,
        Meta(
            description="Default voice: a name or a recording's path; empty: the published one, "
            "HT_ref_audio, or the first."
        ),
    ] = ""
    voices: Annotated[
        tuple[str, ...],
        Meta(
            max_length=64,
            description="Recordings of the model's folder that callers may choose, by name; those "
            "named ref_audio always are. Ask whose voice it is first.",
        ),
    ] = ()
    voice_seconds: Annotated[
        float,
        Meta(
            ge=3,
            le=20,
            description="Of an uploaded recording, or one that no setting names, how much the "
            "voice is made from, s; what a session takes of the GPU's memory grows with it.",
        ),
    ] = 10.0
    flow_steps: Annotated[
        int,
        Meta(
            ge=1,
            le=16,
            description="Steps of the speech flow: 5 as the published server takes, 10 as the "
            "released config.json says, finer and nearly twice as slow.",
        ),
    ] = 5
    transcription: TranscriptionConfig = TranscriptionConfig()


class DelegateConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """A text model beside one that speaks in full duplex and calls no functions there itself."""

    when_said: Annotated[
        tuple[Annotated[str, Meta(min_length=2, max_length=128, pattern=HAS_WORDS)], ...],
        Meta(
            max_length=32,
            description="Words by which the speaking model hands a task over, once it has ended "
            "what it says; it is told the first of them.",
        ),
    ] = ("let me check", "让我查一下")
    chat: ChatEndpoint = ChatEndpoint()


class EngineConfig(Struct, frozen=True, forbid_unknown_fields=True):
    """One engine process. No field of it changes while the process lives."""

    kind: EngineKind = "builtin"
    name: str = "engine-0"
    endpoint: str = ""
    """Where to listen for media workers, `ipc://...` or `tcp://...`."""
    control: str = ""
    """The supervisor's endpoint."""
    secret: str = ""
    """Proves to the supervisor that this process is the child it started."""
    slots: Annotated[int, Meta(ge=1, le=1024)] = 8
    gpu_memory_gib: Annotated[float, Meta(ge=0)] = 0.0
    """What the native engine takes of its GPU at most; 0: as much as is free."""
    gpu: Annotated[int, Meta(ge=0, le=63)] | None = None
    """Which GPU the native engine takes, among those CUDA shows; None: the first."""
    model: str = ""
    script: str = ""
    voice_cache: str = ""
    """Folder of what was prepared of uploaded voices; empty: nothing is kept."""
    builtin: BuiltinConfig = BuiltinConfig()
    minicpmo: MiniCpmoConfig = MiniCpmoConfig()
    delegate: DelegateConfig = DelegateConfig()
    log_level: LogLevel = "info"
    log_file: str = ""
    log_max_mb: Annotated[int, Meta(ge=0)] = 0
