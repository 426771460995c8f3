"""How many sessions a GPU has memory for, by context and format.

Of the weights only sizes are read; the speech output, which is small, is loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import torch
from torch import nn

from engine.config import KvCacheType, MiniCpmoConfig
from engine.gpu.kernels.int4 import group_of
from engine.gpu.memory import GIB
from engine.gpu.weights import CheckpointError, empty
from engine.minicpmo.check.report import CheckSection
from engine.minicpmo.checkpoint import ASSETS, Senses
from engine.minicpmo.memory_plan import Caching, SlotBytes, bytes_of_slot, fitting
from engine.minicpmo.models.code2wav import Code2WavModel, load_code2wav
from engine.minicpmo.models.config import OmniConfig
from engine.minicpmo.models.config_reader import ConfigError
from engine.minicpmo.models.flow.state import FlowState
from engine.minicpmo.models.llm.qwen3 import Qwen3
from engine.minicpmo.models.stored_format import AwqFormat
from engine.minicpmo.models.talker.tts import SpeechDecoder

CARDS_GB = (12, 16, 24, 32, 48, 80)
"""What cards are sold as, where there is none to ask; each has about 3 % less."""
USABLE = 0.97
CONTEXT_GIB = 0.6
"""What CUDA and its libraries take for a process, before anything is loaded."""
CONTEXTS = (4096, 8192)
HALF = 2
SCALE_BYTES = 4
"""Of a group of weights in 4 bits, scale and zero; of an output of weights in 8 bits, its scale."""
_Format = Literal["bf16", "fp8", "int4"]


class _Model(NamedTuple):
    """What is counted: networks without values, but for the speech output."""

    llm: Qwen3
    senses: Senses
    speech: SpeechDecoder
    code2wav: Code2WavModel | None

    def weights(self, form: _Format, group: int = 0) -> int:
        """Bytes of all weights on a GPU; `group`: inputs to a scale in 4 bits, 0: as they are made
        here."""
        rest = sum(_values(part) for part in (self.llm, self.senses, self.speech))
        products = [
            module.weight
            for module in self.llm.model.layers.modules()
            if isinstance(module, nn.Linear)
        ]
        count = sum(weight.numel() for weight in products)
        size = HALF * count
        if form == "fp8":
            size = count + SCALE_BYTES * sum(len(weight) for weight in products)
        elif form == "int4":
            groups = sum(
                weight.numel() // (group or group_of(weight.shape[1])) for weight in products
            )
            size = count // 2 + SCALE_BYTES * groups
        sound = 0
        if self.code2wav is not None:
            # The flow is in float16 there, the vocoder in float32.
            sound = HALF * _values(self.code2wav.flow) + 4 * _values(self.code2wav.vocoder.hift)
        return size + HALF * (rest - count) + sound

    def slot(
        self, settings: MiniCpmoConfig, context: int, frames: int, kv: KvCacheType
    ) -> SlotBytes:
        sound = 0
        if self.code2wav is not None:
            flow = self.code2wav.flow
            sound = FlowState.bytes_per_slot(flow.config, flow.steps, frames, HALF)
            sound += self.code2wav.vocoder.new_state(0).nbytes()
        return bytes_of_slot(
            Caching(
                self.llm.cache_spec(context),
                self.senses.whisper.cache_spec(),
                self.speech.cache_spec(settings.speech_context),
                self.llm.config.vocab_size,
                sound,
            ),
            kv,
        )


def _values(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def check_fit(
    folder: Path,
    config: OmniConfig,
    settings: MiniCpmoConfig,
    frames: int,
    *,
    stored: AwqFormat | None,
    memory_gib: float = 0.0,
) -> CheckSection:
    """`frames`: of the longest voice; `stored`: how the folder has its weights in 4 bits;
    `memory_gib`: what an engine may take of its GPU, 0: all that is free."""
    section = CheckSection("memory")
    try:
        model = _model(folder, config, settings.flow_steps)
    except (CheckpointError, ConfigError) as error:
        section.fault(str(error))
        return section
    formats: list[_Format] = ["int4"] if stored is not None else ["bf16", "fp8", "int4"]
    group = stored.group if stored is not None else 0
    sizes = {name: model.weights(name, group) for name in formats}
    section.facts["weights_gib"] = {name: round(of / GIB, 2) for name, of in sizes.items()}
    told = ", ".join(f"{of / GIB:.2f} GiB in {name}" for name, of in sizes.items())
    section.ok(f"weights on a GPU: {told}")
    contexts = [c for c in CONTEXTS if c <= config.llm.max_position_embeddings] or [
        config.llm.max_position_embeddings
    ]
    slots = {
        (context, kv): model.slot(settings, context, frames, kv)
        for context in contexts
        for kv in get_args(KvCacheType)
    }
    section.ok(f"a session of {contexts[0]} positions takes {slots[contexts[0], 'auto']}")
    section.facts["slot_gib"] = {
        f"{context} {kv}": round(slot.total / GIB, 3) for (context, kv), slot in slots.items()
    }
    cards = _cards(memory_gib)
    header = "".join(f"{f'{name}, {context}':>13}" for name in formats for context in contexts)
    rows = [f"{'':24}{header}"]
    table: dict[str, dict[str, list[int]]] = {}
    for label, free in cards:
        cells = {
            f"{name} {context}": [
                fitting(int(free - sizes[name]), slots[context, kv]) for kv in get_args(KvCacheType)
            ]
            for name in formats
            for context in contexts
        }
        table[label] = cells
        rows.append(f"{label:<24}" + "".join(f"{_cell(found):>13}" for found in cells.values()))
    section.facts["sessions"] = table
    section.note("sessions by format and positions (with the cache in 8 bits):")
    section.table(rows)
    return section


def _cell(found: list[int]) -> str:
    plain, narrow = found
    return f"{plain} ({narrow})"


def _cards(memory_gib: float) -> Iterable[tuple[str, float]]:
    """Each GPU here with its free bytes, or the usual ones."""
    allowed = (memory_gib - CONTEXT_GIB) * GIB
    if torch.cuda.is_available():
        found = []
        for index in range(torch.cuda.device_count()):
            free, _ = torch.cuda.mem_get_info(index)
            label = f"{index}: {torch.cuda.get_device_name(index)}"[:23]
            found.append((label, min(free, allowed) if memory_gib else float(free)))
        return found
    if memory_gib:
        return [(f"{memory_gib:g} GiB of a card", allowed)]
    usable = USABLE * 1e9
    return [(f"a card of {gb} GB", gb * usable - CONTEXT_GIB * GIB) for gb in CARDS_GB]


def _model(folder: Path, config: OmniConfig, steps: int) -> _Model:
    half = torch.bfloat16
    code2wav = None
    if (folder / ASSETS).is_dir():
        code2wav = load_code2wav(folder / ASSETS, steps=steps)
    return _Model(
        empty(lambda: Qwen3(config.llm)).to(half),
        empty(lambda: Senses(config)).to(half),
        empty(lambda: SpeechDecoder(config.tts)).to(half),
        code2wav,
    )
