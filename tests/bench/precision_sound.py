"""Flow and vocoder: their engine path beside float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.gpu.graphs import GraphPool
from engine.minicpmo.checkpoint import ASSETS, OmniModel
from engine.minicpmo.models.code2wav import Code2WavModel, load_code2wav
from engine.minicpmo.models.flow.flow import FlowChunk
from engine.minicpmo.models.flow.state import Window
from engine.minicpmo.models.vocoder.vocoder import Push, Vocoder, VocoderSound
from engine.minicpmo.models.voice.preparation import VoiceFeatures
from engine.minicpmo.speech.code2wav import WINDOW_CODES, Code2Wav, Codes
from tests.bench.errors import error
from tests.bench.precision_llm import plain
from tests.exactness import exact

SPECTRUM = 1024
RANDOM_VOICE = 50
"""Codes of a voice where the checkpoint has none that is prepared."""


@dataclass(frozen=True)
class Played:
    """One window of one row, on the host."""

    slot: int
    last: bool
    mu: Tensor
    mel: Tensor
    f0: Tensor
    wave: Tensor


def voice_of(model: OmniModel) -> VoiceFeatures:
    """A prepared voice of the checkpoint, or a random one."""
    names = model.voices.names()
    if names:
        return model.voices.named(names[0])
    assert model.code2wav is not None
    config = model.code2wav.flow.config
    generator = torch.Generator().manual_seed(1)
    codes = torch.randint(0, config.vocab_size, (RANDOM_VOICE,), generator=generator)
    mel = torch.randn(2 * RANDOM_VOICE, config.num_mels, generator=generator) - 4.0
    speaker = torch.randn(config.speaker_dim, generator=generator)
    return VoiceFeatures(codes.tolist(), mel, speaker)


def filled(codes: list[list[list[int]]], most: int) -> list[list[list[int]]]:
    """Whole units, with random codes where a row ended early."""
    generator = torch.Generator().manual_seed(2)
    return [
        [
            own + torch.randint(0, most, (WINDOW_CODES - len(own),), generator=generator).tolist()
            for own in unit
        ]
        for unit in codes
    ]


def play(
    model: Code2WavModel,
    voice: VoiceFeatures,
    codes: list[list[list[int]]],
    pool: GraphPool | None,
) -> list[Played]:
    """Codes by unit and row as sound; the last unit ends the turns."""
    rows = len(codes[0])
    streams = Code2Wav(model, rows, len(voice.mel), graphs=pool)
    if pool is not None:
        streams.warm_up(rows, lambda text: None)
    base = model.base(voice)
    for slot in range(rows):
        streams.set_voice(slot, base)
    played: list[Played] = []

    def observe(window: Window, chunk: FlowChunk, sound: VocoderSound) -> None:
        values = (chunk.mu, chunk.mel, sound.f0, sound.wave)
        kept = [value.detach().float().cpu().clone() for value in values]
        played.append(Played(window.slot, window.last, *kept))

    streams.observe = observe
    for place, unit in enumerate(codes):
        ends = place == len(codes) - 1
        streams.unit([Codes(slot, own, ends) for slot, own in enumerate(unit)])
    return played


def sing(
    vocoder: Vocoder, played: list[Played], *, with_f0: bool
) -> tuple[list[Tensor], list[Tensor]]:
    """Waves and F0 of the vocoder by itself on the same mel frames, and F0 where asked for."""
    state = vocoder.new_state(1 + max(part.slot for part in played))
    device = vocoder.noise.device
    waves, tones = [], []
    for part in played:
        f0 = part.f0.to(device) if with_f0 else None
        [sound] = vocoder.push(state, [Push(part.slot, part.mel.to(device), part.last, f0)])
        waves.append(sound.wave.cpu())
        tones.append(sound.f0.cpu())
    return waves, tones


def spectra(waves: list[Tensor]) -> list[Tensor]:
    """Magnitudes, which do not tell where in its phase a harmonic is."""
    window = torch.hann_window(SPECTRUM)
    return [
        torch.stft(wave, SPECTRUM, window=window, return_complex=True).abs()
        for wave in waves
        if len(wave) >= SPECTRUM
    ]


def measure(model: OmniModel, codes: list[list[list[int]]]) -> dict[str, Any]:
    """`codes`: by unit and row. The reference has the file's weights, not the flow's narrow ones.

    The engine's vocoder is float32 too, and its F0 float64, but the filter's convolutions on CUDA
    are TF32 unless that is switched off, which the engine leaves as it finds it.
    """
    if model.code2wav is None:
        return {"skipped": "the checkpoint has no token2wav"}
    flow, voice = model.code2wav.flow, voice_of(model)
    codes = filled(codes, flow.config.vocab_size)
    pool = GraphPool(model.device)
    engine = play(model.code2wav, voice, codes, pool)
    alone = play(model.code2wav, voice, [unit[:1] for unit in codes], GraphPool(model.device))
    mine = [part for part in engine if part.slot == 0]
    with exact(), plain(kernels=True, attention=False):
        wide = load_code2wav(
            model.folder / ASSETS, device=model.device, dtype=torch.float32, steps=flow.steps
        )
        reference = play(wide, voice, codes, None)
        same_mel, tones = sing(wide.vocoder, engine, with_f0=False)
        # The earlier generation predicts F0 of a whole call, which is not what it is given here.
        has_f0 = wide.vocoder.config.causal
        same_f0 = sing(wide.vocoder, engine, with_f0=True)[0] if has_f0 else None
    waves = [part.wave for part in engine]
    told: dict[str, Any] = {
        "flow": str(flow.encoder_proj.weight.dtype).removeprefix("torch."),
        "graph_misses": pool.misses,
        "windows": len(engine),
    }
    for name in ("mu", "mel", "f0", "wave"):
        left = [getattr(part, name) for part in engine]
        told[f"{name} against float32"] = error(left, [getattr(p, name) for p in reference])
    told["spectrum against float32"] = error(
        spectra(waves), spectra([part.wave for part in reference])
    )
    told["f0 of the same mel"] = error([part.f0 for part in engine], tones)
    told["wave of the same mel"] = error(waves, same_mel)
    told["spectrum of the same mel"] = error(spectra(waves), spectra(same_mel))
    if same_f0 is not None:
        told["wave of the same mel and F0"] = error(waves, same_f0)
    for name in ("mel", "wave"):
        told[f"{name} of a row alone"] = error(
            [getattr(part, name) for part in alone], [getattr(part, name) for part in mine]
        )
    return told
