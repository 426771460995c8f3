"""The non-causal vocoder's network by itself, and what sound may differ by."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.minicpmo.models.code2wav import read_pt
from engine.minicpmo.models.vocoder.vocoder import load_vocoder
from tests.golden.golden_set import GoldenSet
from tests.golden.report import Report

F0_LIMIT = 5e-5
"""Hz, from the stored mel; where that is less than two steps of float32, those."""
F0_LIMIT_OWN = 2e-4
"""Hz, from our own mel, which differs by a few 1e-6; the sound's own limit guards the sum."""
WAVE_HELD = 1e-3
"""Relative RMS with the stored mel and F0."""
WAVE_FREE = 5e-2
"""With our own F0, whose last bits are summed up in the phase (the set's README measures it)."""


class OriginalVocoder:
    """Its stored calls; a later one is given the end of the excitation before it."""

    def __init__(self, golden: GoldenSet, report: Report) -> None:
        self.golden, self.report = golden, report
        file = golden.token2wav / "hift_original.pt"
        self.hift = load_vocoder(read_pt(file), device=golden.place.device, where=str(file)).hift

    def run(self, batch: int) -> None:
        past: dict[str, Tensor] = {}
        for index, call in enumerate(self.golden.trace["vocoder_original"]["calls"]):
            for rows, kind in ((1, "own"), (batch, "batch")):
                if kind == "own" or batch > 1:
                    past[kind] = self._call(index, call, rows, kind, past.get(kind))

    def _call(
        self, index: int, call: dict[str, Any], rows: int, kind: str, past: Tensor | None
    ) -> Tensor:
        key, hift, report = f"vocoder_original/c{index}", self.hift, self.report
        mel, f0, noise, source, wave = (
            self.golden.tensor(f"{key}.{name}")[None].expand(rows, *[-1] * dims)
            for name, dims in (("mel", 2), ("f0", 1), ("noise", 2), ("source", 1), ("wave", 1))
        )
        kept = int(call.get("source_cache", 0))
        free_f0 = hift.f0_predictor(mel)
        held = hift.source(hift.smooth_sines(f0), f0, noise.float())
        free = hift.source(hift.smooth_sines(free_f0), free_f0, noise.float())
        if kept:
            assert past is not None, f"{key} wants {kept} samples of a call before it"
            stored = self.golden.tensor(f"vocoder_original/c{index - 1}.source")
            held[:, :kept] = stored[-kept:]
            free[:, :kept] = past[:, -kept:]
        step = 2 * torch.finfo(torch.float32).eps * f0.max().item()
        report.add_absolute(f"{key}.f0", free_f0, f0, max(F0_LIMIT, step), kind)
        report.given(f"{key}.mel", "the input")
        report.given(f"{key}.noise", "the input")
        report.add(f"{key}.source", held, source, WAVE_HELD, "stored f0")
        report.add(f"{key}.source", free, source, WAVE_FREE, kind)
        report.add(f"{key}.wave", hift.filter(mel, source), wave, WAVE_HELD, "stored source")
        report.add(f"{key}.wave", hift.filter(mel, held), wave, WAVE_HELD, "stored f0")
        ours = hift.filter(mel, free)
        report.add(f"{key}.wave", ours, wave, WAVE_FREE, kind)
        facts = {
            "frames": mel.shape[2],
            "source_cache": kept,
            "samples": ours.shape[1],
        }
        name = f"trace/vocoder_original.calls.{index}"
        for fact, value in facts.items():
            if fact in call:
                report.equal(f"{name}.{fact}", value, call[fact], kind)
        if "peak" in call:
            peak = ours.abs().max()
            limit = 1e-4 + WAVE_FREE * call["peak"]
            report.add_absolute(f"{name}.peak", peak, torch.tensor(call["peak"]), limit, kind)
        return free
