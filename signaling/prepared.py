"""What aiortc is given of an offer. Media worker.

aiortc never sees a line of the client's: it gets a description written here, of what was understood
and is taken, because its parser fails on much that is valid and believes much that is not.
"""

import msgspec

from signaling import candidates
from signaling.offer import (
    AnswerPlan,
    Codec,
    codecs,
    fingerprints,
    plan,
    sctp_port,
    setup_role,
    sources,
)
from signaling.sdp import Attribute, Description, Section, parse

MAX_CANDIDATES = 64
DEFAULT_MESSAGE_BYTES = 65536
"""What a client takes that does not say (RFC 8841 section 6.1)."""
MAX_MESSAGE_BYTES = 1 << 30

RTPMAPS = {
    "opus": "opus/48000/2",
    "red": "red/48000/2",
    "vp8": "VP8/90000",
    "h264": "H264/90000",
    "rtx": "rtx/90000",
}

_RTP_PROFILE = "UDP/TLS/RTP/SAVPF"
_EXTENSIONS = (
    "urn:ietf:params:rtp-hdrext:sdes:mid",
    "urn:ietf:params:rtp-hdrext:ssrc-audio-level",
    "http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time",
)
_FEEDBACK = ("nack", "nack pli", "goog-remb")
_H264 = "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f"
"""What aiortc takes for H.264; it never decodes any."""


class PreparedOffer(msgspec.Struct, frozen=True):
    """The offer for aiortc, and what is needed to answer the original one."""

    text: str
    original: Description
    plan: AnswerPlan
    mids: dict[int, str]
    """aiortc's mid of each section taken: the client's where it has one."""


def prepare_offer(text: str) -> PreparedOffer:
    """Check an offer and write down what the call takes of it.

    End-of-candidates is always left out: with no candidate it would make aioice gather nothing and
    wait for ever, and the peer's connect deadline makes it superfluous. Raises ProtocolError as
    check_offer does.
    """
    original = parse(text)
    chosen = plan(original)
    mids = _mids(original, chosen)
    bundled = [i for i in chosen.taken if original.is_bundled(original.sections[i])]
    sections = []
    for index in chosen.taken:
        section = original.sections[index]
        attributes: list[Attribute] = [("mid", mids[index])]
        if section.media == "application":
            attributes += _data_attributes(section)
        else:
            attributes += [(original.direction(section), None), *_rtp_attributes(original, section)]
        attributes += _transport(original, section)
        if index not in bundled:
            attributes += _candidates([section])
        elif index == bundled[0]:
            attributes += _candidates([s for s in original.sections if original.is_bundled(s)])
        sections.append(_canonical(section, tuple(attributes)))
    session: list[Attribute] = []
    if any(name == "ice-lite" for name, _ in original.attributes):
        session.append(("ice-lite", None))
    if bundled:
        session.append(("group", "BUNDLE " + " ".join(mids[i] for i in bundled)))
    reduced = Description(sections=tuple(sections), attributes=tuple(session))
    return PreparedOffer(text=reduced.text(), original=original, plan=chosen, mids=mids)


def _mids(original: Description, chosen: AnswerPlan) -> dict[int, str]:
    """Name every section taken; aiortc needs a mid where RFC 8866 does not."""
    mids: dict[int, str] = {}
    used = {section.mid for section in original.sections}
    for index in chosen.taken:
        mid = original.sections[index].mid
        while not mid:
            mid = next(name for n in range(len(used) + 1) if (name := f"m{n}") not in used)
        used.add(mid)
        mids[index] = mid
    return mids


def _canonical(section: Section, attributes: tuple[Attribute, ...]) -> Section:
    if section.media == "application":
        return Section("application", 9, "UDP/DTLS/SCTP", ("webrtc-datachannel",), attributes)
    payload_types = tuple(codec.payload_type for codec in _known(section))
    return Section(section.media, 9, _RTP_PROFILE, payload_types, attributes)


def _known(section: Section) -> list[Codec]:
    """What aiortc has a name for; the peer adds RED to it, which is never the first."""
    return [codec for codec in codecs(section) if codec.name != "red"]


def _rtp_attributes(original: Description, section: Section) -> list[Attribute]:
    attributes: list[Attribute] = [("rtcp-mux", None), *_extensions(original, section)]
    for codec in _known(section):
        attributes.append(("rtpmap", f"{codec.payload_type} {RTPMAPS[codec.name]}"))
        attributes += _feedback(section, codec)
        if codec.name == "h264":
            attributes.append(("fmtp", f"{codec.payload_type} {_H264}"))
        elif codec.name == "rtx":
            attributes.append(("fmtp", f"{codec.payload_type} apt={codec.parameters['apt']}"))
    attributes += [("ssrc", f"{ssrc} cname:-") for ssrc in sources(section)]
    return attributes


def _extensions(original: Description, section: Section) -> list[Attribute]:
    """Header extensions that aiortc reads, unless restricted to one direction (RFC 8285)."""
    found: dict[str, str] = {}
    for attributes in (section.attributes, original.attributes):
        for name, value in attributes:
            number, uri, *_ = [*(value or "").split(), "", ""]
            is_id = number.isascii() and number.isdigit() and 0 < int(number) < 15
            if name == "extmap" and is_id and uri in _EXTENSIONS and number not in found:
                if uri not in found.values():
                    found[number] = uri
    return [("extmap", f"{number} {uri}") for number, uri in found.items()]


def _feedback(section: Section, codec: Codec) -> list[Attribute]:
    found = []
    for value in section.values("rtcp-fb"):
        payload_type, *kind = value.lower().split()
        if payload_type in ("*", codec.payload_type) and " ".join(kind) in _FEEDBACK:
            found.append(f"{codec.payload_type} {' '.join(kind)}")
    return [("rtcp-fb", value) for value in dict.fromkeys(found)]


def max_message_bytes(section: Section) -> int:
    """Return what the client takes in one message (RFC 8841 section 6.1); 0: any size."""
    size = next(iter(section.values("max-message-size")), "")
    is_size = size.isascii() and size.isdigit()
    return min(int(size[:20]), MAX_MESSAGE_BYTES) if is_size else DEFAULT_MESSAGE_BYTES


def _data_attributes(section: Section) -> list[Attribute]:
    return [
        ("sctp-port", str(sctp_port(section))),
        ("max-message-size", str(max_message_bytes(section))),
    ]


def _transport(original: Description, section: Section) -> list[Attribute]:
    return [
        ("ice-ufrag", original.inherited(section, "ice-ufrag")[0]),
        ("ice-pwd", original.inherited(section, "ice-pwd")[0]),
        *(("fingerprint", value) for value in fingerprints(original, section)),
        ("setup", setup_role(original, section)),
    ]


def _candidates(carriers: list[Section]) -> list[Attribute]:
    """Return the first MAX_CANDIDATES that can be tried."""
    given = (value for section in carriers for value in section.values("candidate"))
    found = dict.fromkeys(filter(None, map(candidates.read, given)))
    return [("candidate", value) for value in list(found)[:MAX_CANDIDATES]]
