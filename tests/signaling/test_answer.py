"""What aiortc is given of an offer, and what the client gets of its answer."""

import re

import pytest

from signaling.answer import finish_answer
from signaling.prepared import MAX_CANDIDATES, prepare_offer
from signaling.sdp import parse
from tests.signaling.offers import CHROMIUM_OFFER, second_audio, sections, with_codecs

HOST = "a=candidate:1 1 udp 2122260223 198.51.100.7 50000 typ host generation 0\r\n"
MDNS = "a=candidate:2 1 udp 2122260223 0b6f2c1a.local 50001 typ host generation 0\r\n"
TCP = "a=candidate:3 1 tcp 1518280447 198.51.100.7 9 typ host tcptype active\r\n"
END = "a=end-of-candidates\r\n"


def with_candidates(*lines: str) -> str:
    return CHROMIUM_OFFER.replace("a=ice-ufrag", "".join(lines) + "a=ice-ufrag", 1)


def kept_candidates(offer: str) -> list[str]:
    text = prepare_offer(offer).text
    return [line for line in text.splitlines() if line.startswith("a=candidate")]


def test_mdns_tcp_and_end_of_candidates_are_dropped() -> None:
    offer = with_candidates(HOST, MDNS, TCP, HOST, END)
    assert kept_candidates(offer) == [HOST.strip().removesuffix(" generation 0")]
    assert "end-of-candidates" not in prepare_offer(offer).text
    assert kept_candidates(with_candidates(MDNS, END)) == []


def test_candidates_are_bounded() -> None:
    many = [HOST.replace("50000", str(port)) for port in range(1000, 1500)]
    assert len(kept_candidates(with_candidates(*many))) == MAX_CANDIDATES


def test_only_opus_is_left_of_the_audio_codecs() -> None:
    prepared = parse(prepare_offer(CHROMIUM_OFFER).text)
    audio = prepared.sections[0]
    assert audio.formats == ("111",)
    assert all(v.startswith("111 ") for v in audio.values("rtpmap") + audio.values("fmtp"))


def answer_to(offer: str) -> str:
    """What aiortc would answer, near enough: the prepared offer with our transport."""
    text = prepare_offer(offer).text.replace("a=setup:actpass", "a=setup:active")
    return text.replace("a=rtcp-mux", "a=msid:ours sound\r\na=rtcp-mux")


def test_opus_parameters_are_told() -> None:
    offer = prepare_offer(CHROMIUM_OFFER)
    text = finish_answer(answer_to(CHROMIUM_OFFER), offer, opus_bitrate_bps=24_000)
    audio = parse(text).sections[0]
    assert audio.values("fmtp") == [
        "111 minptime=10;useinbandfec=1;stereo=0;sprop-stereo=0;maxaveragebitrate=24000",
        "63 111/111",
    ]
    assert audio.values("ptime") == ["20"]
    assert audio.values("msid")


def test_second_audio_is_answered_inactive_inside_the_bundle() -> None:
    offer = prepare_offer(second_audio())
    answer = parse(finish_answer(answer_to(second_audio()), offer))
    assert [s.kind for s in answer.sections] == ["audio", "video", "application", "audio"]
    extra = answer.sections[-1]
    assert extra.has("inactive") and extra.port != 0
    assert extra.values("ice-ufrag") == answer.sections[0].values("ice-ufrag")
    assert answer.bundle == ("0", "1", "2", "9")


@pytest.mark.parametrize(
    "offer",
    [
        with_codecs("opus/48000/2", "AV1/90000"),
        CHROMIUM_OFFER.replace("m=video 9", "m=video 0"),
    ],
)
def test_what_cannot_be_taken_is_rejected_with_port_zero(offer: str) -> None:
    answer = parse(finish_answer(answer_to(offer), prepare_offer(offer)))
    assert [s.kind for s in answer.sections] == ["audio", "video", "application"]
    assert answer.sections[1].port == 0
    assert answer.sections[1].mid == "1"
    assert answer.bundle == ("0", "2")


def test_video_first_offer_keeps_the_order_of_m_lines() -> None:
    head, audio, video, data = sections(CHROMIUM_OFFER)
    offer = head.replace("BUNDLE 0 1 2", "BUNDLE 1 0 2") + video + audio + data
    answer = parse(finish_answer(answer_to(offer), prepare_offer(offer)))
    assert [s.kind for s in answer.sections] == ["video", "audio", "application"]
    assert not re.search(r"ptime", answer.sections[0].text())
