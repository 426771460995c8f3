"""Sound in messages: G.711 as the standard has it, rates, odd pieces, nothing lost on the way."""

from __future__ import annotations

import numpy as np
import pytest

from media import g711
from media.formats import DOWNLINK_HZ, UPLINK_HZ
from media.wireformat import PCM, PCMA, PCMU, WireDecoder, WireEncoder, WireFormat


def tone(hz: int, seconds: float = 1.0, pitch: float = 440.0) -> np.ndarray:
    at = np.arange(int(hz * seconds)) / hz
    return (np.sin(2 * np.pi * pitch * at) * 12_000).astype(np.int16)


def pitch_of(pcm: bytes, hz: int) -> float:
    samples = np.frombuffer(pcm, np.int16).astype(float)
    spectrum = np.abs(np.fft.rfft(samples * np.hanning(len(samples))))
    return float(np.argmax(spectrum) * hz / len(samples))


@pytest.mark.parametrize(
    ("law", "code", "value"),
    [
        ("mu", 0xFF, 0),
        ("mu", 0x7F, 0),
        ("mu", 0x80, 32124),
        ("mu", 0x00, -32124),
        ("mu", 0xD5, 716),
        ("a", 0xD5, 8),
        ("a", 0x55, -8),
        ("a", 0xAA, 32256),
        ("a", 0x2A, -32256),
        ("a", 0x80, 5504),
    ],
)
def test_codes_stand_for_the_values_of_the_standard(law: g711.Law, code: int, value: int) -> None:
    assert np.frombuffer(g711.decode(bytes([code]), law), np.int16)[0] == value


@pytest.mark.parametrize("law", ["mu", "a"])
def test_each_sample_becomes_the_nearest_code(law: g711.Law) -> None:
    samples = np.arange(-32768, 32768, dtype=np.int32)
    coded = g711.encode(samples.astype(np.int16).tobytes(), law)
    back = np.frombuffer(g711.decode(coded, law), np.int16).astype(np.int32)
    values = np.unique(np.frombuffer(g711.decode(bytes(range(256)), law), np.int16)).astype(int)
    above = np.searchsorted(values, samples).clip(1, len(values) - 1)
    nearest = np.minimum(abs(samples - values[above]), abs(samples - values[above - 1]))
    assert np.array_equal(np.abs(samples - back), nearest)


@pytest.mark.parametrize("form", [PCM, PCMU, PCMA], ids=str)
@pytest.mark.parametrize("piece", [1, 37, 480, 9600])
def test_sound_comes_whole_at_the_models_rate_in_whatever_pieces(
    form: WireFormat, piece: int
) -> None:
    pcm = tone(form.hz).tobytes()
    data = pcm if form.law is None else g711.encode(pcm, form.law)
    decoder = WireDecoder(form)
    heard = b"".join(decoder.decode(data[at : at + piece]) for at in range(0, len(data), piece))
    assert 0 <= UPLINK_HZ - len(heard) // 2 < UPLINK_HZ * 0.005
    assert pitch_of(heard, UPLINK_HZ) == pytest.approx(440, abs=2)


@pytest.mark.parametrize("form", [PCM, PCMU, PCMA], ids=str)
def test_answers_come_out_at_the_clients_rate(form: WireFormat) -> None:
    encoder = WireEncoder(form)
    pcm = tone(DOWNLINK_HZ).tobytes()
    sent = b"".join(encoder.encode(pcm[at : at + 4800]) for at in range(0, len(pcm), 4800))
    heard = sent if form.law is None else g711.decode(sent, form.law)
    assert 0 <= form.hz - len(heard) // 2 < form.hz * 0.005
    assert pitch_of(heard, form.hz) == pytest.approx(440, abs=2)
    if form is PCM:
        assert sent == pcm


def test_floating_point_is_clipped_and_comes_back() -> None:
    form = WireFormat(16_000, is_float=True)
    values = np.array([0, 0.5, -0.5, 1, -1, 3, -3], "<f4")
    pcm = np.frombuffer(WireDecoder(form).decode(values.tobytes()), np.int16)
    assert pcm.tolist() == [0, 16384, -16384, 32767, -32767, 32767, -32767]
    back = WireEncoder(WireFormat(24_000, is_float=True)).encode(pcm.tobytes())
    assert np.allclose(np.frombuffer(back, "<f4"), np.clip(values, -1, 1), atol=1e-4)


@pytest.mark.parametrize("data", [bytes(6), np.array([0, np.nan], "<f4").tobytes()])
def test_floating_point_that_is_no_sound_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="samples"):
        WireDecoder(WireFormat(16_000, is_float=True)).decode(data)
