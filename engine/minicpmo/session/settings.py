"""What a session's settings mean to this model, and which of them it knows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from engine.ipc.protocol import SessionConfig
from engine.ipc.session_config import unhonoured
from engine.minicpmo.llm.context_window import WindowSettings
from engine.minicpmo.llm.duplex_state import DuplexSettings
from engine.minicpmo.llm.reply import CHUNK_TOKENS, ReplySettings
from engine.minicpmo.llm.sampler import DuplexSampling, TurnSampling
from engine.minicpmo.models.unit import UnitSpec

DEFAULT_REPLY_TOKENS = 256
DEFAULT_CALL_TOKENS = 512
"""Of a reply that may call functions, whose arguments are part of it."""

OPTIONS = {
    "force_listen_count": int,
    "listen_bias": float,
    "window": str,
    "thinking": bool,
    "language": str,
    "prompt_voice": str,
}
"""Options that this engine knows, beside the settings that every engine has."""

HONOURS = (
    "mode",
    "instructions",
    "voice",
    "modalities",
    "turn_detection",
    "max_image_slices",
    "context_policy",
    "retention",
    "options",
    "after",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "length_penalty",
    "max_output_tokens",
    "greedy",
    "seed",
)
"""The settings that have an effect."""


def option(config: SessionConfig, name: str, default: Any) -> Any:
    """Return an option of the right type, else the default."""
    value = config.options.get(name, default)
    kind = OPTIONS[name]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    return value if isinstance(value, kind) else default


def duplex_settings(config: SessionConfig, unit: UnitSpec) -> DuplexSettings:
    """Return a session's settings for full duplex; raises `ValueError` by name."""
    wanted = config.sampling
    sampling = replace(
        DuplexSampling(greedy=wanted.greedy, listen_bias=option(config, "listen_bias", 0.0)),
        **_chosen_sampling(config),
    )
    settings = DuplexSettings(
        sampling=sampling,
        max_tokens=unit.max_tokens,
        max_chars=unit.max_chars,
        context_policy=config.context_policy,
        retention=config.retention,
        window=WindowSettings(option(config, "window", "off")),
    )
    return replace(
        settings,
        force_listen_count=option(config, "force_listen_count", settings.force_listen_count),
    )


def reply_settings(
    config: SessionConfig,
    *,
    speaks: bool,
    aside: int = 0,
    max_tokens: int | None = None,
    may_call: bool = False,
    call_opening: tuple[int, ...] = (),
    says: tuple[int, ...] = (),
) -> ReplySettings:
    """Return a session's settings for a reply in half duplex and turn-based mode.

    `speaks`: it is to be heard. `max_tokens` unless None: of this reply. `aside`: positions of
    what holds for it only. `may_call`, `call_opening`, `says`: see `ReplySettings`.
    Raises `ValueError` by name.
    """
    wanted = config.sampling
    sampling = replace(
        TurnSampling(greedy=wanted.greedy),
        **_chosen_sampling(config),
    )
    most = max_tokens or wanted.max_output_tokens
    if says:
        most = len(says) + 1
    elif not most:
        most = DEFAULT_CALL_TOKENS if may_call else DEFAULT_REPLY_TOKENS
    return ReplySettings(
        sampling=sampling,
        max_new_tokens=most,
        chunk_tokens=CHUNK_TOKENS if speaks else 1,
        speech=speaks,
        thinking=option(config, "thinking", False) and not says,
        skip_special=True,
        aside=aside,
        may_call=may_call,
        call_opening=call_opening,
        says=says,
    )


def _chosen_sampling(config: SessionConfig) -> dict[str, Any]:
    """Return the client's values of the parameters that all modes have."""
    wanted = config.sampling
    chosen = {
        "temperature": wanted.temperature,
        "top_k": wanted.top_k,
        "top_p": wanted.top_p,
        "repetition_penalty": wanted.repetition_penalty,
        "length_penalty": wanted.length_penalty,
    }
    return {name: value for name, value in chosen.items() if value is not None}


def unused(config: SessionConfig) -> Iterator[tuple[str, str]]:
    """Yield code and words of a warning for each setting that changes nothing."""
    for name in unhonoured(config, HONOURS):
        yield "unused_setting", f"{name}: has no effect with this model"
    for name in config.options:
        if name not in OPTIONS:
            known = ", ".join(OPTIONS)
            yield "unknown_option", f"engine option {name!r} is not one of {known}"
