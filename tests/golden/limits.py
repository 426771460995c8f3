"""How far a replay may be from a golden set, on a CPU, on CUDA in float32 and in bfloat16."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

CUDA_SCALE = 5.0
"""CUDA in float32 sums in other orders than a CPU. The limits of a CPU are ten times and more above
what one shows, except for F0, where they are two float32 steps; all of them grow alike."""

NARROW_SCALE = 3.0
"""What the README of the sets suggests over the deviations that it lists for bfloat16."""

NARROW = {
    r"audio\d+\.embed": 0.00388,
    r"audio\d+\.enc": 0.00513,
    r"audio_embed": 0.00426,
    r"audio_enc": 0.0052,
    r"audio_proj": 0.00696,
    r"hidden": 0.0105,
    r"image\d+\.embed": 0.00594,
    r"image\d+\.vit": 0.00747,
    # Of pictures and sound the worse.
    r"inputs_embeds": 0.00594,
    r"keys_\w+": 0.0204,
    # Logits after the rules are scaled, nothing else.
    r"(proc_)?top_values": 0.0072,
    r"tts_cond": 0.00513,
    r"tts_hidden": 0.0121,
    r"tts_top_values": 0.00463,
}
"""Relative RMS deviations in bfloat16 by the end of a key, from the README of set `a`."""

FIXED = (r"\.resized",)
"""Steps of 8 bits are the same everywhere."""


@dataclass(frozen=True)
class Limits:
    """Turns the limit for float32 on a CPU into the one for this run."""

    scale: float = 1.0
    by_key: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, *, on_cpu: bool, narrow: bool) -> Limits:
        scale = 1.0 if on_cpu else CUDA_SCALE
        table = {key: NARROW_SCALE * value for key, value in NARROW.items()}
        return cls(scale, table if narrow else {})

    @property
    def keeps_ranks(self) -> bool:
        """Whether logits that differ by less than a limit are in the same order, but for ties."""
        return not self.by_key

    def limit(self, key: str, usual: float) -> float:
        """The limit for a key whose limit in float32 on a CPU is `usual`."""
        for end, value in self.by_key.items():
            if re.search(rf"(^|[./]){end}$", key):
                return value
        fixed = any(re.search(end + "$", key) for end in FIXED)
        return usual if fixed else usual * self.scale
