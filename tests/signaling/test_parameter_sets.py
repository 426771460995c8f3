"""H.264 parameter sets that an offer brings along."""

import pytest

from signaling.offer import parameter_sets
from signaling.sdp import Section

SETS = "Z0LgH9oCgPY=,aM48gA=="


def video(*fmtp: str) -> Section:
    attributes = [("rtpmap", "97 H264/90000"), ("rtpmap", "98 VP8/90000")]
    attributes += [("fmtp", value) for value in fmtp]
    return Section("video", 9, "UDP/TLS/RTP/SAVPF", ("97", "98"), tuple(attributes))


def test_sets_are_read_by_payload_type() -> None:
    found = parameter_sets(video(f"97 packetization-mode=1; sprop-parameter-sets={SETS}"))
    assert {number: [unit[0] for unit in units] for number, units in found.items()} == {
        97: [0x67, 0x68]
    }


@pytest.mark.parametrize("given", ["", "!!!,,", "=", "Z0LgH9oCgPY", "," * 100])
def test_what_is_no_base64_is_left_out(given: str) -> None:
    assert parameter_sets(video(f"97 sprop-parameter-sets={given}")) == {}


def test_sets_of_another_codec_are_not_taken() -> None:
    assert parameter_sets(video(f"98 sprop-parameter-sets={SETS}")) == {}
