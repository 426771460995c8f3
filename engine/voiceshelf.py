"""The voices of this engine: prepared ones by name, and reference recordings that come with it."""

from __future__ import annotations

import logging
from pathlib import Path

from engine.runner import Runner
from engine.session import Voiced
from engine.token2wav import VoiceBase
from engine.voice import VoiceError, read_recording

log = logging.getLogger(__name__)

LISTEN_HZ = 16_000


class VoiceShelf:
    """Each voice is put on the device once; a known one costs nothing at the start of a call.

    Used by the model's thread (and by the one that loads, before it).
    """

    def __init__(self, runner: Runner, wanted: str) -> None:
        """`wanted`: the default voice, a name or the path of a recording; empty: the first."""
        self._runner = runner
        self._known: dict[str, Voiced] = {}
        self._recordings = {path.stem: path for path in runner.model.recordings()}
        self.remarks: list[str] = []
        """For whoever starts the engine: what cannot be done, and why."""
        self.default = ""
        voices = runner.model.voices
        if runner.model.token2wav is None:
            return
        if not voices.can_prepare:
            missing = ", ".join(voices.missing)
            self.remarks.append(
                f"recordings cannot become voices here (missing: {missing}); prepared ones: "
                f"{', '.join(voices.names()) or 'none'}"
            )
        if wanted and Path(wanted).is_file():
            self._recordings[Path(wanted).stem] = Path(wanted)
            wanted = Path(wanted).stem
        names = self.names()
        if wanted and wanted not in names:
            raise VoiceError("unknown", f"there is no voice {wanted!r}; there are {list(names)}")
        self.default = wanted or (names[0] if names else "")
        if self.default:
            self.get(self.default)
        else:
            self.remarks.append("no voice can be had: answers will be text only")

    def names(self) -> tuple[str, ...]:
        """What a session may ask for."""
        voices = self._runner.model.voices
        recorded = self._recordings if voices.can_prepare else {}
        return tuple(sorted({*voices.names(), *recorded}))

    def get(self, name: str) -> Voiced:
        """A voice by name, the default for "" or an unknown one. Raises `VoiceError`."""
        if name not in self.names():
            name = self.default
        if not name or self._runner.model.token2wav is None:
            return Voiced(None, None)
        if name not in self._known:
            self._known[name] = self._prepare(name)
        return self._known[name]

    def _prepare(self, name: str) -> Voiced:
        model = self._runner.model
        assert model.token2wav is not None
        path = self._recordings.get(name)
        data = path.read_bytes() if path is not None else None
        if name in model.voices.names():
            features = model.voices.named(name)
        else:
            assert data is not None, f"voice {name!r} is neither prepared nor recorded"
            features = model.voices.of_recording(data)
        base: VoiceBase = model.token2wav.base(features)
        embeddings = None
        if data is not None:
            # The language model hears the recording too: it answers in that manner of speaking.
            sound = read_recording(data).at(LISTEN_HZ)[0]
            embeddings = self._runner.hear_whole([sound], in_blocks=True)[0]
        return Voiced(base, embeddings)
