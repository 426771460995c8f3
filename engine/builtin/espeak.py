"""libespeak-ng through ctypes. Its state is global: `shared_espeak` is its only owner."""

from __future__ import annotations

import ctypes
import re
import threading
from collections.abc import Callable
from ctypes import POINTER, c_char, c_char_p, c_int, c_short, c_ubyte, c_uint, c_void_p
from functools import cache
from typing import Any

import espeakng_loader
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from engine.base import EngineError

DEBIAN_LIBRARY = "libespeak-ng.so.1"
AUDIO_OUTPUT_SYNCHRONOUS = 2
DONT_EXIT = 0x8000
CHARS_UTF8 = 1
POSITION_CHARACTER = 1
PARAM_RATE = 1
PARAM_VOLUME = 2
EVENT_END_OF_LIST = 0
EVENT_WORD = 1
VOLUME = 75
"""Of 100, at which the loudest voices peak near full scale."""

NORMAL_RATE = 165
IPA = 2

_MARK = re.compile(r"[.,;:!?](?=\s|$|[\"')\]])")
_SWITCH = re.compile(r"\([^)]*\)")
"""Marks another language's words within the text."""
_VOICE_NAME = re.compile(r"([A-Za-z0-9-]+)(\+[A-Za-z0-9]+)?")


class _EspeakEvent(ctypes.Structure):
    _fields_ = (
        ("type", c_int),
        ("identifier", c_uint),
        ("text_position", c_int),
        ("length", c_int),
        ("audio_position", c_int),
        ("sample", c_int),
        ("user_data", c_void_p),
        ("id", c_char * 8),
    )


class _EspeakVoice(ctypes.Structure):
    _fields_ = (
        ("name", c_char_p),
        # A priority byte, then the code: a plain char pointer would stop at a zero priority.
        ("languages", c_void_p),
        ("identifier", c_char_p),
        ("gender", c_ubyte),
        ("age", c_ubyte),
        ("variant", c_ubyte),
        ("reserved", c_ubyte),
        ("score", c_int),
        ("spare", c_void_p),
    )


_CALLBACK = ctypes.CFUNCTYPE(c_int, POINTER(c_short), c_int, POINTER(_EspeakEvent))


class SynthesisedText(Struct, frozen=True):
    """One text as sound at the library's rate."""

    pcm: NDArray[np.int16]
    words: tuple[tuple[int, int], ...]
    """(index of the word's first character, milliseconds from the start)."""
    complete: bool
    """False: stopped on request."""


class Espeak:
    """The library, loaded and initialised: once per process, by `shared_espeak`."""

    def __init__(self) -> None:
        """Load from the wheel, else from Debian; raise `EngineError` if neither works."""
        self._lib, self.sample_rate = _load()
        self._callback = _CALLBACK(self._on_audio)
        self._lib.espeak_SetSynthCallback(self._callback)
        self.voices = self._list_voices()
        self._settings: tuple[str, int] | None = None
        self._chunks: list[NDArray[np.int16]] = []
        self._words: list[tuple[int, int]] = []
        self._stop: Callable[[], bool] = _never
        self._stopped = False
        self._lock = threading.Lock()

    def has_voice(self, voice: str) -> bool:
        """Whether `voice` (a language code, optionally "+" and a variant such as f3) can speak."""
        match = _VOICE_NAME.fullmatch(voice)
        return match is not None and match.group(1).lower() in self.voices

    def speak(
        self, text: str, voice: str, rate_wpm: int, stop: Callable[[], bool]
    ) -> SynthesisedText:
        """Synthesise `text`, one at a time; `stop` is asked after every 60 ms of sound."""
        with self._lock:
            if self._settings != (voice, rate_wpm):
                self._choose(voice, rate_wpm)
            self._chunks, self._words = [], []
            self._stop, self._stopped = stop, False
            data = text.replace("\0", " ").encode()
            self._lib.espeak_Synth(
                data, len(data) + 1, 0, POSITION_CHARACTER, 0, CHARS_UTF8, None, None
            )
            pcm = np.concatenate(self._chunks) if self._chunks else np.zeros(0, np.int16)
            return SynthesisedText(pcm, tuple(self._words), not self._stopped)

    def phonemes(self, text: str, voice: str) -> tuple[tuple[str, str], ...]:
        """The text in IPA, clause by clause, each with the mark that ends it, if one does."""
        with self._lock:
            self._choose(voice, NORMAL_RATE)
            data = text.replace("\0", " ").encode()
            buffer = ctypes.create_string_buffer(data)
            start = ctypes.addressof(buffer)
            rest = c_char_p(start)
            clauses: list[tuple[str, str]] = []
            done = 0
            while rest:
                ipa = self._lib.espeak_TextToPhonemes(ctypes.byref(rest), CHARS_UTF8, IPA)
                # The library has read into the next clause when it returns.
                end = ctypes.cast(rest, c_void_p).value
                end = len(data) if end is None else end - start
                marks = _MARK.findall(data[done:end].decode(errors="ignore"))
                done = end
                if ipa:
                    clauses.append((_SWITCH.sub("", ipa.decode()), marks[-1] if marks else ""))
            return tuple(clauses)

    def _choose(self, voice: str, rate_wpm: int) -> None:
        match = _VOICE_NAME.fullmatch(voice)
        assert match is not None, voice
        name = self.voices[match.group(1).lower()] + (match.group(2) or "")
        self._lib.espeak_SetVoiceByName(name.encode())
        self._lib.espeak_SetParameter(PARAM_RATE, max(80, min(450, rate_wpm)), 0)
        self._lib.espeak_SetParameter(PARAM_VOLUME, VOLUME, 0)
        self._settings = (voice, rate_wpm)

    def _on_audio(self, samples: Any, count: int, events: object) -> int:
        # Runs inside espeak_Synth; returning 1 ends it.
        if samples and count > 0:
            # `np.ctypeslib.as_array` makes a type for each count, and types are never freed.
            self._chunks.append(np.frombuffer(ctypes.string_at(samples, 2 * count), np.int16))
        index = 0
        while (event := events[index]).type != EVENT_END_OF_LIST:  # type: ignore[index]
            if event.type == EVENT_WORD:
                self._words.append((event.text_position - 1, event.audio_position))
            index += 1
        if self._stop():
            self._stopped = True
            return 1
        return 0

    def _list_voices(self) -> dict[str, str]:
        listed: dict[str, str] = {}
        voices = self._lib.espeak_ListVoices(None)
        index = 0
        while voices[index]:
            voice = voices[index].contents
            code = ctypes.string_at(voice.languages + 1).decode().lower()
            identifier = voice.identifier.decode()
            if not identifier.startswith("mb/"):
                listed.setdefault(code, identifier)
            index += 1
        return listed


_LOADING = threading.Lock()


@cache
def _espeak() -> Espeak:
    return Espeak()


def shared_espeak() -> Espeak:
    """The process's only one, for any thread; raises `EngineError` if it cannot be loaded.

    The library calls back whoever initialised it last: with a second one the first falls silent.
    """
    with _LOADING:
        return _espeak()


def _never() -> bool:
    return False


def _load() -> tuple[ctypes.CDLL, int]:
    reasons: list[str] = []
    candidates: tuple[tuple[str, bytes | None], ...] = (
        (espeakng_loader.get_library_path(), _wheel_data()),
        (DEBIAN_LIBRARY, None),
    )
    for path, data in candidates:
        try:
            lib = ctypes.CDLL(path)
        except OSError as error:
            reasons.append(str(error))
            continue
        lib.espeak_ListVoices.argtypes = [c_void_p]
        lib.espeak_ListVoices.restype = POINTER(POINTER(_EspeakVoice))
        lib.espeak_TextToPhonemes.argtypes = [POINTER(c_char_p), c_int, c_int]
        lib.espeak_TextToPhonemes.restype = c_char_p
        rate = lib.espeak_Initialize(AUDIO_OUTPUT_SYNCHRONOUS, 0, data, DONT_EXIT)
        if rate > 0:
            return lib, rate
        reasons.append(f"{path}: no voice data")
    raise EngineError(f"espeak-ng cannot be loaded: {'; '.join(reasons)}")


def _wheel_data() -> bytes | None:
    try:
        return espeakng_loader.get_data_path().encode()  # type: ignore[no-any-return]
    except RuntimeError:
        return None
