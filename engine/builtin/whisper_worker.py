"""Recogniser processes that hear with Whisper models.

Run as `python -m engine.builtin.whisper_worker CONTROL_FD PARENT_PID EARS`, the last the JSON of
[`EarFolder`]. The libraries are loaded before processes are forked, the models in each of them: a
library that has threads cannot be forked.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

import msgspec
import numpy as np

from engine.builtin.intents import EXAMPLES
from engine.builtin.recogniser_link import Begin, Result
from engine.builtin.recogniser_worker import begin_forkserver, serve_forks
from engine.builtin.speech_models import EarFolder, ear_for, vocabulary_of
from engine.builtin.whisper import WhisperModel, tokens_of


class WhisperEar:
    """Owns the models of a process and the sound of its utterance."""

    def __init__(self, ears: tuple[EarFolder, ...]) -> None:
        """Load the first model; others are loaded when they are needed."""
        self._ears = ears
        self._models: dict[str, WhisperModel] = {}
        self._pcm = bytearray()
        self._language = ""
        self._listens_for_commands = False
        self._examples: dict[str, list[str]] = {}
        """In the tokens of each model."""
        self._model(ears[0])

    def begin(self, utterance: Begin) -> None:
        self._pcm.clear()
        self._language = utterance.language
        self._listens_for_commands = utterance.commands

    def feed(self, pcm: bytes) -> None:
        self._pcm += pcm

    def partial(self) -> str:
        """Unknown: each look at the sound costs as much as the last one."""
        return ""

    def finish(self, utterance: int) -> Result:
        sound = np.frombuffer(bytes(self._pcm), np.int16)
        self._pcm.clear()
        if not len(sound):
            return Result(utterance, "", "")
        ear = ear_for(self._ears, self._language)
        model = self._model(ear)
        expected = self._examples[ear.path] if self._listens_for_commands else ()
        heard = model.transcribe(sound, self._language, ear.languages, expected)
        return Result(utterance, heard.text if heard.is_believable else "", "", heard.doubt)

    def abandon(self) -> None:
        self._pcm.clear()

    def _model(self, ear: EarFolder) -> WhisperModel:
        if ear.path not in self._models:
            self._models[ear.path] = WhisperModel(Path(ear.path))
            vocabulary = vocabulary_of(Path(ear.path))
            self._examples[ear.path] = tokens_of(EXAMPLES, vocabulary)
        return self._models[ear.path]


def can_load(ears: tuple[EarFolder, ...]) -> bool:
    """Try it in a process of its own: one that has loaded a model cannot fork."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(RuntimeError, ValueError):
            WhisperEar(ears)
            os._exit(0)
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return status == 0


def main() -> None:
    ears = msgspec.json.decode(sys.argv[3], type=tuple[EarFolder, ...])
    with begin_forkserver() as control:
        import ctranslate2  # noqa: F401

        if can_load(ears):
            serve_forks(control, lambda: WhisperEar(ears))


if __name__ == "__main__":
    main()
