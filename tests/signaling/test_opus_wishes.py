"""What an offer says of the Opus that its client wants to be sent."""

import msgspec
import pytest

from signaling.offer import OpusWishes, opus_wishes
from signaling.sdp import Section


def audio(parameters: str) -> Section:
    return Section(
        kind="audio",
        port=9,
        profile="UDP/TLS/RTP/SAVPF",
        formats=("111",),
        attributes=(("rtpmap", "111 opus/48000/2"), ("fmtp", f"111 {parameters}")),
    )


@pytest.mark.parametrize(
    ("parameters", "wishes"),
    [
        ("minptime=10;useinbandfec=1", OpusWishes()),
        ("usedtx=1", OpusWishes(has_pauses=True)),
        ("usedtx=0;maxaveragebitrate=16000", OpusWishes(max_bitrate=16_000)),
        ("maxaveragebitrate=1", OpusWishes(max_bitrate=6_000)),
        ("maxaveragebitrate=-20000", OpusWishes()),
        ("maxaveragebitrate=99999999999999", OpusWishes()),
        ("maxaveragebitrate=\u0661\u0662\u0663\u0664\u0665", OpusWishes()),
    ],
)
def test_wishes_are_those_of_the_format_that_is_taken(parameters: str, wishes: OpusWishes) -> None:
    assert opus_wishes(audio(parameters)) == wishes


def test_an_offer_without_opus_wishes_nothing() -> None:
    plain = msgspec.structs.replace(audio(""), formats=("0",), attributes=())
    assert opus_wishes(plain) == OpusWishes()
