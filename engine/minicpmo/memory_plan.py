"""How many sessions fit into the memory of a GPU."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields
from typing import NamedTuple

import torch

from engine.base import EngineError
from engine.config import KvCacheType
from engine.gpu.kv.cache import CacheSpec, NativeKV
from engine.gpu.memory import GIB, left, unused
from engine.minicpmo.checkpoint import OmniModel
from engine.minicpmo.llm.rows import CACHES

MIB = 1 << 20
LEAST_RESERVE, RESERVE_PER_SLOT, MOST_RESERVE = 768 * MIB, 224 * MIB, 5 * GIB
"""Kept free for what a step needs in between, for graphs and libraries: their shapes grow with the
slots, up to those that a step takes at most."""
LITTLE_BYTES, LITTLE_PER_SLOT, MOST_LITTLE = 192 * MIB, 64 * MIB, GIB
"""With less than this left after warm-up a step may fail."""
SAMPLING_COPIES = 8
"""Of a row's logits, float32: the newest ones, and what choosing a token makes of them."""
CONTEXT_STEP = 64
LEAST_CONTEXT = 256


@dataclass(frozen=True)
class SlotBytes:
    """What a slot takes on the device, in bytes."""

    thinking: int
    """Keys and values of the language model."""
    hearing: int
    choosing: int
    speech_codes: int
    sound: int
    """Flow and vocoder."""

    @property
    def total(self) -> int:
        return sum(astuple(self))

    def __str__(self) -> str:
        parts = (
            f"{field.name.replace('_', ' ')} {_gib(getattr(self, field.name))}"
            for field in fields(self)
        )
        return f"{_gib(self.total)} GiB ({', '.join(parts)})"


def slot_bytes(
    model: OmniModel,
    *,
    max_context: int,
    speech_context: int,
    max_prompt: int,
    kv_cache: KvCacheType = "auto",
) -> SlotBytes:
    """`max_context` and `speech_context`: positions that a slot holds; `max_prompt`: mel frames of
    the longest voice."""
    return bytes_of_slot(
        Caching(
            model.llm.cache_spec(max_context),
            model.whisper.cache_spec(),
            model.speech.cache_spec(speech_context),
            model.config.llm.vocab_size,
            model.code2wav.bytes_per_slot(max_prompt) if model.code2wav else 0,
        ),
        kv_cache,
    )


class Caching(NamedTuple):
    """What a slot caches of each network."""

    llm: CacheSpec
    whisper: CacheSpec
    speech: CacheSpec
    vocabulary: int
    sound: int
    """Bytes of flow and vocoder."""


def bytes_of_slot(caching: Caching, kv_cache: KvCacheType = "auto") -> SlotBytes:
    return SlotBytes(
        thinking=CACHES[kv_cache].bytes_per_slot(caching.llm),
        hearing=NativeKV.bytes_per_slot(caching.whisper),
        choosing=SAMPLING_COPIES * 4 * caching.vocabulary,
        speech_codes=NativeKV.bytes_per_slot(caching.speech),
        sound=caching.sound,
    )


def reserve(slots: int) -> int:
    """Bytes that are kept free beside the caches of so many slots."""
    return min(MOST_RESERVE, LEAST_RESERVE + slots * RESERVE_PER_SLOT)


def fitting(free: int, slot: SlotBytes) -> int:
    """Slots that fit into `free` bytes, with what is kept beside them."""
    # Caches of sound have one more row, which takes the padding.
    room = free - slot.sound
    many = max(0, (room - MOST_RESERVE) // slot.total)
    few = max(0, (room - LEAST_RESERVE) // (slot.total + RESERVE_PER_SLOT))
    return max(many, few if reserve(few) < MOST_RESERVE else 0)


@dataclass(frozen=True)
class MemoryPlan:
    """The slots of an engine, and why so many."""

    slots: int
    fitting: int
    free: int
    """Bytes that were free before."""
    slot: SlotBytes

    def __str__(self) -> str:
        return (
            f"{_gib(self.free)} GiB of GPU memory are free, "
            f"{_gib(reserve(self.slots))} are reserved; a slot takes {self.slot}: "
            f"{self.fitting} fit, {self.slots} are offered"
        )


def plan(wanted: int, free: int, slot: SlotBytes, max_context: int) -> MemoryPlan:
    """At most `wanted` slots, as many as fit into `free` bytes.

    Raises `EngineError` with the numbers and what to change if not even one fits.
    """
    most = fitting(free, slot)
    if most:
        return MemoryPlan(min(wanted, most), most, free, slot)
    position = max(1, slot.thinking // (max_context + 1))
    spare = free - reserve(1) - slot.sound - (slot.total - slot.thinking)
    possible = (spare // position - 1) // CONTEXT_STEP * CONTEXT_STEP
    advice = (
        f"set minicpmo.max_context to {possible} or less (it is {max_context})"
        if possible >= LEAST_CONTEXT
        else "free memory on this GPU, take fewer bits in minicpmo.weights_dtype (fp8, "
        "int4), or take a larger one"
    )
    raise EngineError(
        f"not one session fits into the GPU's memory: {_gib(free)} GiB are free beside the "
        f"weights, {_gib(reserve(1))} GiB are reserved for the work itself, and a slot takes "
        f"{slot}; {advice}"
    )


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU, what this process has cached without need included; None for a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    return left(device)


def after_warm_up(device: torch.device, slots: int) -> tuple[str, bool]:
    """What is left for steps once everything is in place, for people; and whether it is enough."""
    free = unused(device)
    if free >= min(MOST_LITTLE, LITTLE_BYTES + slots * LITTLE_PER_SLOT):
        return f"{_gib(free)} GiB of GPU memory are left", True
    return (
        f"only {_gib(free)} GiB of GPU memory are left: set engine.slots or "
        "minicpmo.max_context lower",
        False,
    )


def _gib(count: int) -> str:
    return f"{count / GIB:.2f}"
