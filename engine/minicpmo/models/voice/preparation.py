"""Voices: what the speech output needs of a recording, made once and kept by content.

The recording's codes, its mel spectrum and a speaker embedding. The networks that make them are
optional assets; without them only voices that were prepared elsewhere can be used.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from engine.dsp.fbank import fbank
from engine.dsp.mel_filters import prompt_mel, whisper_log_mel
from engine.dsp.resample import resample
from engine.minicpmo.models.voice.s3tokenizer import S3Tokenizer, load_s3tokenizer

MIN_SECONDS, MAX_SECONDS = 3.0, 20.0
SILENT_DBFS = -50.0
CLIP_LEVEL = 0.999
MAX_CLIPPED = 0.005
"""Share of samples at full scale that makes a recording unusable."""
MAX_DECODED_SECONDS = 60.0
"""Decoding of a longer file stops here; it is refused as too long anyway."""

FORMAT = "omnicall-voice-1"
"""Part of every cache key; change it when preparation changes."""

S3_NAME = "speech_tokenizer_v2_25hz"
CAMPPLUS_NAME = "campplus.onnx"
S3_MELS = 128


class VoiceError(ValueError):
    """A recording cannot serve as a voice, or no voice can be prepared; for people.

    `code` is one of unreadable, too_short, too_long, silent, clipped, unavailable, unknown.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, eq=False)
class VoiceRecording:
    samples: Tensor
    """[channels, N] float32 in [-1, 1]"""
    rate: int

    @property
    def seconds(self) -> float:
        return self.samples.shape[1] / self.rate

    def at(self, rate: int) -> Tensor:
        """Mono samples [N] at another rate: the mean of the channels."""
        return resample(self.samples.mean(dim=0), self.rate, rate)


def read_recording(data: bytes) -> VoiceRecording:
    """Decode a sound file of any format that PyAV reads; raise `VoiceError` if it is none."""
    pieces: list[np.ndarray] = []
    length = 0
    try:
        with av.open(io.BytesIO(data), "r", metadata_errors="replace") as container:
            if not container.streams.audio:
                raise VoiceError("unreadable", "The file has no sound in it.")
            stream = container.streams.audio[0]
            rate = int(stream.rate)
            resampler = av.AudioResampler(format="fltp", layout=stream.layout, rate=rate)
            for frame in _frames(container, stream):
                for part in resampler.resample(frame):
                    pieces.append(part.to_ndarray())
                    length += part.samples
                if length > MAX_DECODED_SECONDS * rate:
                    break
            pieces += [part.to_ndarray() for part in resampler.resample(None)]
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, VoiceError):
            raise
        raise VoiceError("unreadable", f"The recording cannot be read: {error}") from error
    pieces = [piece for piece in pieces if piece.size]
    if not pieces:
        raise VoiceError("unreadable", "The recording contains no sound.")
    samples = torch.from_numpy(np.concatenate(pieces, axis=1).astype(np.float32))
    return VoiceRecording(samples, rate)


def _frames(container: Any, stream: Any) -> Iterator[Any]:
    """All but what is damaged."""
    for packet in container.demux(stream):
        try:
            yield from packet.decode()
        except (av.error.InvalidDataError, av.error.EOFError):
            continue


def check_recording(recording: VoiceRecording) -> None:
    """Raise `VoiceError` if it is too short, too long, silent or clipped."""
    seconds = recording.seconds
    if seconds < MIN_SECONDS:
        raise VoiceError(
            "too_short",
            f"The recording has {seconds:.1f} s; at least {MIN_SECONDS:g} s are needed.",
        )
    if seconds > MAX_SECONDS:
        raise VoiceError(
            "too_long", f"The recording has {seconds:.1f} s; at most {MAX_SECONDS:g} s are taken."
        )
    mono = recording.samples.mean(dim=0)
    if not bool(mono.isfinite().all()):
        raise VoiceError("unreadable", "The recording contains values that are not finite.")
    level = 20 * float(mono.square().mean().sqrt().clamp(min=1e-9).log10())
    if level < SILENT_DBFS:
        raise VoiceError("silent", f"The recording is (nearly) silent: {level:.0f} dBFS.")
    clipped = float((recording.samples.abs() >= CLIP_LEVEL).float().mean())
    if clipped > MAX_CLIPPED:
        raise VoiceError(
            "clipped",
            f"{100 * clipped:.1f} % of the recording is clipped; record it at a lower level.",
        )


@dataclass(frozen=True, eq=False)
class VoiceFeatures:
    """What the flow needs of a voice."""

    codes: list[int]
    """25 Hz"""
    mel: Tensor
    """[2 * codes, 80]"""
    speaker: Tensor
    """[192], not normalised"""

    def to_bytes(self) -> bytes:
        """A safetensors file that `from_bytes` reads."""
        tensors = {
            "codes": torch.tensor(self.codes, dtype=torch.int32),
            "mel": self.mel.contiguous(),
            "speaker": self.speaker.contiguous(),
        }
        return save(tensors, metadata={"format": FORMAT})

    @classmethod
    def from_bytes(cls, data: bytes) -> VoiceFeatures:
        try:
            tensors = load(data)
            voice = cls(tensors["codes"].tolist(), tensors["mel"], tensors["speaker"])
        except (SafetensorError, KeyError) as error:
            raise VoiceError("unreadable", f"This is not a prepared voice: {error}") from error
        if voice.mel.shape[0] != 2 * len(voice.codes):
            raise VoiceError(
                "unreadable", f"{voice.mel.shape[0]} mel frames beside {len(voice.codes)} codes."
            )
        return voice


class Preparer:
    """The networks of voice preparation, from a token2wav folder. Runs on the CPU.

    `missing` says what is not there; with anything missing, `prepare` raises `VoiceError`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._tokenizer: S3Tokenizer | OnnxTokenizer | None = None
        self._speaker: OnnxNetwork | None = None
        self.missing = [
            name
            for name, found in (
                (f"{S3_NAME}.safetensors or .onnx", self._tokenizer_path()),
                (CAMPPLUS_NAME, (folder / CAMPPLUS_NAME).is_file()),
            )
            if not found
        ]

    def identity(self) -> str:
        """Part of the cache key: other networks make other features."""
        paths = [self._tokenizer_path(), self.folder / CAMPPLUS_NAME]
        parts = [f"{p.name}:{p.stat().st_size}" for p in paths if p is not None and p.is_file()]
        return "|".join([FORMAT, *parts])

    def prepare(self, recording: VoiceRecording) -> VoiceFeatures:
        """Make the features of a recording that `check_recording` accepts."""
        if self.missing:
            raise VoiceError(
                "unavailable",
                f"No voice can be prepared here: {self.folder} lacks {', '.join(self.missing)}.",
            )
        samples = recording.at(16_000)
        return VoiceFeatures(
            codes := self.codes(samples), self.mel(recording, len(codes)), self.speaker(samples)
        )

    def codes(self, samples: Tensor) -> list[int]:
        """Codes of 16 kHz samples [N]."""
        if self._tokenizer is None:
            path = self._tokenizer_path()
            assert path is not None, f"no speech tokenizer in {self.folder}"
            self._tokenizer = (
                OnnxTokenizer(path)
                if path.suffix == ".onnx"
                else load_s3tokenizer(path, path.with_suffix(".json"))
            )
        return self._tokenizer(whisper_log_mel(samples, S3_MELS))

    def mel(self, recording: VoiceRecording, num_codes: int) -> Tensor:
        """The prompt mel [2 * codes, 80], its last frame repeated where it is too short."""
        mel = prompt_mel(recording.at(24_000))[: 2 * num_codes]
        return F.pad(mel.T, (0, 2 * num_codes - len(mel)), mode="replicate").T.contiguous()

    def speaker(self, samples: Tensor) -> Tensor:
        """The speaker embedding [192] of 16 kHz samples [N]."""
        if self._speaker is None:
            self._speaker = OnnxNetwork(self.folder / CAMPPLUS_NAME)
        return self._speaker(speaker_features(samples)[None].numpy())[0].flatten()

    def _tokenizer_path(self) -> Path | None:
        weights = self.folder / f"{S3_NAME}.safetensors"
        if weights.is_file() and weights.with_suffix(".json").is_file():
            return weights
        network = self.folder / f"{S3_NAME}.onnx"
        return network if network.is_file() else None


def speaker_features(samples: Tensor) -> Tensor:
    """Return the speaker network's features [frames, 80] of 16 kHz samples [N]."""
    features = fbank(samples)
    return features - features.mean(dim=0)


class OnnxNetwork:
    """A network run by onnxruntime on one CPU thread."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            os.fspath(path), options, providers=["CPUExecutionProvider"]
        )
        self._inputs = [node.name for node in self._session.get_inputs()]

    def __call__(self, *values: np.ndarray) -> list[Tensor]:
        given = dict(zip(self._inputs, values, strict=True))
        return [torch.from_numpy(np.asarray(out)) for out in self._session.run(None, given)]


class OnnxTokenizer:
    """The speech tokenizer in the form in which it is released."""

    def __init__(self, path: Path) -> None:
        self._network = OnnxNetwork(path)

    def __call__(self, mel: Tensor) -> list[int]:
        length = np.array([mel.shape[1]], dtype=np.int32)
        codes: list[int] = self._network(mel[None].numpy(), length)[0].flatten().tolist()
        return codes


class Voices:
    """Prepared voices by name, and recordings prepared on demand and cached by content."""

    def __init__(self, preparer: Preparer, prepared: Path, cache: Path | None = None) -> None:
        """`prepared`: a folder of `NAME.safetensors`; `cache`: a folder of our own, or none."""
        self._preparer = preparer
        self._prepared = prepared
        self._cache = cache
        self._kept: dict[str, VoiceFeatures] = {}

    @property
    def can_prepare(self) -> bool:
        return not self._preparer.missing

    @property
    def missing(self) -> list[str]:
        """Return why this engine prepares no voices; empty if it can."""
        return list(self._preparer.missing)

    def names(self) -> list[str]:
        """Prepared voices."""
        return sorted(path.stem for path in self._prepared.glob("*.safetensors"))

    def named(self, name: str) -> VoiceFeatures:
        """A prepared voice; raises `VoiceError` if there is none of that name."""
        if name not in self.names():
            raise VoiceError("unknown", f"There is no voice {name!r}; there are {self.names()}.")
        return VoiceFeatures.from_bytes((self._prepared / f"{name}.safetensors").read_bytes())

    def key(self, data: bytes) -> str:
        """The cache key of a recording's file."""
        return hashlib.sha256(self._preparer.identity().encode() + b"\0" + data).hexdigest()

    def of_recording(self, data: bytes) -> VoiceFeatures:
        """The features of a sound file; computed only when its content is new."""
        key = self.key(data)
        if key in self._kept:
            return self._kept[key]
        path = self._cache / f"{key}.safetensors" if self._cache else None
        if path is not None and path.is_file():
            voice = VoiceFeatures.from_bytes(path.read_bytes())
        else:
            recording = read_recording(data)
            check_recording(recording)
            voice = self._preparer.prepare(recording)
            if path is not None:
                _write(path, voice.to_bytes())
        self._kept[key] = voice
        return voice


def _write(path: Path, data: bytes) -> None:
    """Put a file in place whole, so that two processes may prepare the same voice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    os.replace(file.name, path)
