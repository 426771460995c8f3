"""From aiortc's answer to what the client gets: its own m-lines, our transport. Media worker.

What is not taken is answered inactive inside the bundle if we know its codec (some clients, aiortc
among them, fail on port 0), else rejected (RFC 9429 section 5.3.1).
"""

import msgspec

from signaling.offer import Codec, codecs, problem
from signaling.prepared import RTPMAPS, PreparedOffer
from signaling.sdp import NO_CONNECTION, Attribute, Description, Section, parse

OPUS_BITRATE_BPS = 32_000
SCTP_STREAMS = 65535

_H264_NAMES = ("level-asymmetry-allowed", "packetization-mode", "profile-level-id")
_TRANSPORT = ("candidate", "end-of-candidates", "ice-ufrag", "ice-pwd", "fingerprint", "setup")


def finish_answer(
    text: str, offer: PreparedOffer, *, opus_bitrate_bps: int = OPUS_BITRATE_BPS
) -> str:
    """Turn aiortc's answer into the one for the client: its m-lines, our transport.

    Tells the client how we want its Opus (mono, in-band FEC, 20 ms, at most `opus_bitrate_bps`
    bit/s; RFC 7587 section 6.1).
    """
    answer = parse(text)
    original = offer.original
    taken = dict(zip(offer.plan.taken, answer.sections, strict=True))
    sections = []
    for index, offered in enumerate(original.sections):
        section = taken.get(index)
        if section is None:
            sections.append(_declined(original, offered, answer.sections[0]))
        elif offered.media == "application":
            sections.append(_data_answer(offered, section))
        else:
            direction = offer.plan.direction(index)
            sections.append(_media_answer(offered, section, direction, opus_bitrate_bps))
    session = tuple(a for a in answer.attributes if a[0] != "group")
    accepted = {s.mid for s in sections if s.port and original.is_bundled(s)}
    if bundled := [mid for mid in original.bundle if mid in accepted]:
        bundled = _tagged_first(bundled, offer)
        session += (("group", "BUNDLE " + " ".join(bundled)),)
    return msgspec.structs.replace(answer, attributes=session, sections=tuple(sections)).text()


def _tagged_first(bundled: list[str], offer: PreparedOffer) -> list[str]:
    """Keep the client's tagged m-line first (RFC 9143 section 7.3.1), with one exception.

    Lines of one kind offered at an address of their own stay there when aiortc, as a client with
    its usual bundle policy, joins the bundle; only if that address is named first do they meet.
    """
    ports = {s.mid: s.port for s in offer.original.sections if s.mid in bundled}
    for index in offer.plan.taken:
        taken = offer.original.sections[index]
        first = next((mid for mid in ports if ports[mid] == taken.port), taken.mid)
        if first != taken.mid and taken.port not in (0, 9):
            return sorted(bundled, key=lambda mid: mid != first)
    return bundled


def _media_answer(offered: Section, section: Section, direction: str, bitrate_bps: int) -> Section:
    ours = [a for a in section.attributes if a[0] in ("rtcp", "rtcp-mux", "extmap", "rtcp-fb")]
    known = codecs(offered)
    attributes = [(direction, None), *_mid(offered), *ours, *_formats(known, bitrate_bps)]
    if offered.media == "audio":
        attributes.append(("ptime", "20"))
    if direction.startswith("send"):
        attributes += [a for a in section.attributes if a[0] in ("msid", "ssrc")]
    return _answered(
        offered, section, [codec.payload_type for codec in codecs(offered)], attributes
    )


def _data_answer(offered: Section, section: Section) -> Section:
    port = next(iter(section.values("sctp-port")))
    attributes = _mid(offered)
    if offered.formats[0].isdigit():
        # A draft of RFC 8841 had the port in place of the format.
        formats = [port]
        attributes.append(("sctpmap", f"{port} webrtc-datachannel {SCTP_STREAMS}"))
    else:
        formats = list(offered.formats[:1])
        attributes.append(("sctp-port", port))
    attributes += [a for a in section.attributes if a[0] == "max-message-size"]
    return _answered(offered, section, formats, attributes)


def _declined(original: Description, offered: Section, transport: Section) -> Section:
    known = codecs(offered) if offered.media in ("audio", "video") else []
    is_joining = original.is_bundled(offered) and not original.is_rejected(offered)
    if not (is_joining and known and problem(original, offered) is None):
        return Section(
            kind=offered.kind,
            port=0,
            profile=offered.profile,
            formats=offered.formats,
            attributes=(("inactive", None), *_mid(offered)),
            connection=NO_CONNECTION,
        )
    attributes = [("inactive", None), *_mid(offered), ("rtcp-mux", None), *_formats(known, 0)]
    return _answered(offered, transport, [codec.payload_type for codec in known], attributes)


def _answered(
    offered: Section, section: Section, formats: list[str], attributes: list[Attribute]
) -> Section:
    """The offered m-line with `formats`, and aiortc's transport.

    With the candidates in every section: an aiortc client keeps only those of the last one.
    """
    transport = [a for a in section.attributes if a[0] in _TRANSPORT]
    return Section(
        kind=offered.kind,
        port=section.port or 9,
        profile=offered.profile,
        formats=tuple(formats),
        attributes=(*attributes, *transport),
        connection=section.connection or NO_CONNECTION,
    )


def _mid(offered: Section) -> list[Attribute]:
    return [("mid", offered.mid)] if offered.mid else []


def _formats(known: list[Codec], opus_bitrate_bps: int) -> list[Attribute]:
    attributes: list[Attribute] = []
    for codec in known:
        attributes.append(("rtpmap", f"{codec.payload_type} {RTPMAPS[codec.name]}"))
        if parameters := _answered_parameters(codec, opus_bitrate_bps):
            attributes.append(("fmtp", f"{codec.payload_type} {parameters}"))
    return attributes


def _answered_parameters(codec: Codec, opus_bitrate_bps: int) -> str:
    match codec.name:
        case "opus":
            wanted = "minptime=10;useinbandfec=1;stereo=0;sprop-stereo=0"
            return wanted + (f";maxaveragebitrate={opus_bitrate_bps}" if opus_bitrate_bps else "")
        case "h264":
            # The same configuration, or the format must go (RFC 6184 section 8.2.2).
            given = {name: v for name in _H264_NAMES if (v := codec.parameters.get(name))}
            if given.get("level-asymmetry-allowed") != "1":
                given.pop("level-asymmetry-allowed", None)
            return ";".join(f"{name}={value}" for name, value in given.items())
        case "red":
            return next(iter(codec.parameters))
        case "rtx":
            return f"apt={codec.parameters['apt']}"
    return ""
