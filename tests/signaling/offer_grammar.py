"""Offers drawn from what the RFCs allow and stacks write, with what their author meant by them.

RFC 8866 (lines), 3264 and 8829 (directions, profiles, ports), 8839 (ICE), 8841 (data channels),
8842 (DTLS), 9143 (bundle), 8285 (extensions), 6184 (H.264) and 7587 (Opus).
"""

from typing import NamedTuple

from hypothesis import strategies as st

from tests.signaling.answer_rules import DIRECTIONS, Offered

DIGEST = ":".join(["5D"] * 32)
RTP_PROFILES = [
    "UDP/TLS/RTP/SAVPF",
    "UDP/TLS/RTP/SAVP",
    "TCP/DTLS/RTP/SAVPF",
    "RTP/SAVPF",
    "RTP/SAVP",
    "RTP/AVPF",
    "RTP/AVP",
]
DATA_FORMS = [
    ("UDP/DTLS/SCTP", "webrtc-datachannel", ["a=sctp-port:5000", "a=max-message-size:262144"]),
    ("UDP/DTLS/SCTP", "webrtc-datachannel", ["a=sctp-port: 5001", "a=max-message-size:0"]),
    ("UDP/DTLS/SCTP", "webrtc-datachannel", ["a=max-message-size:99999999999999999999999"]),
    ("UDP/DTLS/SCTP", "webrtc-datachannel", ["a=sctp-port:", "a=max-message-size:x"]),
    ("UDP/DTLS/SCTP", "webrtc-datachannel", ["a=sctp-port:0"]),
    ("UDP/DTLS/SCTP", "webrtc-datachannel", ["a=sctp-port:77777"]),
    ("TCP/DTLS/SCTP", "webrtc-datachannel", ["a=sctp-port:5000"]),
    ("DTLS/SCTP", "5000", ["a=sctpmap:5000 webrtc-datachannel 1024"]),
    ("DTLS/SCTP", "5000", ["a=sctpmap:5000 webrtc-DataChannel"]),
    ("DTLS/SCTP", "5000", []),
    ("DTLS/SCTP", "5000", ["a=sctpmap:5000 bfcp 2"]),
    ("UDP/DTLS/SCTP", "t38", ["a=sctp-port:5000"]),
    ("UDP/BFCP", "*", ["a=floorctrl:c-s"]),
    ("RTP/AVP", "100", ["a=rtpmap:100 H224/4800"]),
]
VIDEO_FORMS = [
    ("VP8/90000", ""),
    ("vp8/90000", "max-fs=12288;max-fr=60"),
    ("H264/90000", "level-asymmetry-allowed=1; packetization-mode=1; profile-level-id=42e01f"),
    ("H264/90000", "packetization-mode=1;profile-level-id=64001f;sprop-parameter-sets=Z0IAH5Y,aM4"),
    ("H264/90000", "PROFILE-LEVEL-ID=42E0FF;packetization-mode=1"),
    ("H264/90000", "packetization-mode=2;profile-level-id=42e01f"),
    ("H264/90000", "profile-level-id=zz;packetization-mode="),
    ("H264/90000", ""),
    ("VP9/90000", "profile-id=0"),
    ("AV1/90000", "level-idx=5;profile=0;tier=0"),
    ("rtx/90000", "apt=96"),
    ("rtx/90000", "apt=x"),
    ("rtx/90000", ""),
    ("red/90000", ""),
]
AUDIO_FORMS = [
    ("opus/48000/2", "minptime=10;useinbandfec=1"),
    ("OPUS/48000/2", " stereo = 1 ; ; useinbandfec"),
    ("opus/48000", "maxplaybackrate=x;minptime"),
    ("multiopus/48000/6", "channel_mapping=0,4,1,2,3,5"),
    ("PCMU/8000", ""),
    ("G722/8000/1", ""),
    ("telephone-event/8000", "0-15"),
]
ODD_LINES = [
    "a=extmap:1 urn:ietf:params:rtp-hdrext:ssrc-audio-level vad=on",
    "a=extmap:2/sendonly urn:ietf:params:rtp-hdrext:sdes:mid",
    "a=extmap:x urn:ietf:params:rtp-hdrext:sdes:mid",
    "a=extmap:300 urn:ietf:params:rtp-hdrext:sdes:mid",
    "a=extmap:4",
    "a=extmap-allow-mixed",
    "a=rtcp:9",
    "a=rtcp:x IN IP4",
    "a=rtcp:9 IN IP6 ::",
    "a=rtcp-rsize",
    "a=rtcp-fb:* nack",
    "a=rtcp-fb:96",
    "a=rtcp-fb:96  nack  pli",
    "a=rtcp-fb:111transport-cc",
    "a=fmtp:111",
    "a=fmtp:",
    "a=fmtp:200 x=y",
    "a=rtpmap:111",
    "a=rtpmap:96 opus/x",
    "a=ssrc:1",
    "a=ssrc:1234 cname:x",
    "a=ssrc:1235 msid",
    "a=ssrc:99999999999 cname:x",
    "a=ssrc-group:FID 1234 1235",
    "a=ssrc-group:SIM x y",
    "a=ssrc-group:",
    "a=msid:-",
    "a=msid:a b c d",
    "a=msid-semantic:",
    "a=rid:hi send pt=96;max-width=1280",
    "a=rid:",
    "a=simulcast:send hi;lo",
    "a=simulcast:",
    "a=ptime:20.5",
    "a=maxptime:",
    "a=candidate:",
    "a=candidate:1 1 udp",
    "a=candidate:1 1 UDP 2122252543 192.0.2.1 5000 typ host generation 0 network-cost 999",
    "a=candidate:1 1 udp x 192.0.2.1 y typ host",
    "a=candidate:1 1 tcp 1518280447 192.0.2.1 9 typ host tcptype active",
    "a=candidate:1 1 udp 1 fe80::1%eth0 5000 typ host",
    "a=candidate:1 1 udp 1 name.example 5000 typ srflx raddr 0.0.0.0 rport x",
    "a=candidate:1 1 udp 1 abcd.local 5000 typ host",
    "a=candidate:1 2 udp 1 192.0.2.1 5001 typ host",
    "a=end-of-candidates",
    "a=ice-options:trickle renomination",
    "a=ice-options:",
    "a=ice-mismatch",
    "a=tls-id:" + "0" * 20,
    "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x",
    "a=imageattr:* send *",
    "a=framerate:0",
    "a=content:slides",
    "a=label:1",
    "a=sprop:\x0bx\x1c\u2028y",
    "a=:x",
    "a=",
    "b=AS:x",
    "b=TIAS:300000",
    "c=IN IP4 x",
    "c=IN IP6 ::1/127",
    "i=camera of \u00e9",
    "k=clear:x",
]
SESSION_LINES = [
    "a=group:",
    "a=group:LS 0 1",
    "a=group:BUNDLE",
    "a=msid-semantic: WMS *",
    "a=ice-lite",
    "a=ice-options:trickle",
    "a=extmap:9 urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    "a=identity:x",
    "c=IN IP4 192.0.2.1",
    "c=IN IP4 x",
    "b=CT:x",
    "e=a@example.org",
    "z=0 0",
]


class Drawn(NamedTuple):
    text: str
    offered: list[Offered]


def payload_types() -> st.SearchStrategy[str]:
    return st.integers(0, 127).map(str)


@st.composite
def rtp_formats(draw: st.DrawFn, kind: str) -> tuple[dict[str, str], list[str]]:
    forms = draw(
        st.lists(st.sampled_from(AUDIO_FORMS if kind == "audio" else VIDEO_FORMS), max_size=5)
    )
    usual = [AUDIO_FORMS[0] if kind == "audio" else VIDEO_FORMS[0]] if draw(st.booleans()) else []
    forms = usual + forms or [("PCMU/8000", "")]
    numbers = draw(st.lists(payload_types(), min_size=len(forms), max_size=len(forms), unique=True))
    maps, lines = {}, []
    for number, (codec, parameters) in zip(numbers, forms, strict=True):
        maps[number] = codec
        lines.append(f"a=rtpmap:{number} {codec}")
        if parameters or draw(st.booleans()):
            lines.append(f"a=fmtp:{number} {parameters}")
        if draw(st.booleans()):
            lines += [f"a=rtcp-fb:{number} nack pli", f"a=rtcp-fb:{number} goog-remb"]
        if codec.startswith(("VP8", "H264")) and draw(st.booleans()):
            other = draw(payload_types().filter(lambda n: n not in numbers and n not in maps))
            maps[other] = "rtx/90000"
            lines += [f"a=rtpmap:{other} rtx/90000", f"a=fmtp:{other} apt={number}"]
    return maps, lines


@st.composite
def offers(draw: st.DrawFn) -> Drawn:
    """Draw an offer with one to five m-lines."""
    kinds = draw(
        st.lists(
            st.sampled_from(["audio", "audio", "video", "video", "application", "text"]),
            min_size=1,
            max_size=5,
        )
    )
    has_mids = draw(st.integers(0, 9)) > 0
    is_bundling = draw(st.integers(0, 4)) > 0
    everywhere = draw(st.sampled_from(["", *DIRECTIONS]))
    transport_at = draw(st.sampled_from(["media", "media", "session", "first"]))
    setup = draw(st.sampled_from(["actpass", "actpass", "active", "passive"]))
    algorithm = draw(st.sampled_from(["sha-256", "SHA-256"]))
    transport = [
        "a=ice-ufrag:ab+/",
        "a=ice-pwd:0123456789abcdefghijkl",
        f"a=fingerprint:{algorithm} {draw(st.sampled_from([DIGEST, DIGEST.lower()]))}",
        f"a=setup:{draw(st.sampled_from([setup, setup.upper()]))}",
    ]
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0"]
    head = draw(st.lists(st.sampled_from(SESSION_LINES), max_size=3))
    mids = [f"{kind[0]}{i}" if has_mids else "" for i, kind in enumerate(kinds)]
    if is_bundling:
        head.insert(0, "a=group:BUNDLE " + " ".join(draw(st.permutations(mids))))
    if everywhere:
        head.append(f"a={everywhere}")
    if transport_at == "session":
        head += transport
    lines += head
    bundled = is_bundling and has_mids
    offered = []
    for index, kind in enumerate(kinds):
        section = draw(sections(kind, mids[index], everywhere, setup, bundled))
        if transport_at == "media" or (transport_at == "first" and index == 0):
            section[1].extend(transport)
        offered.append(section[0])
        lines += section[1]
    end = draw(st.sampled_from(["\r\n", "\r\n", "\n", "\r", "\r\n\r\n", " \r\n"]))
    return Drawn("".join(line + end for line in lines), offered)


@st.composite
def sections(
    draw: st.DrawFn, kind: str, mid: str, everywhere: str, setup: str, bundled: bool
) -> tuple[Offered, list[str]]:
    port = draw(st.sampled_from(["9", "9", "9", "5004", "9/2", "0"]))
    odd = draw(st.lists(st.sampled_from(ODD_LINES), max_size=6))
    own = draw(st.sampled_from(["", "", *DIRECTIONS]))
    has_mux = draw(st.integers(0, 9)) > 0
    maps: dict[str, str] = {}
    if kind in ("audio", "video"):
        profile = draw(st.sampled_from(RTP_PROFILES[:1] * 4 + RTP_PROFILES))
        maps, lines = draw(rtp_formats(kind))
        formats = list(maps)
    elif kind == "application":
        profile, form, lines = draw(st.sampled_from(DATA_FORMS[:1] * 4 + DATA_FORMS))
        formats = [form]
    else:
        profile, formats, lines = "UDP/TLS/RTP/SAVPF", ["98"], ["a=rtpmap:98 t140/1000"]
    more = [f"a=mid:{mid}"] if mid else []
    more += ["a=rtcp-mux"] if has_mux else []
    if own:
        more.append("a=" + draw(st.sampled_from([own, own.upper(), f"{own} "])))
    is_bundle_only = bundled and port == "0" and draw(st.booleans())
    more += ["a=bundle-only"] if is_bundle_only else []
    body = draw(st.permutations([*lines, *more, *odd]))
    head = f"m={kind} {port} {profile} {' '.join(formats)}"
    meant = Offered(
        kind=kind,
        profile=profile,
        mid=mid,
        formats=formats,
        rtpmaps=maps,
        direction=own or everywhere or "sendrecv",
        setup=setup,
        is_rejected=port == "0" and not is_bundle_only,
        is_bundled=bundled,
        has_mux=has_mux,
    )
    return meant, [head, *body]
