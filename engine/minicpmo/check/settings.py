"""Every value of the configuration that the engine takes, beside the released one."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from engine.minicpmo.check.report import CheckSection
from engine.minicpmo.models.config import (
    AudioConfig,
    LlmConfig,
    OmniConfig,
    PictureConfig,
    ResamplerConfig,
    TtsConfig,
    VisionConfig,
)

PUBLISHED_SERVER_STEPS = 5

RELEASED: dict[str, Any] = {
    "llm": LlmConfig(4096, 36, 32, 8, 128, 12_288, 151_748, 1e-6, 1e6, 40_960, False),
    "vision": VisionConfig(1152, 4304, 27, 16, 14, 70, 1e-6),
    "resampler": ResamplerConfig(64, 4096, 32, 1152),
    "picture": PictureConfig(14, 448, 9, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "audio": AudioConfig(1024, 24, 16, 4096, 80, 1500, 5, 1.0),
    "tts": TtsConfig(
        *(768, 20, 12, 12, 64, 3072, 4096, 6562, 152_064, 1, 4096, 151_687, 151_692, True, 10)
    ),
}
"""Each part of the released configuration, as its JSON files say it."""


def check_settings(config: OmniConfig, steps: int) -> CheckSection:
    """`steps`: of the speech flow, as the engine is set."""
    section = CheckSection("configuration")
    differing = [
        f"{part}.{field.name} = {ours} (released {published})"
        for part, theirs in RELEASED.items()
        for field in fields(theirs)
        if (ours := getattr(getattr(config, part), field.name))
        != (published := getattr(theirs, field.name))
    ]
    compared = sum(len(fields(part)) for part in RELEASED.values())
    section.facts |= {"compared": compared, "differing": len(differing)}
    if differing:
        section.note(f"{len(differing)} of {compared} values are not the released ones:")
        section.table(differing)
    else:
        section.ok(f"all {compared} values that the engine takes are the released ones")
    if config.assumed:
        section.note("values that no file gives, and what is taken:")
        section.table(config.assumed)
    section.facts["assumed"] = len(config.assumed)
    _steps(config.tts.flow_steps, steps, section)
    return section


def _steps(published: int | None, steps: int, section: CheckSection) -> None:
    section.facts["flow_steps"] = [steps, published]
    if steps == published:
        section.ok(f"the speech flow takes the {steps} steps that config.json says")
        return
    whose = ", as the published server" if steps == PUBLISHED_SERVER_STEPS else ""
    says = "says nothing" if published is None else f"says {published}"
    section.note(f"the speech flow takes {steps} steps{whose}; config.json {says}")
