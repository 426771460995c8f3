"""How many sessions fit into the memory of a GPU."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import torch

from engine.base import EngineError
from engine.config import KvCacheType
from engine.gpu.kv.native import NativeKV
from engine.minicpmo.checkpoint import OmniModel
from engine.minicpmo.llm.rows import CACHES

GIB = 1 << 30
RESERVE_BYTES = 5 * GIB
"""Kept free for what a step needs in between, for graphs, libraries and the context."""
LITTLE_BYTES = GIB
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
    llm = model.config.llm
    return SlotBytes(
        thinking=CACHES[kv_cache].bytes_per_slot(model.llm.cache_spec(max_context)),
        hearing=NativeKV.bytes_per_slot(model.whisper.cache_spec()),
        choosing=SAMPLING_COPIES * 4 * llm.vocab_size,
        speech_codes=NativeKV.bytes_per_slot(model.speech.cache_spec(speech_context)),
        sound=model.code2wav.bytes_per_slot(max_prompt) if model.code2wav else 0,
    )


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
            f"{_gib(self.free)} GiB of GPU memory are free, {_gib(RESERVE_BYTES)} are reserved; "
            f"a slot takes {self.slot}: {self.fitting} fit, {self.slots} are offered"
        )


def plan(wanted: int, free: int, slot: SlotBytes, max_context: int) -> MemoryPlan:
    """At most `wanted` slots, as many as fit into `free` bytes.

    Raises `EngineError` with the numbers and what to change if not even one fits.
    """
    # Caches of sound have one more row, which takes the padding.
    room = free - RESERVE_BYTES - slot.sound
    fitting = max(0, room // slot.total)
    if fitting:
        return MemoryPlan(min(wanted, fitting), fitting, free, slot)
    position = max(1, slot.thinking // (max_context + 1))
    spare = room - (slot.total - slot.thinking)
    possible = (spare // position - 1) // CONTEXT_STEP * CONTEXT_STEP
    advice = (
        f"set minicpmo.max_context to {possible} or less (it is {max_context})"
        if possible >= LEAST_CONTEXT
        else "free memory on this GPU or take a larger one"
    )
    raise EngineError(
        f"not one session fits into the GPU's memory: {_gib(free)} GiB are free beside the "
        f"weights, {_gib(RESERVE_BYTES)} GiB are reserved for the work itself, and a slot takes "
        f"{slot}; {advice}"
    )


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU, what this process has cached without need included; None for a CPU."""
    if device.type != "cuda":
        return None
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return free


def after_warm_up(device: torch.device) -> tuple[str, bool]:
    """What is left for steps once everything is in place, for people; and whether it is enough."""
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    if free >= LITTLE_BYTES:
        return f"{_gib(free)} GiB of GPU memory are left", True
    return (
        f"only {_gib(free)} GiB of GPU memory are left: set engine.slots or "
        "minicpmo.max_context lower",
        False,
    )


def _gib(count: int) -> str:
    return f"{count / GIB:.2f}"
