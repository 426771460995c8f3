"""What an offer says of the Opus that its client wants to be sent."""

import msgspec
import pytest

from signaling.offer import OpusWishes, codecs, opus_wishes
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


def test_firefox_is_known_to_open_its_loudspeaker_late() -> None:
    firefox = "mozilla...THIS_IS_SDPARTA-99.0 2 0 IN IP4 0.0.0.0"
    assert opus_wishes(audio(""), firefox).opens_late
    assert not opus_wishes(audio(""), "- 2 0 IN IP4 127.0.0.1").opens_late


def redundant(parameters: str, *formats: str) -> Section:
    plain = audio("usedtx=1")
    attributes = (*plain.attributes, ("rtpmap", "63 red/48000/2"), ("fmtp", f"63 {parameters}"))
    return msgspec.structs.replace(plain, formats=formats, attributes=attributes)


@pytest.mark.parametrize("formats", [("111", "63"), ("63", "111")])
@pytest.mark.parametrize(
    ("parameters", "payload_type"),
    [("111/111", 63), ("111/111/111", 63), ("111/0", None), ("0/0", None), ("x", None)],
)
def test_copies_are_sent_to_who_takes_them_of_opus(
    formats: tuple[str, ...], parameters: str, payload_type: int | None
) -> None:
    section = redundant(parameters, *formats)
    assert opus_wishes(section) == OpusWishes(has_pauses=True, red_payload_type=payload_type)
    names = {codec.name for codec in codecs(section)}
    assert names == ({"opus", "red"} if payload_type else {"opus"})


@pytest.mark.parametrize(("repeated", "copies"), [("111", 63), ("112", None)])
def test_copies_are_sent_of_the_opus_that_is_sent(repeated: str, copies: int | None) -> None:
    section = redundant(f"{repeated}/{repeated}", "111", "112", "63")
    other = (("rtpmap", "112 opus/48000/2"), ("fmtp", "112 maxaveragebitrate=64000"))
    section = msgspec.structs.replace(section, attributes=(*section.attributes, *other))
    assert opus_wishes(section) == OpusWishes(has_pauses=True, red_payload_type=copies)


def test_copies_without_the_format_that_they_repeat_are_no_offer() -> None:
    assert codecs(redundant("111/111", "63")) == []


def test_an_offer_without_opus_wishes_nothing() -> None:
    plain = msgspec.structs.replace(audio(""), formats=("0",), attributes=())
    assert opus_wishes(plain) == OpusWishes()
