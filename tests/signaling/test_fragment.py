"""ICE fragments: what is read of a client's, and what is written of ours."""

import random

import pytest
from aioice import Candidate

from signaling.errors import ProtocolError
from signaling.fragment import Credentials, FragmentPart, parse_fragment, write_fragment
from signaling.sdp import MAX_OFFER_BYTES
from tests.fuzz.mutators.sdp import mutate_sdp
from tests.signaling.offers import CHROMIUM_OFFER

CREDENTIALS = "a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n"
EsAw = Credentials("EsAw", "P2uYro0UCOQ4zxjKXaWCBui1")
HOST = "a=candidate:1 1 udp 2122260223 192.0.2.1 61764 typ host generation 0 ufrag EsAw\r\n"
OTHER = CHROMIUM_OFFER.encode()
LINE = "m=audio 9 RTP/AVP 0\r\na=mid:0\r\n"


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_trickled_candidates_are_read_as_rfc_9725_writes_them(end: str) -> None:
    unusable = (
        "a=candidate:2 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active\r\n"
        "a=candidate:3 1 udp 2122194687 198d3.local 61765 typ host\r\n"
        "a=candidate:nonsense\r\n"
    )
    text = CREDENTIALS + LINE + HOST + HOST + unusable + "a=end-of-candidates\r\n"
    session, line = parse_fragment(text.replace("\r\n", end))
    assert session == FragmentPart("", EsAw)
    assert line == FragmentPart("0", None, ("1 1 udp 2122260223 192.0.2.1 61764 typ host",))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (CREDENTIALS, (FragmentPart("", EsAw),)),
        (LINE + CREDENTIALS, (FragmentPart(), FragmentPart("0", EsAw))),
        ("a=end-of-candidates\r\n", (FragmentPart(),)),
        ("a=candidate:1 1 tcp 1 192.0.2.1 9 typ host\r\n", (FragmentPart(),)),
        (LINE + "a=end-of-candidates\r\n", (FragmentPart(), FragmentPart("0"))),
    ],
)
def test_fragments_without_candidates(text: str, parts: tuple[FragmentPart, ...]) -> None:
    assert parse_fragment(text) == parts


@pytest.mark.parametrize(
    ("text", "status", "says"),
    [
        ("", 400, "empty"),
        ("hello", 400, "not SDP"),
        ("a=ice-ufrag:x\r\n", 400, "ice-pwd"),
        ("a=ice-pwd:x\r\n" + LINE, 400, "ice-ufrag"),
        (LINE + "a=ice-pwd:x y\r\na=ice-ufrag:x\r\n", 400, "ice-ufrag"),
        (LINE, 400, "neither"),
        ("m=audio\r\n" + HOST, 400, "m-line"),
        (LINE * 40, 400, "40 m-lines"),
        (CREDENTIALS + HOST * 2000, 413, str(MAX_OFFER_BYTES)),
    ],
)
def test_malformed_fragments_are_refused_in_words(text: str, status: int, says: str) -> None:
    with pytest.raises(ProtocolError, match=says) as caught:
        parse_fragment(text)
    assert caught.value.status == status


def test_one_transports_credentials_stand_where_clients_look() -> None:
    ours = FragmentPart("a", Credentials("u", "p"), ("1 1 udp 5 192.0.2.9 5000 typ host",))
    text = write_fragment([ours])
    assert text.startswith("a=ice-ufrag:u\r\na=ice-pwd:p\r\nm=audio ")
    assert parse_fragment(text) == (
        FragmentPart("", Credentials("u", "p")),
        FragmentPart("a", None, ours.candidates),
    )


def test_several_transports_have_their_own() -> None:
    parts = [FragmentPart(mid, Credentials(f"u{mid}", "p")) for mid in "ab"]
    assert parse_fragment(write_fragment(parts)) == (FragmentPart(), *parts)


def test_mutated_fragments_are_read_or_refused_and_nothing_else() -> None:
    chance = random.Random(7)
    text = (CREDENTIALS + LINE + HOST + "a=end-of-candidates\r\n").encode()
    outcomes = {"read": 0, "refused": 0}
    for _ in range(400):
        given = mutate_sdp(chance, text, OTHER).decode(errors="replace")
        try:
            parts = parse_fragment(given)
        except ProtocolError as error:
            assert error.status in (400, 413)
            outcomes["refused"] += 1
            continue
        outcomes["read"] += 1
        for part in parts:
            for line in part.candidates:
                assert Candidate.from_sdp(line).component == 1
    assert min(outcomes.values()) > 20, outcomes
