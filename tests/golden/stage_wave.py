"""The waveform: voice preparation, flow, F0, source and sound of both vocoder generations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from engine.dsp.mel_filters import whisper_log_mel
from engine.minicpmo.models.code2wav import Code2WavModel, VoiceBase, load_code2wav
from engine.minicpmo.models.flow.flow import FlowChunk
from engine.minicpmo.models.flow.state import FlowState, Window
from engine.minicpmo.models.vocoder.streaming import VocoderState
from engine.minicpmo.models.vocoder.vocoder import Push, VocoderSound
from engine.minicpmo.models.voice.preparation import (
    S3_MELS,
    S3_NAME,
    Preparer,
    VoiceFeatures,
    VoiceRecording,
    speaker_features,
)
from engine.minicpmo.speech.code2wav import Code2Wav, Codes, to_pcm
from tests.golden.golden_set import PCM_SCALE, GoldenSet
from tests.golden.original_vocoder import (
    F0_LIMIT,
    F0_LIMIT_OWN,
    WAVE_FREE,
    WAVE_HELD,
    OriginalVocoder,
)
from tests.golden.report import Report
from tests.golden.stage_codes import PARTS, units_of

RATE = 16_000
HELD, FREE = 0, 1
"""Slots of the vocoder that is given the stored F0 and of the one with its own."""


def compare(golden: GoldenSet, report: Report, batch: int) -> None:
    """Voice, then each session window by window, then the vocoder of the other generation."""
    model = load_code2wav(
        golden.token2wav,
        device=golden.place.device,
        dtype=torch.float32,
        steps=golden.trace["duplex"].get("token2wav_steps", 5),
        noise=golden.tensor("voice/rand_noise"),
        vocoder_noise=golden.tensor("voice/vocoder_noise_table"),
    )
    voice, own = _voice(golden, report, model)
    sessions = [_duplex(golden, part) for part in PARTS if part in golden.trace]
    sessions += [
        _reply(golden, name) for name in golden.trace.get("half_duplex", {}) if name.startswith("g")
    ]
    for session in sessions:
        _Stored(golden, report, model, session).run(voice)
        _Play(golden, report, model, session, "own").run(own, 1)
        if batch > 1:
            _Play(golden, report, model, session, "batch").run(voice, batch)
    if "vocoder_original" in golden.trace:
        OriginalVocoder(golden, report).run(batch)


def _voice(golden: GoldenSet, report: Report, model: Code2WavModel) -> tuple[VoiceBase, VoiceBase]:
    """Compare voice preparation; the voice of stored features and the one of our own."""
    for key, why in (
        ("prompt_wav_i16", "the input"),
        ("speaker_embedding", "the speaker network is not part of the set"),
        ("rand_noise", "drawn when the reference starts"),
        ("vocoder_noise_table", "drawn when the reference starts"),
    ):
        report.given(f"voice/{key}", why)
    samples = golden.host("voice/prompt_wav_i16").float() / PCM_SCALE
    preparer = Preparer(golden.token2wav)
    report.add(
        "voice/s3_log_mel", whisper_log_mel(samples, S3_MELS), golden.tensor("voice/s3_log_mel")
    )
    codes: list[int] = golden.tensor("voice/s3_codes").tolist()
    ours = codes
    if any((golden.token2wav / f"{S3_NAME}.{kind}").is_file() for kind in ("safetensors", "onnx")):
        ours = preparer.codes(samples)
        report.equal("voice/s3_codes", ours, codes)
    else:
        report.given("voice/s3_codes", "the set has no speech tokenizer")
    features = speaker_features(samples)
    report.add("voice/fbank_minus_mean", features, golden.tensor("voice/fbank_minus_mean"))
    mel, stored = (
        preparer.mel(VoiceRecording(samples[None], RATE), len(codes)),
        golden.tensor("voice/prompt_mel24"),
    )
    report.add("voice/prompt_mel24", mel, stored)
    speaker = golden.tensor("voice/speaker_embedding")
    for kind, spectrum, tokens in (("stored", stored, codes), ("own", mel, ours)):
        _prompt(golden, report, model, VoiceFeatures(tokens, spectrum, speaker), kind)
    return (
        model.base(VoiceFeatures(codes, stored, speaker)),
        model.base(VoiceFeatures(ours, mel, speaker)),
    )


def _prompt(
    golden: GoldenSet, report: Report, model: Code2WavModel, voice: VoiceFeatures, kind: str
) -> None:
    flow = model.flow
    state = flow.new_state(1, len(voice.mel))
    state.open(0, len(voice.mel), flow.speaker(voice.speaker[None])[0])
    window = Window(0, [*voice.codes, *voice.codes[: flow.config.encoder.lookahead]])
    chunk = flow([window], state, prompt=voice.mel[None])[0]
    report.add("voice/prompt_mu", chunk.mu, golden.tensor("voice/prompt_mu"), kind=kind)
    stored = golden.trace["set"].get("base_cache")
    if stored is not None:
        _, conformer, estimator = state.cached(0)
        ours = {
            "estimator_frames": estimator,
            "conformer_frames": conformer,
            "noise": list(chunk.noise),
        }
        report.equal("trace/set.base_cache", ours, {k: stored[k] for k in ours}, kind)


@dataclass
class Step:
    """One unit of a duplex session or one group of a reply."""

    name: str
    """In the trace, e.g. `duplex.u01`; the tensors' names begin with it."""
    codes: list[int] | None
    """None: nothing is said."""
    ends: bool = False
    resets: bool = False
    calls: list[dict[str, Any]] | None = None
    """Stored calls of this step; None: they are stored for the session as a whole."""
    facts: dict[str, Any] | None = None


@dataclass
class Session:
    name: str
    steps: list[Step]
    calls: list[dict[str, Any]]
    in_units: bool


def _duplex(golden: GoldenSet, part: str) -> Session:
    steps, calls = [], []
    for unit, known in units_of(golden, part):
        forced = bool(known["inputs"].get("force_listen")) and known["turn_open_before"]
        codes = unit["tts"]["codes"] if "tts" in unit else None
        own = unit.get("token2wav", [])
        calls += own
        name = f"{part}.u{unit['unit']:02d}"
        steps.append(Step(name, codes, known["end_of_turn"], forced, own, unit))
    return Session(part, steps, calls, True)


def _reply(golden: GoldenSet, name: str) -> Session:
    trace = golden.trace["half_duplex"][name]
    steps = [
        Step(f"half_duplex.{name}", group["codes"], group["text_finished"])
        for group in trace.get("tts_groups", [])
    ]
    return Session(f"half_duplex.{name}", steps, trace.get("token2wav", []), False)


def _tensor_key(name: str) -> str:
    return name.replace(".", "/", 1)


def _call_keys(session: Session) -> list[str]:
    """Tensor names of all calls of a session."""
    if session.in_units:
        return [
            f"{_tensor_key(step.name)}.w{index}"
            for step in session.steps
            for index in range(len(step.calls or []))
        ]
    return [f"{_tensor_key(session.name)}.w{index}" for index in range(len(session.calls))]


class _Stored:
    """Each call from stored codes, mu, mel and F0."""

    def __init__(
        self, golden: GoldenSet, report: Report, model: Code2WavModel, session: Session
    ) -> None:
        self.golden, self.report, self.model, self.session = golden, report, model, session

    def run(self, voice: VoiceBase) -> None:
        vocoder, state = self.model.vocoder, self.model.flow.new_state(1, voice.flow.frames)
        state.load(0, voice.flow)
        sound_state = vocoder.new_state(2)
        keys = iter(_call_keys(self.session))
        for step in self._steps():
            if step.resets:
                self._restart(voice, state, sound_state)
            for call in step.calls or []:
                key = next(keys)
                window = Window(0, call["tokens"], call["last"])
                mel = self._flow(key, window, state)
                mel = self._stored(f"{key}.mel", mel)
                f0 = self._stored(f"{key}.f0", None)
                [sound] = vocoder.push(sound_state, [Push(HELD, mel, call["last"], f0)])
                self._sound(key, sound, "stored f0", WAVE_HELD)
                [sound] = vocoder.push(sound_state, [Push(FREE, mel, call["last"])])
                _compare_f0(self.golden, self.report, f"{key}.f0", sound.f0, ("stored", F0_LIMIT))
                self._sound(key, sound, "stored mel", WAVE_FREE)
                if call["last"]:
                    self._restart(voice, state, sound_state)

    @staticmethod
    def _restart(voice: VoiceBase, state: FlowState, sounds: VocoderState) -> None:
        state.load(0, voice.flow)
        for slot in (HELD, FREE):
            sounds.open(slot)

    def _steps(self) -> list[Step]:
        if self.session.in_units:
            return self.session.steps
        return [Step(self.session.name, None, calls=self.session.calls)]

    def _flow(self, key: str, window: Window, state: FlowState) -> Tensor:
        flow = self.model.flow
        fresh = len(window.codes) - (0 if window.last else flow.config.encoder.lookahead)
        packed, _ = state.begin([window], fresh)
        chunk = state.chunk(packed.to(self.golden.place.device), fresh)
        mu = flow.encode(chunk)
        if f"{key}.mu" in self.golden:
            stored = self.golden.tensor(f"{key}.mu")
            self.report.add(f"{key}.mu", mu[0], stored)
            mu = stored[None]
        mel = flow.solve(mu, state.speakers[:1], chunk)[0].T
        chunk.keep()
        if f"{key}.mel" in self.golden:
            self.report.add(f"{key}.mel", mel, self.golden.tensor(f"{key}.mel"))
        return mel

    def _stored(self, key: str, otherwise: Any) -> Any:
        return self.golden.tensor(key) if key in self.golden else otherwise

    def _sound(self, key: str, sound: VocoderSound, kind: str, tolerance: float) -> None:
        _compare_sound(self.golden, self.report, key, sound, (kind, tolerance))
        if f"{key}.wave_i16" in self.golden:
            _compare_pcm(self.golden, self.report, f"{key}.wave_i16", sound.wave, (kind, tolerance))


def _compare_f0(
    golden: GoldenSet, report: Report, key: str, ours: Tensor, how: tuple[str, float]
) -> None:
    if key in golden:
        kind, limit = how
        stored = golden.tensor(key)
        step = 2 * torch.finfo(torch.float32).eps * stored.max().item() if len(stored) else 0.0
        report.add_absolute(key, ours, stored, max(limit, step), kind)


def _compare_sound(
    golden: GoldenSet, report: Report, key: str, sound: VocoderSound, how: tuple[str, float]
) -> None:
    kind, tolerance = how
    for name, ours in (("source", sound.source), ("wave", sound.wave)):
        if f"{key}.{name}" in golden:
            report.add(f"{key}.{name}", ours, golden.tensor(f"{key}.{name}"), tolerance, kind)


def _compare_pcm(
    golden: GoldenSet, report: Report, key: str, wave: Tensor, how: tuple[str, float]
) -> None:
    """Rounding towards zero may move any sample by one step."""
    stored = golden.tensor(key).float()
    level = stored.square().mean().sqrt().item()
    kind, tolerance = how
    step = 1 / level if level else 0.0
    ours = torch.from_numpy(to_pcm([wave])[0]).float()
    report.add(key, ours, stored, tolerance + step, kind)


class _Play:
    """A session from its codes alone, `count` copies of it each one step later."""

    def __init__(
        self,
        golden: GoldenSet,
        report: Report,
        model: Code2WavModel,
        session: Session,
        kind: str,
    ) -> None:
        self.golden, self.report, self.model = golden, report, model
        self.session, self.kind = session, kind
        self.calls: list[list[dict[str, Any]]] = []
        """By slot: what was called in this step (duplex) or so far."""

    def run(self, voice: VoiceBase, count: int) -> None:
        # Room beyond the voice's own length must change nothing.
        self.streams = Code2Wav(self.model, count, voice.flow.frames + 50 * (count - 1))
        self.streams.observe = self._observe
        self.calls = [[] for _ in range(count)]
        for slot in range(count):
            self.streams.set_voice(slot, voice)
        steps = self.session.steps
        for moment in range(len(steps) + count - 1):
            due = {s: moment - s for s in range(count) if 0 <= moment - s < len(steps)}
            self._step({slot: steps[place] for slot, place in due.items()})
        if not self.session.in_units:
            for slot in range(count):
                self._compare_reply(slot)

    def _step(self, current: dict[int, Step]) -> None:
        for slot, step in current.items():
            if self.session.in_units:
                self.calls[slot] = []
            if step.resets:
                self.streams.reset(slot)
        self.current = current
        speaking = {slot: step for slot, step in current.items() if step.codes is not None}
        batch = [Codes(s, step.codes or [], step.ends) for s, step in speaking.items()]
        speak = self.streams.unit if self.session.in_units else self.streams.group
        waves = dict(zip(speaking, speak(batch), strict=True))
        if self.session.in_units:
            for slot, step in current.items():
                self._compare_unit(slot, step, waves.get(slot, torch.zeros(24_000)))

    def _observe(self, window: Window, chunk: FlowChunk, sound: VocoderSound) -> None:
        calls = self.calls[window.slot]
        key = f"{_tensor_key(self.current[window.slot].name)}.w{len(calls)}"
        golden, report = self.golden, self.report
        for name, ours in (("mu", chunk.mu), ("mel", chunk.mel)):
            if f"{key}.{name}" in golden:
                report.add(f"{key}.{name}", ours, golden.tensor(f"{key}.{name}"), kind=self.kind)
        _compare_f0(golden, report, f"{key}.f0", sound.f0, (self.kind, F0_LIMIT_OWN))
        _compare_sound(golden, report, key, sound, (self.kind, WAVE_FREE))
        if f"{key}.wave_i16" in golden:
            _compare_pcm(golden, report, f"{key}.wave_i16", sound.wave, (self.kind, WAVE_FREE))
        _, conformer, estimator = self.streams.flow_state.cached(window.slot)
        calls.append(
            {
                "tokens": window.codes,
                "last": window.last,
                "mel_frames": chunk.mel.shape[1],
                "noise": list(chunk.noise),
                "samples": len(sound.wave),
                "peak": float(sound.wave.abs().max()) if len(sound.wave) else 0.0,
                "estimator_frames_after": estimator,
                "conformer_frames_after": conformer,
            }
        )

    def _compare_unit(self, slot: int, step: Step, wave: Tensor) -> None:
        unit, report = step.facts or {}, self.report
        key = f"{_tensor_key(step.name)}.wave_i16"
        if key in self.golden:
            _compare_pcm(self.golden, report, key, wave, (self.kind, WAVE_FREE))
        self._compare_calls(step.name, self.calls[slot], unit.get("token2wav", []))
        facts = {"wave_buffer_after": self.streams.waiting(slot), "wave_samples": len(wave)}
        for name, value in facts.items():
            if name in unit:
                report.equal(f"trace/{step.name}.{name}", value, unit[name], self.kind)
        if "wave_peak" in unit:
            self._peaks(f"trace/{step.name}.wave_peak", [wave.abs().max()], [unit["wave_peak"]])

    def _compare_reply(self, slot: int) -> None:
        name, calls = self.session.name, self.calls[slot]
        self._compare_calls(name, calls, self.session.calls)
        trace = self.golden.trace["half_duplex"][name.partition(".")[2]]
        if "yielded_samples" in trace:
            ours = [call["samples"] for call in calls]
            stored = trace["yielded_samples"]
            self.report.equal(f"trace/{name}.yielded_samples", ours, stored, self.kind)

    def _compare_calls(
        self, name: str, ours: list[dict[str, Any]], stored: list[dict[str, Any]]
    ) -> None:
        key = f"trace/{name}.token2wav"
        known = [{k: v for k, v in call.items() if k != "peak"} for call in stored]
        plain = [
            {k: call[k] for k in (known[i] if i < len(known) else call)}
            for i, call in enumerate(ours)
        ]
        self.report.equal(key, plain, known, self.kind)
        if len(ours) == len(stored) and all("peak" in call for call in stored):
            self._peaks(f"{key}.peak", [c["peak"] for c in ours], [c["peak"] for c in stored])

    def _peaks(self, key: str, ours: list[Any], stored: list[float]) -> None:
        """Peaks are stored with four digits behind the point."""
        limit = 1e-4 + WAVE_FREE * max(stored, default=0.0)
        left, right = (torch.tensor([float(v) for v in values]) for values in (ours, stored))
        self.report.add_absolute(key, left, right, limit, self.kind)
