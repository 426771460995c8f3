"""One folder of golden data: a tiny checkpoint, stored tensors and the trace of all decisions."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from engine.gpu.weights import Checkpoint
from engine.minicpmo.llm.tokenizer import OmniTokenizer
from engine.minicpmo.models.config import OmniConfig
from tests.golden.place import Place

PCM_SCALE = 32768.0

# Fields of the trace that describe a run instead of being its result.
GIVEN_FIELDS = frozenset(
    "what kind unit inputs messages role content generate max_new_tokens force_listen_count window "
    "token2wav_steps max_new_token feeds rows_in eos_forced_at".split()
)


class GoldenSet:
    """Tensors by `file/key`, e.g. `duplex/u01.mel`; trace facts by `trace/duplex.u01.text`."""

    def __init__(self, path: str | Path, place: Place | None = None) -> None:
        self.path = Path(path)
        self.place = place or Place()
        self.trace: dict[str, Any] = json.loads((self.path / "trace.json").read_text())
        self._files: dict[str, Any] = {}
        for file in sorted((self.path / "tensors").glob("*.safetensors")):
            self._files[file.stem] = safe_open(str(file), framework="pt", device="cpu")

    @cached_property
    def config(self) -> OmniConfig:
        return OmniConfig.load(self.path)

    @cached_property
    def tokens(self) -> OmniTokenizer:
        return OmniTokenizer(self.path)

    def checkpoint(self) -> Checkpoint:
        return Checkpoint(self.path)

    @property
    def token2wav(self) -> Path:
        return self.path / "assets" / "token2wav"

    def keys(self, prefix: str = "") -> list[str]:
        """Return the names of all stored tensors, inputs included, in the files' order."""
        names = [f"{stem}/{key}" for stem, file in self._files.items() for key in file.keys()]
        return [name for name in names if name.startswith(prefix)]

    def __contains__(self, key: str) -> bool:
        stem, _, name = key.partition("/")
        return stem in self._files and name in self._files[stem].keys()

    def tensor(self, key: str) -> Tensor:
        """Return a stored tensor on the device, in the type that it is stored in."""
        return self.host(key).to(self.place.device)

    def host(self, key: str) -> Tensor:
        """Return a stored tensor on the CPU."""
        stem, _, name = key.partition("/")
        tensor: Tensor = self._files[stem].get_tensor(name)
        return tensor

    def fact(self, key: str) -> Any:
        """Return a fact of the trace by its name, `trace/PART.NAME...`; None if there is none."""
        part, *names = key.removeprefix("trace/").split(".")
        found: Any = self.trace.get(part)
        for name in names:
            if not isinstance(found, dict):
                return None
            if name not in found and "units" in found:
                units = {f"u{unit['unit']:02d}": unit for unit in found["units"]}
                found = units.get(name)
            else:
                found = found.get(name)
        return found

    def stores_the_same(self, key: str, other: str) -> bool:
        """Whether two names stand for equal stored values."""
        if key.startswith("trace/"):
            return self.fact(key) is not None and self.fact(key) == self.fact(other)
        return key in self and other in self and torch.equal(self.host(key), self.host(other))

    def sound(self, name: str) -> Tensor:
        """Return an input sound as float32 [N] in [-1, 1), 16 kHz; `name` as in the trace."""
        return self.host(f"inputs/{name}").to(torch.float32) / PCM_SCALE

    def picture(self, name: str) -> Tensor:
        """Return an input picture, uint8 [height, width, 3]."""
        return self.host(f"inputs/{name}")

    @property
    def units(self) -> list[dict[str, Any]]:
        units: list[dict[str, Any]] = self.trace["duplex"]["units"]
        return units

    def unit_sound(self, unit: dict[str, Any]) -> Tensor | None:
        """Return the 16 kHz samples that arrived in a duplex unit, None for a silent link."""
        span = unit["inputs"].get("audio")
        return None if span is None else self.sound("duplex_audio_i16")[span[0] : span[1]]

    def expected(self) -> list[str]:
        """Return everything that a replay has to compare or to list as given."""
        tensors = [key for key in self.keys() if not key.startswith("inputs/")]
        return tensors + self.trace_keys()

    def trace_keys(self) -> list[str]:
        """Return the names of the trace's results; a list is one fact, a mapping is several."""
        names: list[str] = []
        for part in ("duplex", "duplex_tts_reset", "chat", "half_duplex", "vocoder_original"):
            for key, value in self.trace.get(part, {}).items():
                if key == "units":
                    for unit in value:
                        names += _leaves(f"{part}.u{unit['unit']:02d}", unit)
                else:
                    names += _leaves(f"{part}.{key}", value)
        names += _leaves("set.special_ids", self.trace["set"].get("special_ids", {}))
        names += ["set.forbidden_ids"] if "forbidden_ids" in self.trace["set"] else []
        return [f"trace/{name}" for name in names]


def _leaves(name: str, value: Any) -> list[str]:
    # `audio` is a report of the encoder in a unit, and a mere switch in an answer.
    if name.rpartition(".")[2] in GIVEN_FIELDS or (
        name.endswith(".audio") and value in (True, False)
    ):
        return []
    if isinstance(value, dict) and value:
        return [leaf for key, part in value.items() for leaf in _leaves(f"{name}.{key}", part)]
    return [name]
