"""Which offers are taken, and which status and reason the others get."""

import pytest

from signaling.errors import ProtocolError
from signaling.offer import AnswerPlan, check_offer
from signaling.sdp import MAX_OFFER_BYTES
from tests.signaling.offers import CHROMIUM_OFFER, only, second_audio, with_codecs, without


def test_chromium_offer_is_taken_whole() -> None:
    assert check_offer(CHROMIUM_OFFER) == AnswerPlan(hears=0, speaks=0, sees=1, data=2)


@pytest.mark.parametrize(
    ("offer", "expected"),
    [
        (only("audio"), AnswerPlan(hears=0, speaks=0)),
        (only("video"), AnswerPlan(sees=0)),
        (only("audio", "video"), AnswerPlan(hears=0, speaks=0, sees=1)),
        (second_audio(), AnswerPlan(hears=0, speaks=0, sees=1, data=2)),
        (CHROMIUM_OFFER.replace("m=video 9", "m=video 0"), AnswerPlan(hears=0, speaks=0, data=2)),
        (with_codecs("opus/48000/2", "VP9/90000"), AnswerPlan(hears=0, speaks=0, data=2)),
        (with_codecs("PCMU/8000", "VP8/90000"), AnswerPlan(sees=1, data=2)),
    ],
)
def test_partial_offers_are_taken(offer: str, expected: AnswerPlan) -> None:
    assert check_offer(offer) == expected


@pytest.mark.parametrize(
    ("offer", "status", "says"),
    [
        ("", 400, "empty"),
        (" \r\n", 400, "empty"),
        ("hello", 400, 'first line must be "v=0"'),
        ('{"sdp": "v=0"}', 400, "not an SDP"),
        ("v=0\r\nthis is no line\r\n", 400, "Line 2"),
        ("v=0\r\no=- 1 1 IN IP4 0\x00.0.0.0\r\n", 400, "Line 2"),
        ("v=0\r\ns=-\r\n", 400, "no m-line"),
        (CHROMIUM_OFFER.replace("m=audio 9", "m=audio x"), 400, "malformed"),
        (CHROMIUM_OFFER.replace("m=audio 9", "m=audio 70000"), 400, "malformed"),
        (CHROMIUM_OFFER.replace("SAVPF 111", "SAVPF 1e1"), 400, "payload type"),
        (CHROMIUM_OFFER + "m=text 0 RTP/AVP 0\r\n" * 32, 400, "m-lines"),
        (without("ice-ufrag"), 400, "ice-ufrag"),
        (without("ice-pwd"), 400, "ice-pwd"),
        (without("fingerprint"), 400, "fingerprint"),
        (CHROMIUM_OFFER.replace("sha-256", "sha-1"), 400, "fingerprint"),
        (without("setup"), 400, "setup"),
        (CHROMIUM_OFFER.replace("a=setup:actpass", "a=setup:holdconn"), 400, "setup"),
        (without("rtcp-mux"), 400, "rtcp-mux"),
        (without("mid"), 400, "mid"),
        (with_codecs("PCMU/8000", "AV1/90000"), 406, "pcmu/8000"),
        (only(), 400, "no m-line"),
        (only("application").replace("DTLS/SCTP", "X/Y"), 400, "no data channel"),
        (only("audio").replace("m=audio 9", "m=audio 0"), 406, "no audio"),
        ("v=0\r\n" + "a=x\r\n" * (MAX_OFFER_BYTES // 4), 413, "larger"),
        ("v" * 1_000_000, 413, "larger"),
    ],
)
def test_bad_offers_have_a_status_and_a_reason(offer: str, status: int, says: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        check_offer(offer)
    assert caught.value.status == status
    assert caught.value.param == "sdp"
    assert says in caught.value.message


def test_bundle_only_sections_inherit_the_transport() -> None:
    head, rest = CHROMIUM_OFFER.split("m=video 9", 1)
    video, data = rest.split("m=application", 1)
    bare = "".join(
        line
        for line in video.splitlines(keepends=True)
        if not line.startswith(("a=ice-", "a=fingerprint", "a=setup"))
    )
    offer = f"{head}m=video 0{bare}a=bundle-only\r\nm=application{data}"
    assert check_offer(offer).sees == 1
