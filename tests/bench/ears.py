"""How much is understood, without a network.

    python -m tests.bench.ears [--cases 25] [--speech basic]

Sounds of the behaviour bench go through Opus and the segmenter of a call into the recogniser.
Prints a line of JSON for each kind: words wrong of open sentences, those of the behaviour bench and
others in other voices, and commands that were understood; with CPU seconds for each.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from engine.builtin.intents import EXAMPLES, find_intent
from engine.builtin.interfaces import Transcript
from engine.builtin.recogniser_link import Begin
from engine.builtin.recogniser_worker import Decoders
from engine.builtin.speech_input import Said, SpeechInput
from engine.builtin.speech_models import find_ears, vocabulary_of
from engine.builtin.whisper import WhisperModel, tokens_of
from engine.config import BuiltinConfig
from engine.hearing.vad import FRAME
from engine.ipc.protocol import SessionConfig, TurnDetection
from media.opus import OpusDecoder, OpusEncoder
from tests.bench.behaviour import sentences, turns
from tests.bench.behaviour.sentences import errors, plain_words
from tests.bench.behaviour.sounds import RATE, VOICES, Sound, room, spoken
from tests.bench.words import SENTENCES as OTHER_SENTENCES

OTHER_VOICES = (
    *("en-us+m7", "en-gb-x-rp", "en-us+f3", "en-gb+m2", "en-gb-x-gbclan", "en-us+f1"),
    "en-gb+f5",
)
PACKET = RATE // 50
Ear = Callable[[bytes, bool], str]
"""The text of 16 kHz sound, where commands are expected or not."""


class Keeping:
    """Keeps the sound of an utterance. Implements `Recogniser` and `Utterance`."""

    is_owed = False

    def __init__(self) -> None:
        self.pcm = b""

    def listen(self, on_partial: Callable[[str], None], language: str = "") -> Keeping:
        return Keeping()

    def feed(self, pcm: bytes) -> None:
        self.pcm += pcm

    def pause(self) -> None: ...

    def resume(self) -> None: ...

    def abandon(self) -> None: ...

    async def finish(self) -> Transcript:
        return Transcript("")


def utterances(sound: Sound, case: int) -> Iterator[bytes]:
    """What the recogniser gets of a caller's sound."""
    heard = np.concatenate([room(1.0, case), sound, room(1.6, case + 1)])
    encoder, decoder = OpusEncoder(RATE, complexity=5, fec=False), OpusDecoder(16_000)
    pcm = (np.clip(heard, -1, 1) * 32_767).astype(np.int16)
    packets = [pcm[at : at + PACKET] for at in range(0, len(pcm) - PACKET + 1, PACKET)]
    stream = b"".join(decoder.decode(encoder.encode(packet.tobytes())) for packet in packets)
    config = SessionConfig(mode="half_duplex", turn_detection=TurnDetection())
    speech = SpeechInput("s", config, lambda _: None, Keeping(), lambda: None)
    for at in range(0, len(stream) - 2 * FRAME + 1, 2 * FRAME):
        for news in speech.push(at // 2, stream[at : at + 2 * FRAME], over=False):
            if isinstance(news, Said) and isinstance(news.words, Keeping):
                yield news.words.pcm


def neural() -> Ear:
    path = Path(find_ears(BuiltinConfig())[0].path)
    model, expected = WhisperModel(path), tokens_of(EXAMPLES, vocabulary_of(path))

    def hear(pcm: bytes, commands: bool) -> str:
        heard = model.transcribe(np.frombuffer(pcm, np.int16), expected=expected * commands)
        return heard.text if heard.is_believable else ""

    return hear


def basic() -> Ear:
    decoders = Decoders()

    def hear(pcm: bytes, commands: bool) -> str:
        decoders.begin(Begin(1, "", commands))
        decoders.feed(pcm)
        return decoders.finish(1).text

    return hear


def open_sentences(ear: Ear, texts: tuple[str, ...], voices: tuple[str, ...], most: int) -> None:
    for kind in sentences.KINDS:
        wrong = words = cases = 0
        begun = time.process_time()
        for case in chosen(len(texts) * len(voices), most):
            text, voice = texts[case % len(texts)], voices[case // len(texts)]
            sound = kind.make(spoken(text, voice), case)
            heard = " ".join(ear(pcm, False) for pcm in utterances(sound, case))
            wrong, words = wrong + errors(text, heard), words + len(plain_words(text))
            cases += 1
        name = kind.name if voices is VOICES else f"{kind.name}, held out"
        tell(f"sentences, {name}", cases, begun, words_wrong=round(wrong / words, 3))


def commands(ear: Ear, most: int) -> None:
    for kind in turns.KINDS:
        right = cases = 0
        begun = time.process_time()
        for case in chosen(len(turns.COMMANDS) * len(VOICES), most):
            text, _, at = turns.COMMANDS[case % len(turns.COMMANDS)]
            sound = kind.make(case, VOICES[case // len(turns.COMMANDS)], text, at)
            found = [find_intent(ear(pcm, True)) for pcm in utterances(sound, case)]
            right, cases = right + (find_intent(text) in found), cases + 1
        tell(f"commands, {kind.name}", cases, begun, right=right)


def chosen(count: int, most: int) -> list[int]:
    """Which cases, always the same ones."""
    return [int(case) for case in np.random.default_rng(5).permutation(count)[:most]]


def tell(kind: str, cases: int, begun: float, **figures: float) -> None:
    cpu_s = round((time.process_time() - begun) / cases, 2)
    print(json.dumps({"kind": kind, "cases": cases, **figures, "cpu_s": cpu_s}), flush=True)  # noqa: T201


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", type=int, default=25, help="of each kind")
    parser.add_argument("--speech", choices=("auto", "basic"), default="auto")
    options = parser.parse_args()
    ear = basic() if options.speech == "basic" else neural()
    open_sentences(ear, sentences.SENTENCES, VOICES, options.cases)
    open_sentences(ear, OTHER_SENTENCES, OTHER_VOICES, options.cases)
    commands(ear, options.cases)


if __name__ == "__main__":
    main()
