"""Opus through libopus: rates, FEC, concealment, packet inspection, bad input."""

import ctypes
import ctypes.util

import av
import numpy as np
import pytest

from media import opus
from media.formats import DOWNLINK_PACKET_BYTES, UPLINK_PACKET_BYTES
from media.opus import (
    SILENT_PACKET,
    OpusDecoder,
    OpusEncoder,
    OpusError,
    has_fec,
    packet_ticks,
)
from tests.media.peers import speech


def packets(encoder: OpusEncoder, seconds: float = 2.0) -> list[bytes]:
    pcm = speech(seconds, 24_000)
    ends = range(0, len(pcm), DOWNLINK_PACKET_BYTES)
    return [encoder.encode(pcm[i : i + DOWNLINK_PACKET_BYTES]) for i in ends]


def level(pcm: bytes) -> float:
    return float(np.sqrt(np.mean(np.frombuffer(pcm, np.int16).astype(float) ** 2)))


def test_speech_survives_encoding_at_24_and_decoding_at_16_khz() -> None:
    decoder = OpusDecoder(16_000)
    decoded = [decoder.decode(p) for p in packets(OpusEncoder(24_000))]
    assert {len(pcm) for pcm in decoded} == {UPLINK_PACKET_BYTES}
    heard = np.frombuffer(b"".join(decoded), np.int16).astype(float)
    said = np.frombuffer(speech(2.0, 16_000), np.int16).astype(float)
    best = max(
        np.corrcoef(said[4000:28_000], heard[4000 + lag : 28_000 + lag])[0, 1] for lag in range(300)
    )
    assert best > 0.75


def test_fec_is_nearer_to_the_lost_sound_than_concealment() -> None:
    sent = packets(OpusEncoder())
    whole = OpusDecoder()
    truth = [whole.decode(p) for p in sent]
    errors = {"fec": 0.0, "conceal": 0.0}
    for how in errors:
        decoder = OpusDecoder()
        for i, payload in enumerate(sent[:-1]):
            if i % 7 != 5 or not has_fec(sent[i + 1]):
                decoder.decode(payload)
                continue
            pcm = decoder.decode_fec(sent[i + 1], 320) if how == "fec" else decoder.conceal(320)
            difference = np.frombuffer(pcm, np.int16).astype(float)
            difference -= np.frombuffer(truth[i], np.int16)
            errors[how] += float(np.sum(difference**2))
    assert errors["fec"] < 0.5 * errors["conceal"]


def test_has_fec_agrees_with_libopus() -> None:
    library = opus._library()
    if not hasattr(library, "opus_packet_has_lbrr"):
        pytest.skip("libopus before 1.5 cannot tell")
    library.opus_packet_has_lbrr.argtypes = (ctypes.c_char_p, ctypes.c_int32)
    for fec in (True, False):
        for bitrate in (12_000, 24_000, 32_000, 64_000):
            for payload in packets(OpusEncoder(bitrate=bitrate, fec=fec)):
                assert has_fec(payload) == library.opus_packet_has_lbrr(payload, len(payload))


def test_expected_loss_switches_fec() -> None:
    encoder = OpusEncoder(fec=False)
    assert not any(map(has_fec, packets(encoder)))
    encoder.expect_loss(10)
    assert any(map(has_fec, packets(encoder)))


def test_concealment_gives_any_number_of_samples_and_fades() -> None:
    decoder = OpusDecoder()
    for payload in packets(OpusEncoder(), 1.0):
        decoder.decode(payload)
    assert [len(decoder.conceal(n)) for n in (1, 40, 320, 321, 1920)] == [2, 80, 640, 642, 3840]
    assert len(decoder.conceal(16_000)) == 32_000
    assert level(decoder.conceal(320)) < 0.2 * level(speech(1.0, 16_000))


@pytest.mark.parametrize("samples", [320, 333])
def test_fec_without_a_copy_or_a_whole_step_conceals(samples: int) -> None:
    decoder = OpusDecoder()
    sent = packets(OpusEncoder(fec=False), 0.2)
    decoder.decode(sent[0])
    assert len(decoder.decode_fec(sent[2], samples)) == samples * 2


def test_silent_packet_decodes_to_zeros_after_speech() -> None:
    decoder = OpusDecoder(48_000)
    for payload in packets(OpusEncoder(), 0.5):
        decoder.decode(payload)
    decoder.decode(SILENT_PACKET)
    assert level(decoder.decode(SILENT_PACKET)) == 0
    assert packet_ticks(SILENT_PACKET) == 960


@pytest.mark.parametrize(
    ("payload", "ticks"),
    [
        *((b"\x80\0", 120), (b"\x88\0", 240), (b"\x78\0", 960), (b"\x18\0", 2880)),
        *((b"\x79\0", 1920), (b"\x7a\0", 1920), (b"\x5b\x02", 5760), (b"\x98", 960)),
        *((b"", None), (b"\x7b", None), (b"\x7b\x00", None), (b"\x7b\x07", None)),
    ],
)
def test_packet_duration_is_read_from_its_first_bytes(payload: bytes, ticks: int | None) -> None:
    assert packet_ticks(payload) == ticks


@pytest.mark.parametrize("payload", [b"", b"\x7b\x00", b"\x7a\xff\xff", b"\x03\x31"])
def test_bad_payload_raises_and_the_decoder_lives_on(payload: bytes) -> None:
    decoder = OpusDecoder()
    with pytest.raises(OpusError):
        decoder.decode(payload)
    assert len(decoder.decode(SILENT_PACKET)) == UPLINK_PACKET_BYTES


def test_encoder_takes_exactly_20_ms() -> None:
    with pytest.raises(OpusError):
        OpusEncoder().encode(bytes(958))


def test_unsupported_rate_is_refused() -> None:
    with pytest.raises(OpusError):
        OpusDecoder(44_100)


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(av, "__file__", "/nowhere/av/__init__.py")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(OpusError, match="no libopus"):
        opus._library_path()


def test_library_is_the_one_in_the_pyav_wheel() -> None:
    assert "av.libs" in opus._library_path() or ".dylibs" in opus._library_path()
