"""The whole full-duplex session from its inputs alone: sound and pictures in, words and sound out.

Everything runs through the engine's runner, as in a call; only the forced ids come from the set.
Run once alone, and `batch` times side by side, each one unit later than the one before.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from engine.dsp.logmel import ChunkQueue
from engine.gpu.graphs import GraphPool
from engine.minicpmo.checkpoint import load
from engine.minicpmo.llm.duplex_batch import UnitInput
from engine.minicpmo.llm.duplex_unit import UnitResult
from engine.minicpmo.llm.sampler import Draws
from engine.minicpmo.models.code2wav import VoiceBase, load_code2wav
from engine.minicpmo.models.talker.sampling import SpeechSampling
from engine.minicpmo.models.voice.preparation import VoiceFeatures
from engine.minicpmo.runner import Runner
from engine.minicpmo.speech.code2wav import Codes, to_pcm
from engine.minicpmo.speech.pipeline import SpeechPipeline
from engine.minicpmo.speech.talker import TalkerInput
from tests.golden.golden_set import GoldenSet
from tests.golden.logits import FORCED_LOGIT
from tests.golden.original_vocoder import WAVE_FREE
from tests.golden.report import Report
from tests.golden.stage_llm import RecordedSession, duplex_settings

GREEDY = SpeechSampling(greedy=True)
PCM_SCALE = 32767.0


def compare(golden: GoldenSet, report: Report, batch: int) -> None:
    if "duplex" not in golden.trace:
        return
    for count in sorted({1, batch}):
        _Session(golden, report, count, "session" if count == 1 else "session batch").run()


@dataclass
class _Copy:
    """One of the sessions side by side."""

    slot: int
    delay: int
    talk: RecordedSession
    queue: ChunkQueue
    draws: Draws
    unit: dict[str, Any]
    steps: int = 0


class _Session:
    def __init__(self, golden: GoldenSet, report: Report, count: int, kind: str) -> None:
        self.golden, self.report, self.kind = golden, report, kind
        self.trace = golden.trace["duplex"]
        self.units = golden.units
        steps = self.trace.get("token2wav_steps", 5)
        device = golden.place.device
        with mock.patch(
            "engine.minicpmo.checkpoint.best_device", lambda wanted: (device, torch.float32)
        ):
            model = load(golden.path, steps=steps, show=lambda text: None)
        model.code2wav = load_code2wav(
            golden.token2wav,
            device=device,
            dtype=torch.float32,
            steps=steps,
            noise=golden.tensor("voice/rand_noise"),
            vocoder_noise=golden.tensor("voice/vocoder_noise_table"),
        )
        longest = max(unit["kv_after_generate"] for unit in self.units) + 64
        voice = self._voice()
        eager = partial(GraphPool, enabled=False)
        with (
            mock.patch("engine.minicpmo.runner.GraphPool", eager),
            mock.patch("engine.minicpmo.speech.pipeline.GraphPool", eager),
        ):
            self.runner = Runner(model, count, longest)
            self.pipeline = SpeechPipeline(model, count, max_prompt=len(voice.mel))
        self.runner.duplex.replay.observe = self._force
        base = model.code2wav.base(voice)
        self.copies = [self._copy(slot, longest, base) for slot in range(count)]

    def _voice(self) -> VoiceFeatures:
        golden = self.golden
        return VoiceFeatures(
            golden.tensor("voice/s3_codes").tolist(),
            golden.tensor("voice/prompt_mel24").float(),
            golden.tensor("voice/speaker_embedding").float().flatten(),
        )

    def _copy(self, slot: int, longest: int, base: VoiceBase) -> _Copy:
        talk = RecordedSession(self.golden.tokens, duplex_settings(self.golden), slot, longest)
        talk.chosen = []
        self.runner.duplex.open(slot, talk)
        self.pipeline.set_voice(slot, base)
        return _Copy(slot, slot, talk, ChunkQueue(), Draws(slot), {})

    def run(self) -> None:
        self._prepare()
        for moment in range(len(self.units) + len(self.copies) - 1):
            now = [c for c in self.copies if 0 <= moment - c.delay < len(self.units)]
            for copy in now:
                copy.unit, copy.steps = self.units[moment - copy.delay], 0
            done = self.runner.duplex.prefill(self._inputs(now))
            while any(self.runner.duplex.sessions[copy.slot].needs_decision for copy in now):
                done |= self.runner.duplex.step()
            self._say([copy for copy in now if done[copy.slot].wants_speech], done)
            for copy in now:
                self._facts(copy, done[copy.slot])
            self.runner.duplex.finalize([copy.slot for copy in now])

    # ------------------------------------------------------------------ in

    def _prepare(self) -> None:
        tokens = self.golden.tokens
        prefix, suffix = (tokens.encode(self.trace[name]) for name in ("prefix", "suffix"))
        voice: Tensor | None = None
        if any(feed["ids"] is None for feed in self.trace.get("prepare", {}).get("feeds", [])):
            samples = self.golden.host("voice/prompt_wav_i16").float() / 32768
            voice = self.runner.hear_whole([samples], in_blocks=True)[0]
        message = (prefix, voice, suffix)
        self.runner.duplex.prepare(dict.fromkeys(range(len(self.copies)), message))

    def _inputs(self, now: list[_Copy]) -> list[UnitInput]:
        chunks: dict[int, Tensor] = {}
        pictures: list[tuple[Tensor, int]] = []
        owners: list[int] = []
        for copy in now:
            sound = self.golden.unit_sound(copy.unit)
            if sound is not None:
                copy.queue.push(sound)
                chunk = copy.queue.take()
                assert chunk is not None, f"unit {copy.unit['unit']} has too little sound"
                chunks[copy.slot] = chunk
            inputs = copy.unit["inputs"]
            for name in inputs.get("images", []):
                pictures.append((self.golden.picture(name), inputs.get("max_slice_nums", 1)))
                owners.append(copy.slot)
        heard = self.runner.hear(chunks)
        seen = self.runner.look(pictures)
        return [
            UnitInput(
                copy.slot,
                heard.get(copy.slot),
                [s.images for owner, s in zip(owners, seen, strict=True) if owner == copy.slot],
                bool(copy.unit["inputs"].get("force_listen")),
            )
            for copy in now
        ]

    def _force(self, slots: list[int], logits: Tensor) -> Tensor:
        logits = logits.clone()
        for row, slot in enumerate(slots):
            copy = self.copies[slot]
            steps = copy.unit["steps"]
            forced = steps[copy.steps]["forced"] if copy.steps < len(steps) else None
            copy.steps += 1
            if forced is not None:
                logits[row, forced] = FORCED_LOGIT
        return logits

    # ------------------------------------------------------------------ out

    def _say(self, speaking: list[_Copy], done: dict[int, UnitResult]) -> None:
        for copy in self.copies:
            # As the reference: a forced listen restarts the waveform but not the code decoder.
            result = done.get(copy.slot)
            if result is not None and result.is_cut and self.pipeline.code2wav is not None:
                self.pipeline.code2wav.reset(copy.slot)
        batch = [self._speak(copy, done[copy.slot]) for copy in speaking]
        if not batch or self.pipeline.code2wav is None:
            return
        codes = self.pipeline.talker.duplex(batch)
        sounds = self.pipeline.code2wav.unit(
            [Codes(s.slot, c, s.ends) for s, c in zip(batch, codes, strict=True)]
        )
        for copy, ours, sound in zip(speaking, codes, sounds, strict=True):
            name = f"u{copy.unit['unit']:02d}"
            if f"duplex/{name}.tts_codes" not in self.golden:
                continue
            stored = self.golden.tensor(f"duplex/{name}.tts_codes").tolist()
            self.report.equal(f"duplex/{name}.tts_codes", ours, stored, self.kind)
            if f"duplex/{name}.wave_i16" not in self.golden:
                continue
            wave = torch.from_numpy(to_pcm([sound])[0]).float() / PCM_SCALE
            meant = self.golden.tensor(f"duplex/{name}.wave_i16").float() / PCM_SCALE
            self.report.add(f"duplex/{name}.wave_i16", wave, meant, WAVE_FREE, self.kind)

    def _speak(self, copy: _Copy, result: UnitResult) -> TalkerInput:
        width = self.golden.config.llm.hidden_size
        states = [token.hidden for token in result.spoken if token.hidden is not None]
        return TalkerInput(
            copy.slot,
            torch.tensor([token.id for token in result.spoken], dtype=torch.long),
            torch.stack(states) if states else torch.zeros(0, width),
            copy.draws,
            ends=result.end_of_turn,
            sampling=GREEDY,
            end_at=copy.unit.get("tts", {}).get("eos_forced_at"),
        )

    def _facts(self, copy: _Copy, result: UnitResult) -> None:
        unit = copy.unit
        ours = {
            "is_listen": result.is_listen,
            "end_of_turn": result.end_of_turn,
            "text": result.text,
            "unit_ids": [token.id for token in result.spoken],
            "kv_after_generate": result.kv_length,
            "terminator": result.terminator,
        }
        for key, value in ours.items():
            if key in unit:
                name = f"trace/duplex.u{unit['unit']:02d}.{key}"
                self.report.equal(name, value, unit[key], self.kind)
