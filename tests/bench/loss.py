"""What lost packets cost the sound of a call, by our encoder, what it is told, and our receiver.

    python -m tests.bench.loss [--seconds 30] [--red]

In virtual time, so that a busy machine changes nothing: speech is encoded as `media.sendrate` asks
by the reports of the receiver, packets are lost alone or in bursts, and `media.uplink` makes the
best of what comes; with `--red` for a client that takes copies (RFC 2198). Prints a line of JSON
for each loss: the share that was concealed or repaired, the bit rate, and PLCMOS with its fall
where the package `speechmos` is installed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
from collections import deque
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from media.downlink import COPY_DISTANCE
from media.formats import DOWNLINK_HZ, DOWNLINK_PACKET_BYTES, RTP_OPUS_PACKET_TICKS
from media.opus import OpusEncoder
from media.red import Copy, pack
from media.sendrate import SendRate
from media.uplink import AudioUplink
from tests.media.network import VirtualClock
from tests.media.rig import OPUS, RED, rig
from tests.speech import DATA, read_wav

TICK_S = 0.02
REPORT_TICKS = 50
ROUND_TRIP_S = 0.05
WARM_UP_TICKS = 500
"""Until the reports have had their effect."""
LOSSES = ((0.0, 1), (0.01, 1), (0.03, 1), (0.05, 1), (0.1, 1), (0.2, 1), (0.1, 3), (0.1, 5))
"""Share and length of bursts."""
PIECE_S = 5
SENTENCE = "You can take the second street on the left, and walk until you see the old town hall."


def speech(seconds: float) -> bytes:
    """Int16 at 24 kHz: a neural voice where there is one, else the tests' utterances."""
    pcm = neural() or _recorded()
    wanted = int(seconds * DOWNLINK_HZ) * 2
    return (pcm * (wanted // len(pcm) + 1))[:wanted]


def neural(text: str = SENTENCE) -> bytes:
    """A voice of `omnicall[voice]`, 24 kHz; empty where there is none."""
    from engine.builtin.espeak import shared_espeak
    from engine.builtin.piper import PiperVoice
    from engine.builtin.resampler import Resampler
    from engine.builtin.speech_models import find_models
    from engine.config import BuiltinConfig

    if not (voices := find_models(BuiltinConfig()).voices):
        return b""
    voice = PiperVoice(voices[0])
    sound = voice.speak(shared_espeak().phonemes(text, voice.phonemiser), 1.0, voice.cancellable())
    resampler = Resampler(voice.sample_rate, DOWNLINK_HZ)
    loud = (sound / np.abs(sound).max() * 16_000).astype(np.int16)
    return np.concatenate([resampler.push(loud), resampler.flush()]).tobytes() + bytes(9600)


def _recorded() -> bytes:
    from engine.builtin.resampler import Resampler

    rate, samples = read_wav(DATA / "tell_story.wav")
    resampler = Resampler(rate, DOWNLINK_HZ)
    return resampler.push((samples * 32_767).astype(np.int16)).tobytes()


def lost(loss: float, burst: int, seed: int) -> Iterator[bool]:
    """Of each packet, whether it is; the share is met on average."""
    rng = random.Random(seed)
    while True:
        if burst == 1:
            yield rng.random() < loss
            continue
        if rng.random() < loss / burst / (1 - loss):
            yield from [True] * burst
        yield False


class Judge:
    """PLCMOS, where it can be had."""

    def __init__(self) -> None:
        try:
            from speechmos.plcmos import PLCMOS
        except ImportError:
            self._model: Any = None
        else:
            self._model = PLCMOS(embed_rounds=3)

    def of(self, sound: NDArray[np.int16]) -> float | None:
        if self._model is None:
            return None
        np.random.seed(1)  # noqa: NPY002  the package draws from it
        size = 16_000 * PIECE_S
        pieces = [sound[at : at + size] / 32_768 for at in range(0, len(sound) - size + 1, size)]
        return float(np.mean([self._model.get_mos(piece) for piece in pieces]))


async def run(
    pcm: bytes, loss: float, burst: int, judge: Judge, has_red: bool = False
) -> dict[str, Any]:
    """One way, judged."""
    heard, row = await through(pcm, loss, burst, has_red=has_red)
    mos = judge.of(heard)
    return row if mos is None else row | {"plcmos": round(mos, 2)}


async def through(
    pcm: bytes, loss: float, burst: int, seed: int = 3, has_red: bool = False
) -> tuple[NDArray[np.int16], dict[str, Any]]:
    """One way, from speech to speech: what is heard, 16 kHz, and what was measured."""
    encoder, clock, heard = OpusEncoder(fec=False), VirtualClock(), bytearray()
    rate, losses = SendRate(encoder.bitrate), lost(loss, burst, seed)
    sizes, gone = [], [False] * REPORT_TICKS
    sent: deque[bytes] = deque(maxlen=COPY_DISTANCE)
    async with rig("audio") as made:
        errors: list[Exception] = []
        uplink = AudioUplink(
            made.receiver,
            lambda pts, sound: heard.extend(sound),
            on_error=errors.append,
            clock=clock,
        )
        await made.start()
        count = len(pcm) // DOWNLINK_PACKET_BYTES
        for n in range(WARM_UP_TICKS + count):
            if n % REPORT_TICKS == 0:
                told = rate.report(clock.now, sum(gone) / REPORT_TICKS, ROUND_TRIP_S)
                encoder.expect_loss(told.fec_percent)
                encoder.use_bitrate(told.bitrate)
            at = (n - WARM_UP_TICKS) % count * DOWNLINK_PACKET_BYTES
            payload = encoder.encode(pcm[at : at + DOWNLINK_PACKET_BYTES])
            payload_type, plain = OPUS, payload
            if has_red and rate.encoding.has_copies and len(sent) == COPY_DISTANCE:
                copy = Copy(COPY_DISTANCE * RTP_OPUS_PACKET_TICKS, sent[0])
                payload_type, payload = RED, pack(OPUS, payload, [copy])
            sent.append(plain)
            is_lost = next(losses) and n > 0
            gone = [*gone[1:], is_lost]
            if n == WARM_UP_TICKS:
                before, at_start = uplink.stats(), len(heard)
            sizes.append(len(payload))
            if not is_lost:
                ticks = n * RTP_OPUS_PACKET_TICKS
                await made.feed(n, ticks, payload, payload_type=payload_type)
            clock.now += TICK_S
            uplink.poll()
        after = uplink.stats()
        assert not errors, errors
    samples = after["totalSamplesReceived"] - before["totalSamplesReceived"]

    def share(name: str) -> float:
        return round((after[name] - before[name]) / samples, 4)

    row = {
        "loss": loss,
        "burst": burst,
        "kbit_s": round(sum(sizes[WARM_UP_TICKS:]) * 8 / count / TICK_S / 1000, 1),
        "fec_percent": rate.encoding.fec_percent,
        "repaired": share("fecSamplesRecovered"),
        "concealed": share("concealedSamples"),
    }
    return np.frombuffer(bytes(heard[at_start:]), np.int16), row


async def main(seconds: float, has_red: bool) -> None:
    judge, pcm, clean = Judge(), speech(seconds), None
    for loss, burst in LOSSES:
        row = await run(pcm, loss, burst, judge, has_red)
        if "plcmos" in row:
            clean = clean or row["plcmos"]
            row["fall"] = round(clean - row["plcmos"], 2)
        print(json.dumps(row), flush=True)  # noqa: T201


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--red", action="store_true")
    given = parser.parse_args()
    asyncio.run(main(given.seconds, given.red))
