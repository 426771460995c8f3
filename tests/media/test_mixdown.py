"""A stereo microphone is heard whatever its channels carry."""

import av
import numpy as np
import pytest

from media.mixdown import Mixdown
from tests.media.network import stream
from tests.media.peers import speech
from tests.media.rig import rig
from tests.media.test_uplink import Ear, with_payloads

VOICE = np.frombuffer(speech(2.0, 48_000), np.int16)
CHANNELS = {
    "alike": (1.0, 1.0),
    "inverted": (1.0, -1.0),
    "left only": (1.0, 0.0),
    "right only": (0.0, 1.0),
    "inverted and weaker": (1.0, -0.6),
}


def encoded_stereo(left: np.ndarray, right: np.ndarray) -> list[bytes]:
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format = 48_000, "stereo", "s16"
    encoder.bit_rate = 96_000
    interleaved = np.stack([left, right], 1).astype(np.int16)
    packets = []
    for i in range(0, len(interleaved) - 959, 960):
        block = interleaved[i : i + 960].reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = 48_000, i
        packets += [bytes(p) for p in encoder.encode(frame)]
    return packets


@pytest.mark.parametrize("name", CHANNELS)
async def test_a_stereo_microphone_is_heard_at_the_level_of_its_voice(name: str) -> None:
    gains = CHANNELS[name]
    noise = np.random.default_rng(2).normal(0, 5, (2, len(VOICE)))
    payloads = encoded_stereo(VOICE * gains[0] + noise[0], VOICE * gains[1] + noise[1])
    async with rig("audio") as made:
        ear = Ear()
        uplink = ear.attach(made)
        await made.start()
        await ear.play(made, uplink, with_payloads(stream(len(payloads)), payloads))
    heard = np.frombuffer(ear.pcm, np.int16).astype(float)
    assert ear.errors == []
    assert len(heard) == len(payloads) * 320
    assert heard[3200:].std() == pytest.approx(VOICE.astype(float).std(), rel=0.35)


def test_a_channel_that_fails_in_the_midst_is_left_without_a_click() -> None:
    t = np.arange(32_000) / 16_000
    tone = 8000 * np.sin(2 * np.pi * 200 * t)
    right = np.where(t < 1, tone, 0)
    pcm = np.stack([tone, right], 1).astype(np.int16)
    mixdown = Mixdown()
    pieces = [mixdown.mix(pcm[i : i + 320].tobytes()) for i in range(0, 32_000, 320)]
    mixed = np.frombuffer(b"".join(pieces), np.int16).astype(float)
    assert mixed[-8000:].std() == pytest.approx(tone.std(), rel=0.02)
    # The step at the cut is that of the channel itself; the mix adds none.
    assert np.abs(np.diff(mixed)).max() <= np.abs(np.diff(tone)).max() * 1.1


def test_two_different_voices_are_both_heard() -> None:
    rng = np.random.default_rng(3)
    pcm = rng.normal(0, 3000, (3200, 2)).astype(np.int16)
    mixed = np.frombuffer(Mixdown().mix(pcm.tobytes()), np.int16).astype(float)
    assert mixed == pytest.approx(pcm.mean(1), abs=1)


def test_an_empty_piece_is_empty() -> None:
    assert Mixdown().mix(b"") == b""
