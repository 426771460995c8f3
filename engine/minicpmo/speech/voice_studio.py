"""The thread that prepares uploaded voices, on the CPU and behind everything else."""

from __future__ import annotations

import logging
import os
import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

import torch

from engine.minicpmo.models.voice.preparation import (
    VoiceError,
    Voices,
    check_recording,
    read_recording,
)
from engine.minicpmo.speech.voices import LISTEN_HZ, PreparedVoice

log = logging.getLogger(__name__)

NICENESS = 15
MAX_WAITING = 8

Prepared = Callable[[PreparedVoice], None]
Failed = Callable[[str, str], None]
"""Called with the voice's id and the reason, for people."""


class _Wanted(NamedTuple):
    voice: str
    sound: bytes
    prepared: Prepared
    failed: Failed


class VoiceStudio:
    """Owns the thread, which begins with the first voice."""

    def __init__(self, voices: Voices) -> None:
        self._voices = voices
        self._waiting: queue.Queue[_Wanted | None] = queue.Queue(MAX_WAITING)
        self._thread: threading.Thread | None = None

    def prepare(self, voice: str, sound: bytes, prepared: Prepared, failed: Failed) -> None:
        """Prepare a voice of a WAV file when there is time; calls back from the thread, once."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="voices", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(_Wanted(voice, sound, prepared, failed))
        except queue.Full:
            failed(voice, "too many voices wait to be prepared")

    def close(self) -> None:
        """Finish the voice under way and end; blocks until then."""
        if self._thread is None:
            return
        while not self._waiting.empty():
            self._waiting.get_nowait()
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        # Linux gives each thread a priority of its own.
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        while (wanted := self._waiting.get()) is not None:
            try:
                made = self._prepare(wanted.voice, wanted.sound)
            except VoiceError as error:
                wanted.failed(wanted.voice, str(error))
            except Exception:  # noqa: BLE001 - the boundary: one recording costs nothing else
                log.exception("a voice cannot be prepared")
                wanted.failed(wanted.voice, "internal error of the engine")
            else:
                wanted.prepared(made)

    @torch.inference_mode()
    def _prepare(self, voice: str, sound: bytes) -> PreparedVoice:
        recording = read_recording(sound)
        check_recording(recording)
        return PreparedVoice(voice, self._voices.of_recording(sound), recording.at(LISTEN_HZ))
