"""A gate that is shut opens for speech, with its beginning."""

import wave
from pathlib import Path

import numpy as np

from media.formats import UPLINK_PACKET_BYTES
from media.wake import WakeGate

SPOKEN = Path(__file__).parents[1] / "engine" / "data" / "hello.wav"


def spoken() -> list[bytes]:
    """A word of a person, in packets."""
    with wave.open(str(SPOKEN)) as file:
        assert file.getframerate() == 16_000 and file.getnchannels() == 1
        pcm = file.readframes(file.getnframes())
    whole = len(pcm) - len(pcm) % UPLINK_PACKET_BYTES
    return [pcm[at : at + UPLINK_PACKET_BYTES] for at in range(0, whole, UPLINK_PACKET_BYTES)]


def noise(packets: int) -> list[bytes]:
    rng = np.random.default_rng(1)
    return [rng.normal(0, 30, 320).astype(np.int16).tobytes() for _ in range(packets)]


class Rig:
    def __init__(self) -> None:
        self.passed: list[tuple[int, bytes]] = []
        self.woken = 0
        self.gate = WakeGate(lambda pts, pcm: self.passed.append((pts, pcm)), self.wake)

    def wake(self) -> None:
        self.woken += 1
        self.gate.shut(False)

    def hear(self, packets: list[bytes]) -> None:
        for packet in packets:
            self.gate.hear(0, packet)


def test_an_open_gate_passes_everything() -> None:
    rig = Rig()
    rig.hear(noise(3))
    assert [pts for pts, _ in rig.passed] == [0, 320, 640]


def test_speech_opens_it_and_its_beginning_is_heard() -> None:
    rig = Rig()
    rig.hear(noise(10))
    rig.gate.shut(True)
    rig.hear(noise(200))
    assert len(rig.passed) == 10 and rig.woken == 0
    speech = spoken()
    rig.hear(speech)
    assert rig.woken == 1
    # Nothing of it is missing but what lay more than 300 ms before it was known to be speech.
    assert rig.passed[-1][1] == speech[-1]
    assert len(rig.passed) - 10 >= len(speech) * 0.6
    assert [pts for pts, _ in rig.passed] == [320 * n for n in range(len(rig.passed))]
