"""VP8 and H.264 out of payloads: whatever is sent, whatever is damaged."""

import fractions
from collections.abc import Callable

import av
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from media.frames import EncodedFrame
from media.payloads import (
    START_CODE,
    ParameterSets,
    has_picture,
    is_key,
    read_payload,
    units,
)
from media.picture import PictureDecoder
from tests.media.test_frames import Wire

UNITS = st.binary(min_size=2, max_size=40).map(lambda b: bytes([0x41]) + b.replace(b"\0", b"\1"))


def h264(frames: int, *, size: tuple[int, int] = (320, 240), **params: str) -> list[bytes]:
    """Encoded frames of an orange picture; `params` are x264's."""
    encoder = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height = size
    encoder.pix_fmt = "yuv420p"
    encoder.framerate = fractions.Fraction(10)
    encoder.gop_size, encoder.max_b_frames = 1000, 0
    profile = params.pop("profile", "baseline")
    joined = ":".join(f"{name.replace('_', '-')}={value}" for name, value in params.items())
    encoder.options = {"preset": "ultrafast", "tune": "zerolatency", "profile": profile}
    encoder.options |= {"x264-params": joined}
    encoded = []
    for i in range(frames):
        image = np.zeros((size[1], size[0], 3), np.uint8)
        image[:] = (255, 165, 0)
        image[:8, i * 7 % size[0] : i * 7 % size[0] + 8] = 255
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="yuv420p")
        frame.pts = i
        encoded += [bytes(p) for p in encoder.encode(frame)]
    return encoded + [bytes(p) for p in encoder.encode(None)]


def aggregated(found: list[bytes]) -> bytes:
    return b"\x78" + b"".join(len(unit).to_bytes(2) + unit for unit in found)


def fragmented(unit: bytes, size: int = 100) -> list[bytes]:
    body = unit[1:]
    pieces = [body[i : i + size] for i in range(0, len(body), size)]
    made = []
    for i, piece in enumerate(pieces):
        flags = (0x80 if i == 0 else 0) | (0x40 if i == len(pieces) - 1 else 0)
        made.append(bytes([unit[0] & 0xE0 | 28, flags | unit[0] & 0x1F]) + piece)
    return made


PACKINGS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "single": lambda found: found,
    "aggregate": lambda found: [aggregated(found)],
    "fragments": lambda found: [p for unit in found for p in fragmented(unit, 30)],
    "delimiter alone": lambda found: [found[0], aggregated(found[1:])],
    "start codes": lambda found: [b"".join(START_CODE + unit for unit in found)],
}


def developed(frames: list[EncodedFrame]) -> np.ndarray:
    decoded = PictureDecoder(320).decode(frames, 0)
    assert decoded.errors == 0
    assert decoded.picture is not None
    return np.frombuffer(decoded.picture.rgb, np.uint8).reshape(240, 320, 3)


@pytest.mark.parametrize("packing", PACKINGS)
@pytest.mark.parametrize("profile", ["baseline", "main", "high"])
def test_a_keyframe_is_known_and_decoded_in_any_packing(packing: str, profile: str) -> None:
    wire = Wire("h264")
    for frame in h264(5, repeat_headers="1", aud="1", slices="2", profile=profile):
        wire.push(*wire.packets(PACKINGS[packing](list(units(frame)))))
    assert [frame.is_key for frame in wire.got] == [True, False, False, False, False]
    assert developed(wire.got)[200, 100].tolist() == pytest.approx([255, 165, 0], abs=12)


def test_parameter_sets_that_stand_only_in_the_offer_are_used() -> None:
    frames = [list(units(frame)) for frame in h264(3, repeat_headers="1")]
    sets = [unit for unit in frames[0] if unit[0] & 0x1F in (7, 8)]
    wire = Wire("h264", *sets)
    for found in frames:
        wire.push(*wire.packets([unit for unit in found if unit not in sets]))
    assert wire.got[0].is_key
    assert developed(wire.got)[200, 100].tolist() == pytest.approx([255, 165, 0], abs=12)


def test_parameter_sets_with_a_time_of_their_own_belong_to_the_next_frame() -> None:
    found = list(units(h264(1, repeat_headers="1")[0]))
    sets = [unit for unit in found if unit[0] & 0x1F in (7, 8)]
    wire = Wire("h264")
    for unit in sets:
        assert wire.push(*wire.packets([unit])) == 0
    assert wire.push(*wire.packets([unit for unit in found if unit not in sets])) == 1
    developed(wire.got)


def test_sets_that_came_in_a_broken_frame_are_remembered_and_replaced() -> None:
    small = list(units(h264(1, repeat_headers="1")[0]))
    large = list(units(h264(1, size=(640, 480), repeat_headers="1")[0]))
    known = ParameterSets(tuple(unit for unit in small if unit[0] & 0x1F in (7, 8)))
    known.learn(b"".join(START_CODE + unit for unit in large if unit[0] & 0x1F in (7, 8)))
    idr = b"".join(START_CODE + unit for unit in large if unit[0] & 0x1F == 5)
    decoded = PictureDecoder(640).decode([EncodedFrame("h264", 0, True, known.complete(idr))], 0)
    assert (decoded.width, decoded.height) == (640, 480)


def test_a_stream_that_refreshes_gradually_is_entered_at_its_recovery_point() -> None:
    frames = h264(30, repeat_headers="1", intra_refresh="1", keyint="10")
    later = [frame for frame in frames[1:] if is_key("h264", frame)]
    assert later
    assert not any(unit[0] & 0x1F == 5 for frame in later for unit in units(frame))


def test_sets_before_a_predicted_slice_make_no_keyframe() -> None:
    frames = h264(2, repeat_headers="1")
    sets = b"".join(START_CODE + u for u in units(frames[0]) if u[0] & 0x1F in (7, 8))
    assert not is_key("h264", sets + frames[1])
    assert has_picture("h264", frames[1]) and not has_picture("h264", sets)


@pytest.mark.parametrize(
    ("descriptor", "begins"),
    [
        (b"\x10", True),
        (b"\x30", True),
        (b"\x90\x80\x11", True),
        (b"\x90\x80\x81\x22", True),
        (b"\x90\xe0\x81\x22\x05\x40", True),
        (b"\x90\x20\x40", True),
        (b"\x90\x10\x03", True),
        (b"\x11", False),
        (b"\x00", False),
    ],
)
def test_vp8_descriptors_with_temporal_layers_are_read(descriptor: bytes, begins: bool) -> None:
    part = read_payload("vp8", descriptor + b"\x10rest")
    assert part.data == b"\x10rest"
    assert part.begins_key is begins


@settings(max_examples=80)
@given(st.sampled_from(("vp8", "h264")), st.binary(max_size=80))
def test_any_payload_is_read_without_an_error(codec: str, payload: bytes) -> None:
    part = read_payload(codec, payload)
    assert len(part.data) <= 4 + 3 * len(payload)
    is_key(codec, part.data)
    ParameterSets().learn(part.data)


@settings(max_examples=50)
@given(st.lists(UNITS, min_size=1, max_size=6), st.integers(1, 50))
def test_units_survive_every_packing(found: list[bytes], size: int) -> None:
    whole = b"".join(START_CODE + unit for unit in found)
    assert read_payload("h264", aggregated(found)).data == whole
    pieces = [read_payload("h264", p).data for unit in found for p in fragmented(unit, size)]
    assert b"".join(pieces) == whole
    assert list(units(whole)) == found


@settings(max_examples=30)
@given(st.binary(min_size=1, max_size=60), st.integers(0, 3000))
@example(b"\x02\x01\t", 23)  # A header by which the decoder waits for good.
def test_a_damaged_frame_costs_only_itself(damage: bytes, at: int) -> None:
    frames = h264(1, repeat_headers="1", slices="1")
    at %= len(frames[0])
    broken = frames[0][:at] + damage + frames[0][at + len(damage) :]
    decoder = PictureDecoder(320)
    decoder.decode([EncodedFrame("h264", 0, True, broken)], None)
    again = decoder.decode([EncodedFrame("h264", 0, True, frames[0])], 0)
    assert again.picture is not None
