"""The voices of a folder: which are offered, how long they are, and the room that a slot needs."""

from __future__ import annotations

from pathlib import Path

from engine.config import MiniCpmoConfig
from engine.minicpmo.check.report import CheckSection
from engine.minicpmo.checkpoint import ASSETS, VOICES, recordings
from engine.minicpmo.models.voice.preparation import (
    MAX_SECONDS,
    Preparer,
    VoiceError,
    VoiceFeatures,
    check_recording,
    read_recording,
)
from engine.minicpmo.speech.voices import (
    LEAST_PROMPT,
    PROMPT_HZ,
    default_of,
    named_voices,
    not_offered,
)


def check_voices(folder: Path, settings: MiniCpmoConfig) -> tuple[CheckSection, int]:
    """Also the frames of the longest voice, for which every slot has room."""
    section = CheckSection("voices")
    prepared = _prepared(folder / VOICES, section)
    paths = {path.stem: path for path in recordings(folder)}
    wanted, chosen = named_voices(paths, settings.voice, settings.voices)
    left_out = not_offered(paths, chosen.union(prepared))
    can_prepare = not Preparer(folder / ASSETS).missing
    seconds: dict[str, float] = {}
    for name, path in paths.items():
        if name in left_out or name in prepared or not can_prepare:
            continue
        try:
            recording = read_recording(path.read_bytes())
            check_recording(recording)
            seconds[name] = recording.seconds
        except VoiceError as error:
            section.note(f"{path.name} cannot be a voice: {error}")
    names = sorted({*prepared, *seconds})
    for name in sorted(chosen.difference(names)):
        section.fault(f"there is no voice {name!r}, which the settings name")
    default = default_of(names, wanted)
    whole = {default, *chosen}
    frames = dict(prepared)
    for name, length in seconds.items():
        kept = length if name in whole else min(length, settings.voice_seconds)
        frames[name] = round(PROMPT_HZ * kept)
    _tell(section, names, default, frames, left_out)
    longest = max(frames.values(), default=LEAST_PROMPT)
    if can_prepare:
        longest = max(longest, round(PROMPT_HZ * settings.voice_seconds))
    section.facts |= {
        "default": default or "none",
        "offered": names,
        "not_offered": left_out,
        "frames": longest,
    }
    return section, longest


def _tell(
    section: CheckSection,
    names: list[str],
    default: str,
    frames: dict[str, int],
    left_out: list[str],
) -> None:
    if not names:
        section.fault("no voice: it would answer in text only")
    for name in names:
        marked = ", the default" if name == default else ""
        section.ok(f"{name}: {frames[name] / PROMPT_HZ:.1f} s{marked}")
    if left_out:
        section.note(
            f"not offered unless minicpmo.voices names them: {', '.join(left_out)} "
            "(ask whose voices they are)"
        )


def _prepared(folder: Path, section: CheckSection) -> dict[str, int]:
    """Mel frames of prepared voices, by name."""
    found: dict[str, int] = {}
    for path in sorted(folder.glob("*.safetensors")):
        try:
            found[path.stem] = len(VoiceFeatures.from_bytes(path.read_bytes()).mel)
        except VoiceError as error:
            section.fault(f"{path.name}: {error}")
            continue
        if found[path.stem] > PROMPT_HZ * MAX_SECONDS:
            section.note(f"{path.name} is longer than {MAX_SECONDS:g} s")
    return found
