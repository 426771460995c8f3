"""Every tensor's name, shape and type, from the headers of the weights' files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from engine.gpu.weights import Checkpoint, CheckpointError, compare_names, empty
from engine.minicpmo.check.release import TENSORS, TOTAL_SIZE
from engine.minicpmo.check.report import CheckSection
from engine.minicpmo.checkpoint import ASSETS, Senses
from engine.minicpmo.models.code2wav import read_pt
from engine.minicpmo.models.config import OmniConfig
from engine.minicpmo.models.config_reader import ConfigError
from engine.minicpmo.models.llm.qwen3 import Qwen3
from engine.minicpmo.models.stored_format import AwqFormat
from engine.minicpmo.models.talker.tts import UNUSED, SpeechDecoder, head_names

FLOATING = ("BF16", "F16", "F32", "F64")
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "F64": 8, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1}
SHOWN = 6


class _Expected(NamedTuple):
    prefix: str
    network: nn.Module
    ignore: Sequence[str] = ()
    rename: Callable[[str], str] | None = None


def check_tensors(
    folder: Path, speaking: Path, config: OmniConfig, stored: AwqFormat | None
) -> CheckSection:
    """Compare what is stored with what each network of this configuration wants.

    `speaking`: the folder whose `assets` serve; `stored`: the layers' format, if it is 4 bits.
    """
    section = CheckSection("weights")
    try:
        with Checkpoint(folder) as checkpoint:
            _compare(checkpoint, config, stored, section)
    except (CheckpointError, ConfigError) as error:
        section.fault(str(error))
    _speech_output(speaking / ASSETS, section)
    return section


def _compare(
    checkpoint: Checkpoint, config: OmniConfig, stored_as: AwqFormat | None, section: CheckSection
) -> None:
    names = checkpoint.names()
    llm = empty(lambda: Qwen3(config.llm))
    if stored_as is not None:
        _expect_awq(llm, stored_as)
        section.ok(f"layers in 4 bits as AWQ stores them, groups of {stored_as.group}")
    parts = [
        _Expected("llm.", llm),
        *(_Expected(*part) for part in empty(lambda: Senses(config)).parts().items()),
        _Expected("tts.", empty(lambda: SpeechDecoder(config.tts)), UNUSED, head_names(names)),
    ]
    counts: dict[str, int] = {}
    for part in parts:
        stored = {n.removeprefix(part.prefix) for n in names if n.startswith(part.prefix)}
        counts[part.prefix] = len(stored)
        found = compare_names(part.network, stored, ignore=part.ignore, rename=part.rename)
        problems = [found.problems(part.prefix)] if found.problems() else []
        problems += _shapes(checkpoint, part, found.stored)
        for problem in problems[:SHOWN]:
            section.fault(problem)
        if len(problems) > SHOWN:
            section.fault(f"and {len(problems) - SHOWN} more of {part.prefix}*")
        if not problems:
            section.ok(f"{part.prefix}*: all {len(stored)} tensors have their names and shapes")
    others = [n for n in names if not any(n.startswith(part.prefix) for part in parts)]
    if others:
        section.fault(f"unexpected {', '.join(others[:SHOWN])}")
    kinds = Counter(checkpoint.kind(name) for name in names)
    total = sum(SIZES.get(checkpoint.kind(n), 0) * _numel(checkpoint.shape(n)) for n in names)
    section.facts |= {"tensors": counts, "kinds": dict(kinds), "bytes": total}
    if counts == TENSORS and total == TOTAL_SIZE:
        section.ok("their number and their bytes are those of the release")
    elif stored_as is None:
        section.note(
            f"{len(names)} tensors, {total} bytes; released: {sum(TENSORS.values())}, {TOTAL_SIZE}"
        )


def _expect_awq(llm: Qwen3, stored: AwqFormat) -> None:
    """Have the layers want what a folder of AWQ has."""
    for module in llm.model.layers.modules():
        if not isinstance(module, nn.Linear):
            continue
        outputs, inputs = module.weight.shape
        del module.weight
        for name, shape in stored.shapes(outputs, inputs).items():
            kind = torch.float16 if name == "scales" else torch.int32
            module.register_buffer(name, torch.empty(shape, dtype=kind, device="meta"))


def _shapes(checkpoint: Checkpoint, part: _Expected, stored: dict[str, str]) -> list[str]:
    wanted = part.network.state_dict(keep_vars=True)
    problems = []
    for key, name in stored.items():
        full, target = part.prefix + name, wanted[key]
        shape, kind = checkpoint.shape(full), checkpoint.kind(full)
        if shape != tuple(target.shape):
            problems.append(f"{full}: shape {list(shape)}, {list(target.shape)} in the model")
        elif target.is_floating_point() and kind not in FLOATING:
            problems.append(f"{full}: stored as {kind}, which needs a scale that is not read")
    return problems


def _numel(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def _speech_output(assets: Path, section: CheckSection) -> None:
    """The flow's and the vocoder's files hold tensors and nothing else."""
    for name in ("flow.pt", "hift.pt"):
        if not (assets / name).is_file():
            continue
        try:
            state = read_pt(assets / name)
        except CheckpointError as error:
            section.fault(str(error))
            continue
        section.facts[name] = len(state)
        section.ok(f"{name}: {len(state)} tensors")
