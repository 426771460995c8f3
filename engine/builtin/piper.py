"""Piper voices: VITS models that turn phonemes into speech, run by onnxruntime.

The format, https://github.com/OHF-Voice/piper1-gpl, is that of the published voices: the symbols of
the phonemes have ids, a blank stands between any two of them, and `NAME.onnx.json` has both.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from engine.base import EngineError
from engine.builtin.speech_models import VoiceFile

BEGIN, END, BLANK = "^", "$", "_"
MAX_SETTINGS_BYTES = 1_000_000
THREADS = 2


class _Audio(Struct, frozen=True):
    sample_rate: int


class _Espeak(Struct, frozen=True):
    voice: str


class _Inference(Struct, frozen=True):
    noise_scale: float = 0.667
    length_scale: float = 1.0
    noise_w: float = 0.8


class PiperSettings(Struct, frozen=True):
    """What `NAME.onnx.json` says."""

    audio: _Audio
    espeak: _Espeak
    phoneme_id_map: dict[str, list[int]]
    inference: _Inference = _Inference()
    phoneme_type: str = "espeak"
    num_speakers: int = 1


class PiperVoice:
    """One voice. Several threads may speak with it at once."""

    def __init__(self, file: VoiceFile) -> None:
        """Load it; raises `EngineError` if it cannot be used."""
        import onnxruntime

        self.name = file.name
        settings = read_settings(Path(f"{file.path}.json"))
        self._ids = settings.phoneme_id_map
        self._inference = settings.inference
        self._has_speakers = settings.num_speakers > 1
        self.sample_rate = settings.audio.sample_rate
        self.phonemiser = settings.espeak.voice
        """The voice of espeak-ng that knows its language."""
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(THREADS, len(os.sched_getaffinity(0)))
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # Threads that wait would use as much of the machine as those that work.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._model: Any = onnxruntime.InferenceSession(
                file.path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001 - the library raises classes of its own.
            raise EngineError(f"the voice {file.path} cannot be loaded: {error}") from error
        self._run_options: Any = onnxruntime.RunOptions

    def cancellable(self) -> Any:
        """Options of one run; setting `terminate` on them ends it."""
        return self._run_options()

    def speak(
        self, clauses: Sequence[tuple[str, str]], speed: float, run: Any
    ) -> NDArray[np.float32]:
        """IPA with the marks that end it as sound at `sample_rate`, about full scale.

        `run` is what `cancellable` gave; what was ended by it is empty.
        """
        ids = self.ids_of(clauses)
        chosen = self._inference
        scales = [chosen.noise_scale, chosen.length_scale / speed, chosen.noise_w]
        inputs: dict[str, Any] = {
            "input": np.array([ids], np.int64),
            "input_lengths": np.array([len(ids)], np.int64),
            "scales": np.array(scales, np.float32),
        }
        if self._has_speakers:
            inputs["sid"] = np.zeros(1, np.int64)
        try:
            (sound,) = self._model.run(None, inputs, run)
        except Exception:
            if run.terminate:
                return np.zeros(0, np.float32)
            raise
        return np.asarray(sound, np.float32).reshape(-1)

    def ids_of(self, clauses: Sequence[tuple[str, str]]) -> list[int]:
        """What the model reads; symbols that it does not know are left out."""
        text = " ".join(ipa + mark for ipa, mark in clauses)
        blank = self._ids.get(BLANK, [0])
        ids = [*self._ids.get(BEGIN, []), *blank]
        for symbol in unicodedata.normalize("NFD", text):
            if symbol in self._ids:
                ids += [*self._ids[symbol], *blank]
        return [*ids, *self._ids.get(END, [])]


def read_settings(path: Path) -> PiperSettings:
    """Raises `EngineError` if it does not belong to a voice whose phonemes are espeak-ng's."""
    try:
        if path.stat().st_size > MAX_SETTINGS_BYTES:
            raise EngineError(f"{path} is too long")
        settings = msgspec.json.decode(path.read_bytes(), type=PiperSettings)
    except (OSError, msgspec.DecodeError) as error:
        raise EngineError(f"{path}: {error}") from error
    if settings.phoneme_type != "espeak":
        raise EngineError(f"{path}: phoneme_type {settings.phoneme_type!r} is not espeak")
    if not 8_000 <= settings.audio.sample_rate <= 24_000:
        raise EngineError(f"{path}: a sample_rate of 8000 to 24000 Hz is expected")
    return settings
