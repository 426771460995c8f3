"""How the numbers of a checkpoint folder are stored, and which formats cannot be read."""

from __future__ import annotations

from pathlib import Path

from engine.minicpmo.models.config import ConfigError, read_json

SIDE_FILES = ("quantize_config.json", "quant_config.json")
"""Where quantising programs put what `quantization_config` of `config.json` says."""
TAKEN = "take the bfloat16 folder of MiniCPM-o 4.5 (safetensors, about 19 GB)"


def refuse_unread(folder: Path) -> None:
    """Raise `ConfigError` where the folder's numbers are in a format that is not read."""
    told = read_json(folder / "config.json", optional=True).get("quantization_config")
    where = "config.json: quantization_config"
    for name in SIDE_FILES:
        if not told and (folder / name).is_file():
            told, where = read_json(folder / name), name
    if told:
        method = told.get("quant_method", "unnamed") if isinstance(told, dict) else told
        raise ConfigError(f"{where}: weights quantised by {method!r} cannot be read; {TAKEN}")
    if any(folder.glob("*.gguf")) and not any(folder.glob("*.safetensors")):
        raise ConfigError(f"{folder} holds GGUF files, which cannot be read; {TAKEN}")
