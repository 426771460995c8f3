"""The speech parts by themselves: from what the language model said to sound, stage by stage.

    python -m tests.bench.speech --size full --device cuda --rows 1,8,32 --json

Weights are random. Each stage is timed alone, with the device waited for, for a unit of 25 codes
in the middle of a turn; what graphs give is compared with the same functions run without. Prints
one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from engine.gpu.graphs import GraphPool
from engine.gpu.kv.cache import NativeKV
from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.models.code2wav import Code2WavModel, VoiceBase
from engine.minicpmo.models.config import TtsConfig
from engine.minicpmo.models.flow.config import FlowConfig
from engine.minicpmo.models.flow.state import Window
from engine.minicpmo.models.talker.tts import SpeechDecoder
from engine.minicpmo.models.vocoder.config import VocoderConfig
from engine.minicpmo.models.vocoder.vocoder import Push
from engine.minicpmo.speech.code2wav import WINDOW_CODES, Code2Wav, Codes, to_pcm
from engine.minicpmo.speech.talker import Talker, TalkerInput
from engine.minicpmo.speech.talker_rows import BLOCK
from tests.speech_assets import random_token2wav, random_voice
from tests.speech_configs import TINY_FLOW, tiny_vocoder

FULL = TtsConfig(
    hidden_size=768,
    num_layers=20,
    num_heads=12,
    num_kv_heads=12,
    head_dim=64,
    intermediate_size=3072,
    max_position_embeddings=4096,
    num_audio_tokens=6562,
    num_text_tokens=152_064,
    num_vq=1,
    llm_dim=4096,
    audio_bos_token_id=151_687,
    text_eos_token_id=151_692,
    normalize_projected_hidden=True,
)
TINY = replace(
    FULL,
    hidden_size=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=2,
    head_dim=16,
    intermediate_size=48,
    num_text_tokens=200,
    llm_dim=24,
    audio_bos_token_id=198,
    text_eos_token_id=199,
)
WORDS = 5
VOICE_SECONDS = 6.04
FIRST_CODES = 9
LOOKAHEAD = 3
WARM_UNITS = 3


def progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


@dataclass
class Parts:
    """The networks and what all rows of the bench share."""

    device: torch.device
    decoder: SpeechDecoder
    model: Code2WavModel
    voice: VoiceBase
    speech_length: int
    causal: bool


def build(options: argparse.Namespace) -> Parts:
    device = torch.device(options.device)
    on_cuda, full = device.type == "cuda", options.size == "full"
    with torch.device(device):
        torch.manual_seed(1)
        decoder = SpeechDecoder(FULL if full else TINY)
    decoder = decoder.to(torch.bfloat16 if on_cuda else torch.float32).eval().requires_grad_(False)
    for part in decoder.modules():
        getattr(part, "finish_loading", lambda: None)()
    model = token2wav(options, torch.float16 if on_cuda else torch.float32)
    voice = model.base(random_voice(VOICE_SECONDS))
    return Parts(device, decoder, model, voice, options.speech_length, options.causal)


def token2wav(options: argparse.Namespace, dtype: torch.dtype) -> Code2WavModel:
    full, causal = options.size == "full", options.causal
    flow = FlowConfig() if full else TINY_FLOW
    vocoder = VocoderConfig(causal=causal) if full else tiny_vocoder(causal=causal)
    return random_token2wav(
        flow, vocoder, steps=options.steps, device=torch.device(options.device), dtype=dtype
    )


class Rows:
    """Sessions in the middle of their turns, with graphs or without."""

    def __init__(self, parts: Parts, count: int, graphs: GraphPool | None) -> None:
        self.parts, self.count, self.graphs = parts, count, graphs
        self.codes = Talker(parts.decoder, count, parts.speech_length, graphs)
        frames = parts.voice.flow.frames
        self.streams = Code2Wav(
            parts.model,
            count,
            frames,
            graphs=graphs,
            first_codes=0 if graphs is None else FIRST_CODES,
        )
        for slot in range(count):
            self.streams.set_voice(slot, parts.voice)
        self.unit = 0

    def batch(self) -> list[TalkerInput]:
        """What every row says in its next unit."""
        self.unit += 1
        generator = torch.Generator().manual_seed(self.unit)
        device, config = self.parts.device, self.parts.decoder.config
        dtype = self.parts.decoder.emb_text.weight.dtype
        said = []
        for slot in range(self.count):
            ids = torch.randint(config.audio_bos_token_id, (WORDS,), generator=generator)
            hidden = torch.randn(WORDS, config.llm_dim, generator=generator)
            draws = Draws(1000 * self.unit + slot)
            said.append(TalkerInput(slot, ids.to(device), hidden.to(device, dtype), draws))
        return said

    def windows(self, seed: int) -> list[Window]:
        generator = torch.Generator().manual_seed(seed)
        shape = (self.count, WINDOW_CODES + LOOKAHEAD)
        codes = torch.randint(6561, shape, generator=generator).tolist()
        return [Window(slot, own) for slot, own in enumerate(codes)]

    def flow(self, windows: list[Window]) -> list[Tensor]:
        streams = self.streams
        widths = () if self.graphs is None else (WINDOW_CODES,)
        chunks = self.parts.model.flow(
            windows, streams.flow_state, graphs=self.graphs, widths=widths
        )
        return [chunk.mel for chunk in chunks]

    def vocode(self, mels: list[Tensor]) -> list[Tensor]:
        pushes = [Push(slot, mel) for slot, mel in enumerate(mels)]
        state = self.streams.vocoder_state
        return [s.wave for s in self.parts.model.vocoder.push(state, pushes, self.graphs)]


class Clock:
    """Medians of what stages took, the device waited for, in ms."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.took: dict[str, list[float]] = {}

    def time(self, stage: str, run: Callable[[], Any]) -> Any:
        self.wait()
        started = time.perf_counter()
        result = run()
        self.wait()
        self.took.setdefault(stage, []).append((time.perf_counter() - started) * 1000)
        return result

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def medians(self) -> dict[str, float]:
        return {stage: round(statistics.median(ms), 3) for stage, ms in self.took.items()}


def measure(parts: Parts, count: int, repeats: int) -> dict[str, Any]:
    """One count of rows: times with graphs, and how far they are from runs without."""
    pool = GraphPool(parts.device)
    if parts.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(parts.device)
    rows, clock = Rows(parts, count, pool), Clock(parts.device)
    started = time.perf_counter()
    rows.codes.warm_up(count, progress)
    rows.streams.warm_up(count, progress)
    clock.wait()
    warm_s = time.perf_counter() - started
    found: dict[str, Any] = {"warm_up_s": round(warm_s, 2), "graphs": len(pool)}
    found["differences"] = compare(rows, Rows(parts, count, None))
    misses = pool.misses
    for _ in range(repeats):
        batch = rows.batch()
        unit = clock.time("tts_prefill", partial(rows.codes.begin_unit, batch))
        clock.time("tts_25_steps", unit.more)
        windows = rows.windows(rows.unit)
        mels = clock.time("flow", partial(rows.flow, windows))
        waves = clock.time("vocoder", partial(rows.vocode, mels))
        clock.time("pcm", partial(to_pcm, waves))
    for _ in range(repeats):
        for slot in range(count):
            rows.codes.reset(slot)
            clock.time("turn_end_of_a_slot", partial(rows.streams.reset, slot))
        clock.time("first_sound", partial(first_sound, rows))
    found["ms"] = clock.medians()
    found["ms"]["tts_per_step"] = round(found["ms"]["tts_25_steps"] / BLOCK, 3)
    found["misses"] = pool.misses - misses
    if parts.device.type == "cuda":
        found["peak_gb"] = round(torch.cuda.max_memory_allocated(parts.device) / 1e9, 3)
        found["reserved_gb"] = round(torch.cuda.memory_reserved(parts.device) / 1e9, 3)
    return found


def first_sound(rows: Rows) -> None:
    """All rows begin a turn: until the first part of their sound is on the host."""
    unit = rows.codes.begin_unit(rows.batch())
    found = unit.more(FIRST_CODES)
    early = [Codes(s, c) for s, c in enumerate(found) if len(c) == FIRST_CODES]
    if early:
        to_pcm(rows.streams.first_part(early))
    unit.more()


def compare(rows: Rows, plain: Rows) -> dict[str, Any]:
    """Units with graphs and without: equal codes, relative errors of mel and wave."""
    equal, total = 0, 0
    mel_error = wave_error = 0.0
    for unit in range(WARM_UNITS):
        one, two = rows.codes.duplex(rows.batch()), plain.codes.duplex(plain.batch())
        for a, b in zip(one, two, strict=True):
            equal += sum(x == y for x, y in zip(a, b, strict=False))
            total += max(len(a), len(b))
        windows = rows.windows(unit)
        mels, wanted = rows.flow(windows), plain.flow(windows)
        mel_error = max(mel_error, relative(mels, wanted))
        # The same mel for both: F0 carries its last bits into the phase.
        wave_error = max(wave_error, relative(rows.vocode(wanted), plain.vocode(wanted)))
    return {
        "equal_codes": f"{equal} of {total}",
        "mel": mel_error,
        "wave": wave_error,
        "lengths_equal": rows.codes.kv.lengths == plain.codes.kv.lengths,
    }


def relative(ours: list[Tensor], wanted: list[Tensor]) -> float:
    """RMS of the difference by the RMS of what was wanted."""
    one, two = (torch.cat([t.float().flatten() for t in ts]) for ts in (ours, wanted))
    return float((one - two).square().mean().sqrt() / two.square().mean().sqrt())


def half_error(parts: Parts, options: argparse.Namespace) -> dict[str, Any]:
    """The flow in the device's number format against float32, for the same codes."""
    wide = token2wav(options, torch.float32)
    wide_parts = replace(parts, model=wide, voice=wide.base(random_voice(VOICE_SECONDS)))
    half, full = Rows(parts, 1, None), Rows(wide_parts, 1, None)
    errors = []
    for unit in range(8):
        windows = half.windows(unit)
        errors.append(relative(half.flow(windows), full.flow(windows)))
    return {"dtype": str(parts.model.flow.encoder_proj.weight.dtype), "mel_by_unit": errors}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", default="1,8", help="counts of sessions")
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--steps", type=int, default=5, help="Euler steps of the flow")
    parser.add_argument("--speech-length", type=int, default=1024)
    parser.add_argument("--causal", action="store_true", help="the later vocoder generation")
    parser.add_argument("--json", action="store_true", help="print JSON without indentation")
    options = parser.parse_args(arguments)
    with torch.inference_mode():
        parts = build(options)
        frames = parts.voice.flow.frames
        report: dict[str, Any] = {
            "size": options.size,
            "device": (
                torch.cuda.get_device_name(parts.device)
                if parts.device.type == "cuda"
                else str(parts.device)
            ),
            "torch": torch.__version__,
            "bytes_per_slot": {
                "codes": NativeKV.bytes_per_slot(parts.decoder.cache_spec(options.speech_length)),
                "streams": parts.model.bytes_per_slot(frames),
            },
            "float16_against_float32": half_error(parts, options),
            "rows": {},
        }
        for count in (int(text) for text in options.rows.split(",")):
            progress(f"{count} rows")
            report["rows"][str(count)] = measure(parts, count, options.repeats)
    print(json.dumps(report, indent=None if options.json else 1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
