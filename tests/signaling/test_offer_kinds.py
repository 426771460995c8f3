"""Kinds of offers that other stacks write: what is taken, what is declined, what is refused."""

import re

import pytest

from signaling.answer import finish_answer
from signaling.errors import ProtocolError
from signaling.offer import AnswerPlan, check_offer
from signaling.prepared import prepare_offer
from tests.signaling.answer_rules import MLine, read
from tests.signaling.offers import CHROMIUM_OFFER, only, sections, with_codecs, without
from tests.signaling.test_offer_properties import near_answer

AUDIO = only("audio")
TRANSPORT = re.compile(r"a=(?:ice-ufrag|ice-pwd|fingerprint|setup):[^\r]*\r\n")


def answer(offer: str) -> list[MLine]:
    prepared = prepare_offer(offer)
    return read(finish_answer(near_answer(prepared.text), prepared))[1]


def media(kind: str, mid: str, direction: str = "sendrecv", *, more: str = "") -> str:
    """Return Chromium's m-section of a kind with another mid and direction."""
    text = next(s for s in sections(CHROMIUM_OFFER) if s.startswith(f"m={kind} "))
    text = re.sub(r"a=mid:\S+", f"a=mid:{mid}", text)
    text = re.sub(r"a=(sendrecv|sendonly|recvonly|inactive)\r\n", "", text)
    return text + (f"a={direction}\r\n" if direction else "") + more


def offer(*lines: str, session: str = "") -> str:
    head = sections(CHROMIUM_OFFER)[0]
    mids = " ".join(re.findall(r"a=mid:(\S+)", "".join(lines)))
    return re.sub(r"BUNDLE [^\r]*", f"BUNDLE {mids}", head) + session + "".join(lines)


DATA = media("application", "d", "")
DATA_ALONE = only("application")


# ---------------------------------------------------------------------- directions


@pytest.mark.parametrize(
    ("direction", "expected", "answered"),
    [
        ("sendrecv", AnswerPlan(hears=0, speaks=0, data=1), "sendrecv"),
        ("", AnswerPlan(hears=0, speaks=0, data=1), "sendrecv"),
        ("sendonly", AnswerPlan(hears=0, data=1), "recvonly"),
        ("recvonly", AnswerPlan(speaks=0, data=1), "sendonly"),
        ("inactive", AnswerPlan(data=1), "inactive"),
    ],
)
@pytest.mark.parametrize("at_session", [False, True])
def test_directions_of_the_only_audio_line(
    direction: str, expected: AnswerPlan, answered: str, at_session: bool
) -> None:
    if at_session:
        told = f"a={direction}\r\n" if direction else ""
        text = offer(media("audio", "a", ""), DATA, session=told)
    else:
        text = offer(media("audio", "a", direction), DATA)
    assert check_offer(text) == expected
    audio = answer(text)[0]
    assert audio.flags("sendrecv", "sendonly", "recvonly", "inactive") == [answered]
    assert bool(audio.values("msid")) == answered.startswith("send")


def test_the_direction_of_an_m_line_goes_before_that_of_the_session() -> None:
    text = offer(media("audio", "a", "sendonly"), DATA, session="a=recvonly\r\n")
    assert check_offer(text) == AnswerPlan(hears=0, data=1)


@pytest.mark.parametrize(
    ("directions", "expected"),
    [
        (("recvonly", "sendonly"), AnswerPlan(hears=1, speaks=0, data=2)),
        (("sendonly", "recvonly"), AnswerPlan(hears=0, speaks=1, data=2)),
        (("sendonly", "sendrecv"), AnswerPlan(hears=0, speaks=1, data=2)),
        (("recvonly", "sendrecv"), AnswerPlan(hears=1, speaks=1, data=2)),
        (("inactive", "sendrecv"), AnswerPlan(hears=1, speaks=1, data=2)),
        (("sendrecv", "sendrecv"), AnswerPlan(hears=0, speaks=0, data=2)),
        (("inactive", "recvonly"), AnswerPlan(speaks=1, data=2)),
        (("recvonly", "recvonly"), AnswerPlan(speaks=0, data=2)),
    ],
)
def test_of_two_audio_lines_who_sends_is_heard(
    directions: tuple[str, str], expected: AnswerPlan
) -> None:
    first, second = directions
    text = offer(media("audio", "a", first), media("audio", "b", second), DATA)
    assert check_offer(text) == expected
    lines = answer(text)
    assert sum(bool(line.flags("sendrecv", "sendonly")) for line in lines) == 1
    assert sum(bool(line.flags("sendrecv", "recvonly")) for line in lines) == (
        expected.hears is not None
    )


@pytest.mark.parametrize("first", ["recvonly", "inactive"])
def test_of_two_video_lines_who_sends_is_seen(first: str) -> None:
    text = offer(media("audio", "a"), media("video", "v", first), media("video", "w", "sendonly"))
    assert check_offer(text).sees == 2
    assert [line.flags("recvonly", "inactive") for line in answer(text)[1:]] == [
        ["inactive"],
        ["recvonly"],
    ]


@pytest.mark.parametrize("direction", ["inactive", "recvonly"])
def test_a_call_in_which_nothing_could_ever_happen_is_refused(direction: str) -> None:
    for text in (offer(media("video", "v", direction)), offer(media("audio", "a", "inactive"))):
        with pytest.raises(ProtocolError, match="Nothing in the offer is sent or received"):
            check_offer(text)


# ---------------------------------------------------------------------- lines


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\r\n", "\n"),
        ("\r\n", "\r"),
        ("\r\n", "  \r\n"),
        ("v=0", "\ufeffv=0"),
        ("a=sendrecv", "a=SendRecv"),
        ("a=sendrecv", "a=sendrecv please"),
        ("a=setup:actpass", "a=setup: ACTPASS "),
        ("a=rtcp-mux", "a=rtcp-mux yes"),
        ("a=extmap:1 ", "a=extmap:1/sendrecv "),
        ("hdrext:ssrc-audio-level", "hdrext:ssrc-audio-level vad=on"),
        ("a=extmap:1 ", "a=extmap:"),
        ("a=rtcp:9 IN IP4 0.0.0.0", "a=rtcp:9 IN"),
        ("a=rtcp:9 IN IP4 0.0.0.0", "a=rtcp:"),
        ("a=mid:0", "a=mid: 0"),
        ("opus/48000/2", "OPUS/48000/2"),
        ("opus/48000/2", "opus / 48000"),
        ("a=rtpmap:111 opus", "a=rtpmap:111  opus"),
        ("a=fmtp:111 ", "a=fmtp:111"),
        ("minptime=10;useinbandfec=1", "minptime = x ; ; useinbandfec"),
        ("minptime=10;useinbandfec=1", "sprop-maxcapturerate"),
        ("a=rtcp-fb:111 transport-cc", "a=rtcp-fb:111"),
        ("a=msid:", "a=msid: "),
        ("a=msid-semantic: WMS", "a=msid-semantic:"),
        ("a=group:BUNDLE", "a=group:\r\na=group:LS 0 1\r\na=group:BUNDLE"),
        ("UDP/TLS/RTP/SAVPF", "UDP/TLS/RTP/SAVP"),
        ("UDP/TLS/RTP/SAVPF", "RTP/SAVPF"),
        ("UDP/TLS/RTP/SAVPF", "udp/tls/rtp/savpf"),
        ("m=audio 9", "m=audio 9/2"),
        ("m=audio 9", "m=AUDIO 9"),
        ("c=IN IP4 0.0.0.0", "c=IN IP6 ::\r\nb=AS:x\r\ni=\r\n"),
        ("s=-", "s= "),
    ],
)
def test_a_microphone_is_heard_however_its_lines_are_written(old: str, new: str) -> None:
    assert old in AUDIO
    assert check_offer(AUDIO.replace(old, new)) == AnswerPlan(hears=0, speaks=0)
    assert answer(AUDIO.replace(old, new))[0].port


@pytest.mark.parametrize("number", [0, 8, 35, 45, 63, 64, 72, 76, 95, 96, 127])
def test_payload_types_are_answered_as_offered(number: int) -> None:
    text = re.sub(r"(m=audio 9 \S+) [^\r]*", rf"\1 {number}", AUDIO)
    text = re.sub(r"a=(rtpmap|fmtp|rtcp-fb):111 ", rf"a=\1:{number} ", text)
    (audio,) = answer(text)
    assert audio.formats == [str(number)]
    assert audio.by_format("rtpmap") == {str(number): "opus/48000/2"}


@pytest.mark.parametrize(
    "session",
    [
        "a=group:BUNDLE",
        "a=group:BUNDLE 0 0",
        "a=group:BUNDLE 7",
        "a=group: BUNDLE 0",
        "a=group:bundle 0",
    ],
)
def test_broken_groups_do_not_harm(session: str) -> None:
    text = re.sub(r"a=group:[^\r]*", session, AUDIO)
    assert check_offer(text).hears == 0


def test_the_transport_may_be_told_once_for_the_session() -> None:
    head, rest = AUDIO.split("m=audio", 1)
    text = head + "".join(TRANSPORT.findall(rest)) + "m=audio" + TRANSPORT.sub("", rest)
    assert "a=ice-ufrag" not in text.split("m=audio")[1]
    assert check_offer(text).hears == 0
    assert prepare_offer(text).text.count("a=fingerprint:") == 1


def test_lines_that_a_parser_would_split_again_are_not_passed_on() -> None:
    text = AUDIO.replace("a=msid:", "a=x:\u2028m=video 9 x 0\x0ba=\x1cmid:7\r\na=msid:")
    assert prepare_offer(text).text.count("m=") == 1


# ---------------------------------------------------------------------- cameras


@pytest.mark.parametrize(
    ("fmtp", "is_seen"),
    [
        ("level-asymmetry-allowed=1; packetization-mode=1; profile-level-id=42e01f", True),
        ("packetization-mode=1;profile-level-id=42E0FF", True),
        ("packetization-mode=0;profile-level-id=42001f", True),
        ("PACKETIZATION-MODE=1;profile-level-id=64001F;sprop-parameter-sets=Z0IAH5Y=,aM4=", True),
        ("profile-level-id=4d0028", True),
        ("", True),
        ("packetization-mode=2;profile-level-id=42e01f", False),
        ("packetization-mode=;profile-level-id=f4001f", False),
        ("packetization-mode=1;profile-level-id=cam", False),
    ],
)
def test_h264_is_seen_or_declined_and_never_costs_the_call(fmtp: str, is_seen: bool) -> None:
    camera = re.sub(r"(m=video 9 \S+) [^\r]*", r"\1 103", media("video", "v", "sendonly"))
    camera = re.sub(r"a=(rtpmap|fmtp|rtcp-fb):[^\r]*\r\n", "", camera)
    camera += f"a=rtpmap:103 H264/90000\r\na=fmtp:103 {fmtp}\r\n"
    text = offer(media("audio", "a"), camera, DATA)
    assert check_offer(text) == AnswerPlan(hears=0, speaks=0, sees=1 if is_seen else None, data=2)
    line = answer(text)[1]
    assert bool(line.port) == is_seen
    if is_seen and "profile-level-id" in fmtp:
        offered = re.search(r"profile-level-id=(\w+)", fmtp)
        assert offered and offered[1] in line.by_format("fmtp")["103"]


@pytest.mark.parametrize(
    "camera",
    [
        media("video", "v").replace("a=rtcp-mux", "a=x"),
        media("video", "v").replace("UDP/TLS/RTP/SAVPF", "UDP/TLS/TCP"),
        media("video", "v").replace("a=mid:v", "a=mid:v w"),
        media("video", "v").replace("a=fingerprint:sha-256", "a=fingerprint:sha-1"),
        re.sub(r"(m=video 9 \S+) [^\r]*", r"\1 *", media("video", "v")),
        re.sub(r"VP8/|H264/", "H266/", media("video", "v")),
    ],
)
def test_an_unusable_camera_never_costs_the_call(camera: str) -> None:
    text = offer(media("audio", "a"), camera, DATA)
    assert check_offer(text) == AnswerPlan(hears=0, speaks=0, data=2)
    assert answer(text)[1].port == 0


def test_a_camera_that_cannot_be_told_from_the_microphone_is_declined() -> None:
    camera = re.sub(r"a=ssrc[^\r]*\r\n", "", media("video", "v", "sendonly"))
    camera = re.sub(r"(m=video 9 \S+) [^\r]*", r"\1 111", camera) + "a=rtpmap:111 VP8/90000\r\n"
    text = offer(media("audio", "a"), camera)
    assert check_offer(text) == AnswerPlan(hears=0, speaks=0)


# ---------------------------------------------------------------------- data channels


@pytest.mark.parametrize(
    ("line", "more", "port"),
    [
        ("9 UDP/DTLS/SCTP webrtc-datachannel", "a=sctp-port:5000", 5000),
        ("9 UDP/DTLS/SCTP webrtc-datachannel", "a=sctp-port: 6000", 6000),
        ("9 UDP/DTLS/SCTP webrtc-datachannel", "a=x", 5000),
        ("9 TCP/DTLS/SCTP webrtc-datachannel", "a=max-message-size:0", 5000),
        ("9 DTLS/SCTP 5000", "a=sctpmap:5000 webrtc-datachannel 1024", 5000),
        ("9 DTLS/SCTP 5001", "a=sctpmap:5001 webrtc-datachannel", 5001),
        ("9 DTLS/SCTP 5000", "a=sctpmap:5000 bfcp", None),
        ("9 UDP/DTLS/SCTP webrtc-datachannel", "a=sctp-port:0", None),
        ("9 UDP/DTLS/SCTP webrtc-datachannel", "a=sctp-port:x", None),
        ("9 UDP/DTLS/SCTP t38", "a=sctp-port:5000", None),
        ("9 UDP/BFCP *", "a=floorctrl:c-s", None),
        ("9 RTP/AVP 100", "a=rtpmap:100 H224/4800", None),
    ],
)
def test_data_channels_are_taken_or_declined(line: str, more: str, port: int | None) -> None:
    data = re.sub(r"m=application [^\r]*", f"m=application {line}", DATA)
    data = re.sub(r"a=(sctp-port|max-message-size):[^\r]*\r\n", "", data) + f"{more}\r\n"
    text = offer(media("audio", "a"), data)
    assert check_offer(text).data == (None if port is None else 1)
    answered = answer(text)[1]
    assert bool(answered.port) == (port is not None)
    if port is not None:
        assert f"a=sctp-port:{port}\r\n" in prepare_offer(text).text
        assert bool(answered.values("sctpmap")) == ("sctpmap" in more)


def test_of_two_data_lines_the_second_is_declined() -> None:
    text = offer(media("audio", "a"), DATA, media("application", "e", ""))
    assert [line.port > 0 for line in answer(text)] == [True, True, False]


@pytest.mark.parametrize(
    "extra",
    [
        "m=text 9 UDP/TLS/RTP/SAVPF 98\r\na=mid:t\r\na=rtpmap:98 t140/1000\r\n",
        "m=message 9 TCP/TLS/MSRP *\r\na=mid:t\r\n",
        "m=image 9 udptl t38\r\na=mid:t\r\n",
        "m=x-new 9 UDP/TLS/X y z\r\na=mid:t\r\n",
    ],
)
def test_lines_of_other_kinds_are_declined_as_they_came(extra: str) -> None:
    lines = answer(offer(media("audio", "a"), extra))
    head = extra.split("\r\n")[0].split(" ")
    assert [line.port > 0 for line in lines] == [True, False]
    assert (lines[1].profile, lines[1].formats) == (head[2], head[3:])
    assert lines[1].values("mid") == ["t"]


# ---------------------------------------------------------------------- without a bundle


def test_without_a_group_there_is_none_in_the_answer() -> None:
    text = re.sub(r"a=group:[^\r]*\r\n", "", only("audio", "application"))
    prepared = prepare_offer(text)
    answered = finish_answer(near_answer(prepared.text), prepared)
    assert "a=group" not in answered and "a=group" not in prepared.text
    assert [line.port > 0 for line in read(answered)[1]] == [True, True]


def test_without_mids_and_a_group_the_answer_has_none() -> None:
    text = without("mid", re.sub(r"a=group:[^\r]*\r\n", "", only("audio", "application")))
    prepared = prepare_offer(text)
    assert len(set(prepared.mids.values())) == 2
    assert [line.values("mid") for line in answer(text)] == [[], []]


def test_the_clients_tagged_m_line_stays_first_in_the_group() -> None:
    text = offer(media("audio", "a"), media("video", "v"), DATA).replace("a v d", "v d a")
    prepared = prepare_offer(text)
    answered = finish_answer(near_answer(prepared.text), prepared)
    assert "a=group:BUNDLE v d a\r\n" in answered


# ---------------------------------------------------------------------- typing only

PCMU = media("audio", "p", "sendrecv").replace("opus/48000", "PCMU/8000")
UNKNOWN_CAMERA = media("video", "c").replace("VP8", "AV1").replace("H264", "AV1")


def test_who_has_a_channel_alone_types() -> None:
    assert check_offer(DATA_ALONE) == AnswerPlan(data=0)
    (line,) = answer(DATA_ALONE)
    assert line.port > 0


@pytest.mark.parametrize(
    ("lines", "plan"),
    [
        ((DATA, UNKNOWN_CAMERA), AnswerPlan(data=0)),
        ((DATA, PCMU.replace("m=audio 9", "m=audio 0")), AnswerPlan(data=0)),
        ((DATA, media("audio", "a", "inactive"), PCMU), AnswerPlan(data=0)),
        ((DATA, PCMU), None),
    ],
)
def test_who_means_to_speak_and_cannot_is_refused(
    lines: tuple[str, ...], plan: AnswerPlan | None
) -> None:
    if plan is not None:
        assert check_offer(offer(*lines)) == plan
        return
    with pytest.raises(ProtocolError, match="Opus"):
        check_offer(offer(*lines))


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (AUDIO.replace("a=rtcp-mux", "a=x"), "rtcp-mux"),
        (only("audio", "video").replace("opus/48000", "opus/x").replace(" 111 ", " x ", 1), "x"),
        (with_codecs("PCMU/8000", "AV1/90000"), "Opus"),
        (offer(media("audio", "a"), media("video", "a")), "mid"),
        (offer(media("audio", "a" * 256)), "mid"),
    ],
)
def test_refusals_name_the_reason(text: str, says: str) -> None:
    with pytest.raises(ProtocolError, match=says) as caught:
        check_offer(text)
    assert caught.value.status in (400, 406)
