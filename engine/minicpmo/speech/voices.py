"""The voices of this engine: prepared ones by name, and reference recordings that come with it."""

from __future__ import annotations

from pathlib import Path

from engine.minicpmo.checkpoint import OmniModel
from engine.minicpmo.models.voice.preparation import VoiceError, VoiceFeatures, read_recording
from engine.minicpmo.runner import hear_whole
from engine.minicpmo.session.session import SessionVoice

LISTEN_HZ = 16_000


class VoiceLibrary:
    """Each voice is prepared once, before the first call; at a call's start it costs nothing.

    Used by the thread that loads, and later by the model's own.
    """

    def __init__(self, model: OmniModel, wanted: str) -> None:
        """`wanted`: the default voice, a name or the path of a recording; empty: the first.

        Raises `engine.minicpmo.models.voice.preparation.VoiceError` if there is no such voice.
        """
        self._features: dict[str, VoiceFeatures] = {}
        self._known: dict[str, SessionVoice] = {}
        self._recordings = {path.stem: path for path in model.recordings()}
        self.remarks: list[str] = []
        """For whoever starts the engine: what cannot be done, and why."""
        self.default = ""
        if model.code2wav is None:
            return
        if wanted and Path(wanted).is_file():
            self._recordings[Path(wanted).stem] = Path(wanted)
            wanted = Path(wanted).stem
        self._collect(model)
        names = self.names()
        if wanted and wanted not in names:
            raise VoiceError("unknown", f"there is no voice {wanted!r}; there are {list(names)}")
        self.default = wanted or (names[0] if names else "")
        if not self.default:
            self.remarks.append("no voice is available: answers will be text only")

    def names(self) -> tuple[str, ...]:
        """Return the names that a session may ask for."""
        return tuple(sorted(self._features))

    @property
    def longest_prompt(self) -> int:
        """Mel frames of the longest voice."""
        return max((len(features.mel) for features in self._features.values()), default=1)

    def get(self, name: str) -> SessionVoice:
        """A voice by name; the default for "" and for a name that is not known."""
        return self._known.get(name) or self._known.get(self.default) or SessionVoice(None, None)

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
