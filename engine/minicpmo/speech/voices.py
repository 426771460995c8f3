"""The voices of this engine: prepared ones by name, recordings that come with it, uploaded ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from engine.minicpmo.checkpoint import ASSETS, OmniModel
from engine.minicpmo.models.code2wav import VoiceBase
from engine.minicpmo.models.voice.preparation import VoiceError, VoiceFeatures, read_recording
from engine.minicpmo.runner import hear_whole
from engine.minicpmo.session.session import SessionVoice

LISTEN_HZ = 16_000
PROMPT_HZ = 50
"""Mel frames a second of a voice's prompt."""
CODE_HZ = 25
LEAST_PROMPT = PROMPT_HZ // CODE_HZ
"""Frames of a code: room that is made where there is no voice at all."""
MAX_PLACED = 8
"""Uploaded voices on the device at once: one takes up to 0.17 GB there."""
KEPT_PLACED = 3
"""Of these, those that stay while nobody speaks with them."""
MAX_DROPPED = 256
DEFAULTS = ("HT_ref_audio", "system_ref_audio")
"""Recordings of the published model that its own servers speak with, the usual one first."""
REFERENCE = "ref_audio"
"""In the names of recordings that are meant to be voices: others lie there as examples, that of a
public person among them."""
UPLOADED = "voice_"
"""How the ids of uploaded voices begin."""


class PreparedVoice(NamedTuple):
    """An uploaded voice, before it is on the device."""

    voice: str
    features: VoiceFeatures
    sound: Tensor
    """The recording [N], 16 kHz."""


def not_offered(recordings: Iterable[str], named: Set[str]) -> list[str]:
    """Of the names of a folder's recordings, those that are neither references nor named."""
    return [name for name in sorted(recordings) if REFERENCE not in name and name not in named]


def named_voices(
    recordings: dict[str, Path], wanted: str, offered: Iterable[str]
) -> tuple[str, set[str]]:
    """The default voice's name, and all names that settings give; `wanted` may be a path, whose
    recording is then added to `recordings`."""
    if wanted and Path(wanted).is_file():
        recordings[Path(wanted).stem] = Path(wanted)
        wanted = Path(wanted).stem
    return wanted, {name for name in (wanted, *offered) if name}


def default_of(names: Sequence[str], wanted: str = "") -> str:
    """The voice of those who name none; empty where there is no voice at all."""
    return next((name for name in (wanted, *DEFAULTS, *sorted(names)) if name in names), "")


class VoiceLibrary:
    """Each voice is prepared once; at a call's start it costs nothing, or little.

    Used by the thread that loads, and later by the model's own.
    """

    def __init__(
        self,
        model: OmniModel,
        wanted: str,
        uploaded_s: float = 10.0,
        offered: Sequence[str] = (),
    ) -> None:
        """`wanted`: the default voice, a name or the path of a recording; empty: one of
        `DEFAULTS`, or the first. `uploaded_s`: of a recording that was uploaded or that nobody
        chose, how much the sound of the speech is made from. `offered`: names of the model's
        recordings that callers may choose beside its reference ones.

        Raises `engine.minicpmo.models.voice.preparation.VoiceError` if there is no such voice.
        """
        self._model = model
        self._uploaded_s = uploaded_s
        self._features: dict[str, VoiceFeatures] = {}
        self._known: dict[str, SessionVoice] = {}
        self._recordings = {path.stem: path for path in model.recordings()}
        """Those that may become voices."""
        self._uploaded: dict[str, tuple[VoiceFeatures, Tensor]] = {}
        """Features, and what the language model hears of it."""
        self._placed: WeakValueDictionary[str, VoiceBase] = WeakValueDictionary()
        self._recent: deque[VoiceBase] = deque(maxlen=KEPT_PLACED)
        self._dropped: deque[str] = deque(maxlen=MAX_DROPPED)
        """Those that were dropped before they were prepared."""
        self._preferred = ""
        """The uploaded voice of those who name none."""
        self.remarks: list[str] = []
        """For whoever starts the engine: what cannot be done, and why."""
        self.default = ""
        if model.code2wav is None:
            return
        wanted, chosen = named_voices(self._recordings, wanted, offered)
        self._leave_out(chosen.union(model.voices.names()))
        self._collect(model)
        names = self.names()
        for name in sorted(chosen.difference(names)):
            raise VoiceError("unknown", f"there is no voice {name!r}; there are {list(names)}")
        self.default = default_of(names, wanted)
        for name in set(self._recordings).difference(chosen, [self.default], model.voices.names()):
            if name in self._features:
                self._features[name] = self._shortened(self._features[name])
        if not self.default:
            self.remarks.append("no voice is available: answers will be text only")

    def names(self) -> tuple[str, ...]:
        """Return the names that a session may ask for, the default one first."""
        return tuple(sorted(self._features, key=lambda name: (name != self.default, name)))

    @property
    def lacks(self) -> str:
        """Why no uploaded recording can become a voice, and what would change that; else empty."""
        model = self._model
        if model.code2wav is None:
            return f"The model's folder has no {ASSETS}, so it answers in text only."
        if model.voices.can_prepare:
            return ""
        missing = " and ".join(model.voices.missing)
        return (
            f"The model's folder lacks {missing} in {ASSETS}, which make a voice of a recording: "
            "they are part of the published model MiniCPM-o 4.5, in the folder of that name."
        )

    @property
    def longest_prompt(self) -> int:
        """Mel frames of the longest voice, of one that may still come included."""
        longest = max(
            (len(features.mel) for features in self._features.values()), default=LEAST_PROMPT
        )
        return longest if self.lacks else max(longest, round(PROMPT_HZ * self._uploaded_s))

    def choose(self, name: str, prompt: str = "") -> tuple[SessionVoice, str]:
        """A voice by name, the default for ""; `prompt`: another one for the model to hear.

        Also why it is not what was asked for, for people, or an empty text.
        """
        voice, problem = self._find(name)
        if prompt:
            heard, why = self._find(prompt)
            problem = " ".join(text for text in (problem, why) if text)
            voice = SessionVoice(voice.base, heard.embeddings)
        return voice, problem

    def _find(self, name: str) -> tuple[SessionVoice, str]:
        name = name or self._preferred
        if name.startswith(UPLOADED):
            return self._place(name)
        known = self._known.get(name) or self._known.get(self.default)
        return known or SessionVoice(None, None), ""

    def place(self, model: OmniModel) -> None:
        """Put every voice on the device."""
        for name, features in self._features.items():
            assert model.code2wav is not None, "voices without token2wav"
            embeddings = None
            if name in self._recordings:
                # The language model hears the recording, too, and speaks in its manner.
                sound = read_recording(self._recordings[name].read_bytes()).at(LISTEN_HZ)
                embeddings = hear_whole(model, [sound], in_blocks=True)[0]
            self._known[name] = SessionVoice(model.code2wav.base(features), embeddings)

    # ------------------------------------------------------------------ uploaded voices

    def keep(self, prepared: PreparedVoice) -> None:
        """Take an uploaded voice, and put it on the device if there is room."""
        if prepared.voice in self._dropped:
            return
        features = self._shortened(prepared.features)
        embeddings = hear_whole(self._model, [prepared.sound], in_blocks=True)[0]
        self._uploaded[prepared.voice] = (features, embeddings)
        self._place(prepared.voice)
        if self._model.device.type == "cuda":
            # The speech thread reads it in another stream.
            torch.cuda.current_stream(self._model.device).synchronize()

    def drop(self, voice: str) -> None:
        """Give nobody this voice any more; who speaks with it goes on."""
        if self._uploaded.pop(voice, None) is None:
            self._dropped.append(voice)

    def prefer(self, voice: str) -> None:
        """Give this uploaded voice to who names none; empty: the engine's own default."""
        self._preferred = voice

    def _place(self, voice: str) -> tuple[SessionVoice, str]:
        found = self._uploaded.get(voice)
        default = self._known.get(self.default) or SessionVoice(None, None)
        if found is None:
            why = "is not known here, or is still being prepared"
            return default, f"The voice {voice} {why}: the default one speaks."
        features, embeddings = found
        base = self._placed.get(voice)
        if base is None:
            if len(self._placed) >= MAX_PLACED:
                self._recent.clear()
            if len(self._placed) >= MAX_PLACED:
                why = f"{MAX_PLACED} uploaded voices are spoken with at the moment"
                return default, f"{why}, which is all that fit: the default one speaks."
            assert self._model.code2wav is not None, "it was prepared"
            base = self._placed[voice] = self._model.code2wav.base(features)
        self._recent.append(base)
        return SessionVoice(base, embeddings), ""

    def _shortened(self, features: VoiceFeatures) -> VoiceFeatures:
        """Every slot has room for the longest voice: it grows for those only that were chosen."""
        most = round(CODE_HZ * self._uploaded_s)
        return replace(features, codes=features.codes[:most], mel=features.mel[: 2 * most])

    def _leave_out(self, named: Set[str]) -> None:
        """Forget recordings that are neither references nor named."""
        others = not_offered(self._recordings, named)
        for name in others:
            del self._recordings[name]
        if others:
            self.remarks.append(
                f"recordings in the model's folder that are not offered as voices: "
                f"{', '.join(others)}; minicpmo.voices names those that are"
            )

    def _collect(self, model: OmniModel) -> None:
        voices = model.voices
        for name in voices.names():
            self._features[name] = voices.named(name)
        if not voices.can_prepare:
            if self._recordings:
                missing = ", ".join(voices.missing)
                self.remarks.append(f"recordings cannot become voices here: missing {missing}")
            return
        for name, path in self._recordings.items():
            if name in self._features:
                continue
            try:
                self._features[name] = voices.of_recording(path.read_bytes())
            except VoiceError as error:
                self.remarks.append(f"{path.name} cannot be a voice: {error}")
