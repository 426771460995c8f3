"""A Whisper model in CTranslate2's form: speech to text, a whole utterance at a time."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from engine.builtin.log_mel import HOP, log_mel
from engine.builtin.recogniser_link import Doubt
from engine.ipc.protocol import INPUT_HZ

WINDOW = 10 * INPUT_HZ
"""Shorter sound is filled up: with less the model invents words."""
LONGEST = 30 * INPUT_HZ
"""What the model can hear at once. Longer sound is cut where it is quietest, in the last"""
CUT_WITHIN = 5 * INPUT_HZ
QUIET = INPUT_HZ // 5
MAX_TOKENS = 200
BEAM = 5
"""A third fewer words are wrong than with one, at nearly the same cost."""
LEAST_LOGPROB = -1.0
"""Mean of the tokens'. Below it, as its authors found, the text is not what was said;"""
LEAST_LOGPROB_SHORT = -1.4
"""of one or two words less can be known."""
NO_SPEECH = 0.6
NO_SPEECH_LOGPROB = -0.6
"""So sure the text must be where the model doubts that there is speech at all."""
EXPECTED_LOGPROB = -0.7
"""What is less sure is listened to again without the words that were expected: the model finds
those in a foreign language and in the murmur of others, too."""
WORDS_PER_S = 7.0
"""Nobody speaks faster; what seems so was invented,"""
CLEARLY_LONG_S = 1.0
"""What is shorter than this, the prefix included, is nothing to ask back about."""
FREE_WORDS = 3
"""from so many words on."""

SPACE = "\u0120"
"""As the vocabulary writes it."""
_TOKENS = re.compile(r" ?[A-Za-z']+|[^A-Za-z' ]| ")
_SPECIAL = re.compile(r"<\|.*?\|>")
_WORD = re.compile(r"[\w']+")
_TWICE = re.compile(r"(.*\w.*[.?!])(?: \1)+")
"""The model likes to say short sentences again."""
_NOTE = re.compile(r"\[[^\]]*\]|\([^)]*\)|\*[^*]*\*|♪+")
"""What subtitles tell beside words: "[BLANK_AUDIO]", "(music)"."""


class HeardWords(Struct, frozen=True):
    """What was understood of a stretch of sound."""

    text: str
    logprob: float
    """Mean log probability of its tokens."""
    no_speech: float
    """How probable it is that nobody spoke."""
    seconds: float

    @property
    def _words(self) -> int:
        """Spelled out, "N-O-K" are several."""
        return len(_WORD.findall(self.text))

    @property
    def doubt(self) -> Doubt:
        """Why it is not believed."""
        if self.is_believable and self.text:
            return ""
        is_long = self.seconds >= CLEARLY_LONG_S and self._words >= FREE_WORDS
        return "unclear" if is_long and self.no_speech <= NO_SPEECH else "no_speech"

    @property
    def is_believable(self) -> bool:
        """Whether it is what was said, as far as can be told."""
        words = self._words
        if words >= FREE_WORDS and words > WORDS_PER_S * self.seconds:
            return False
        if self.no_speech > NO_SPEECH and self.logprob < NO_SPEECH_LOGPROB:
            return False
        return self.logprob >= (LEAST_LOGPROB_SHORT if words < FREE_WORDS else LEAST_LOGPROB)


class WhisperModel:
    """One model. Not shared among threads: each recogniser process loads its own."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        """Load it; raises `RuntimeError` or `ValueError` for what is no such model."""
        import ctranslate2

        self._storage: Any = ctranslate2.StorageView
        self._model: Any = ctranslate2.models.Whisper(
            str(folder), compute_type="int8", intra_threads=threads, inter_threads=1
        )

    @property
    def is_multilingual(self) -> bool:
        return bool(self._model.is_multilingual)

    def transcribe(
        self,
        pcm: NDArray[np.int16],
        language: str = "",
        among: Collection[str] = (),
        expected: Sequence[str] = (),
    ) -> HeardWords:
        """[N] samples of 16 kHz as text. Without a `language` that of the speech is found, `among`
        those given. `expected`: tokens of English that may have been said, as if they had been
        before."""
        parts = [self._hear(part, language, among, expected) for part in pieces(pcm)]
        if len(parts) == 1:
            return parts[0]
        text = " ".join(part.text for part in parts if part.is_believable and part.text)
        return HeardWords(text, max(part.logprob for part in parts), 0.0, len(pcm) / INPUT_HZ)

    def _hear(
        self,
        pcm: NDArray[np.int16],
        language: str,
        among: Collection[str],
        expected: Sequence[str],
    ) -> HeardWords:
        length = max(WINDOW, -(-len(pcm) // HOP) * HOP)
        spectra = log_mel(np.pad(pcm, (0, length - len(pcm))), self._model.n_mels)
        encoded = self._model.encode(self._storage.from_array(spectra[None]))
        prompt = self._prompt(encoded, language, among)
        seconds = len(pcm) / INPUT_HZ
        if expected and (not self.is_multilingual or "<|en|>" in prompt):
            primed = self._generate(encoded, ["<|startofprev|>", *expected, *prompt], seconds)
            if primed.logprob >= EXPECTED_LOGPROB:
                return primed
        return self._generate(encoded, prompt, seconds)

    def _generate(self, encoded: Any, prompt: list[str], seconds: float) -> HeardWords:
        (found,) = self._model.generate(
            encoded,
            [prompt],
            beam_size=BEAM,
            max_length=MAX_TOKENS,
            return_scores=True,
            return_no_speech_prob=True,
        )
        text = plain(found.sequences[0])
        return HeardWords(text, found.scores[0], found.no_speech_prob, seconds)

    def _prompt(self, encoded: Any, language: str, among: Collection[str]) -> list[str]:
        prompt = ["<|startoftranscript|>"]
        if self.is_multilingual:
            if not language:
                (ranked,) = self._model.detect_language(encoded)
                tags = [tag.strip("<|>") for tag, _ in ranked]
                language = next((tag for tag in tags if not among or tag in among), tags[0])
            prompt += [f"<|{language}|>", "<|transcribe|>"]
        return [*prompt, "<|notimestamps|>"]


def pieces(pcm: NDArray[np.int16]) -> list[NDArray[np.int16]]:
    """The sound in stretches that the model can hear at once."""
    found = []
    while len(pcm) > LONGEST:
        late = pcm[LONGEST - CUT_WITHIN : LONGEST].astype(np.float32).reshape(-1, QUIET)
        at = LONGEST - CUT_WITHIN + int((late**2).sum(axis=1).argmin()) * QUIET + QUIET // 2
        found.append(pcm[:at])
        pcm = pcm[at:]
    return [*found, pcm]


def tokens_of(text: str, vocabulary: Collection[str]) -> list[str]:
    """Words of ASCII as tokens of the vocabulary, the longest first; what it lacks is left out."""
    known = set(vocabulary)
    found: list[str] = []
    for part in _TOKENS.findall(text):
        rest = part.replace(" ", SPACE)
        while rest:
            token = next((rest[:end] for end in range(len(rest), 0, -1) if rest[:end] in known), "")
            found += [token] if token else []
            rest = rest[len(token) or 1 :]
    return found


def plain(tokens: list[str]) -> str:
    """Byte-level tokens as words."""
    written = _SPECIAL.sub("", "".join(tokens))
    data = bytes(_BYTES[char] for char in written if char in _BYTES)
    text = " ".join(_NOTE.sub(" ", data.decode(errors="ignore")).split())
    twice = _TWICE.fullmatch(text)
    return text if twice is None or " " not in twice.group(1) else twice.group(1)


def _byte_of_char() -> dict[str, int]:
    """GPT-2's alphabet: printable bytes stand for themselves, the others from U+0100 on."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in kept]
    return {chr(byte): byte for byte in kept} | {
        chr(256 + at): byte for at, byte in enumerate(others)
    }


_BYTES = _byte_of_char()
