"""From a checked offer to what aiortc is given, and from its answer to what the client gets.

aiortc can reject neither a single m-line nor a codec, so it sees only the sections that a call
takes. The others are answered here: inactive inside the bundle if their codec is one of ours (some
clients, aiortc among them, fail on port 0), else rejected (RFC 9429 section 5.3.1). Media worker.
"""

import msgspec

from signaling import candidates
from signaling.sdp import (
    Choice,
    Description,
    Section,
    check,
    inherited,
    opus_payload_types,
    parse,
    takes_video,
)

MAX_CANDIDATES = 64
OPUS_BITRATE_BPS = 32_000

_TRANSPORT = ("ice-ufrag", "ice-pwd", "fingerprint", "setup")
_PER_PAYLOAD_TYPE = ("a=rtpmap:", "a=fmtp:", "a=rtcp-fb:")


class PreparedOffer(msgspec.Struct, frozen=True):
    """The offer for aiortc, and what is needed to answer the original one."""

    text: str
    original: Description
    choice: Choice


def prepare_offer(text: str) -> PreparedOffer:
    """Check an offer and reduce it to what the call takes.

    Candidates are kept only if they are usable, at most MAX_CANDIDATES. End-of-candidates is
    always dropped: with no candidate it would make aioice gather nothing and wait for ever, and
    the peer's connect deadline makes it superfluous. Raises ProtocolError as check_offer does.
    """
    original = parse(text)
    choice = check(original)
    bundle = original.bundle
    kept = [original.sections[i] for i in choice.indices]
    bundled = [section for section in kept if section.mid and section.mid in bundle]
    sections = []
    for section in kept:
        if section not in bundled:
            sources: list[Section] = [section]
        elif section is bundled[0]:
            sources = [s for s in original.sections if s.mid in bundle]
        else:
            sources = []
        offered = [line for s in sources for line in s.lines if line.startswith("a=candidate:")]
        usable = [line for line in dict.fromkeys(offered) if candidates.is_usable(line)]
        sections.append(_reduce(original, section, usable[:MAX_CANDIDATES]))
    session = [line for line in original.session if not line.startswith("a=group:")]
    if bundled:
        session.append("a=group:BUNDLE " + " ".join(section.mid for section in bundled))
    reduced = Description(session=tuple(session), sections=tuple(sections))
    return PreparedOffer(text=reduced.text(), original=original, choice=choice)


def _reduce(original: Description, section: Section, usable: list[str]) -> Section:
    if section.kind == "audio":
        payload_types = opus_payload_types(section)
    else:
        payload_types = list(section.codecs())
    lines = []
    for line in section.lines:
        name = line.partition(":")[0].removeprefix("a=")
        if name in ("candidate", "end-of-candidates", "bundle-only", *_TRANSPORT):
            continue
        if line.startswith(_PER_PAYLOAD_TYPE):
            payload_type = line.partition(":")[2].partition(" ")[0]
            if payload_type != "*" and payload_type not in payload_types:
                continue
        lines.append(line)
    for attribute in _TRANSPORT:
        # Session-level values stay at session level: aiortc would see a fingerprint twice.
        if not _at_session_level(original, section, attribute):
            values = inherited(original, section, attribute)
            lines += [f"a={attribute}:{value}" for value in values]
    is_media = section.kind in ("audio", "video")
    return Section(
        kind=section.kind,
        port=section.port or 9,
        profile=section.profile,
        formats=tuple(payload_types) if is_media else section.formats,
        lines=(*lines, *usable),
    )


def _at_session_level(original: Description, section: Section, attribute: str) -> bool:
    prefix = f"a={attribute}:"
    own = any(line.startswith(prefix) for line in section.lines)
    return not own and any(line.startswith(prefix) for line in original.session)


def finish_answer(
    text: str, offer: PreparedOffer, *, opus_bitrate_bps: int = OPUS_BITRATE_BPS
) -> str:
    """Turn aiortc's answer into the one for the client.

    Tells the client how we want its Opus (mono, in-band FEC, 20 ms, at most `opus_bitrate_bps`
    bit/s; RFC 7587 section 6.1) and adds the sections that were not taken.
    """
    answer = parse(text)
    transport = answer.sections[0]
    taken = dict(zip(offer.choice.indices, answer.sections, strict=True))
    sections = []
    for index, offered in enumerate(offer.original.sections):
        section = taken.get(index)
        if section is None:
            sections.append(_declined(offered, transport, offer.original.bundle))
        elif section.kind == "audio":
            sections.append(_with_opus_parameters(section, opus_bitrate_bps))
        else:
            sections.append(section)
    session = [line for line in answer.session if not line.startswith("a=group:BUNDLE")]
    if bundled := [s.mid for s in sections if s.port and s.mid in offer.original.bundle]:
        session.append("a=group:BUNDLE " + " ".join(bundled))
    return Description(session=tuple(session), sections=tuple(sections)).text()


def _declined(offered: Section, transport: Section, bundle: tuple[str, ...]) -> Section:
    payload_types = opus_payload_types(offered)
    if offered.kind == "video" and takes_video(offered):
        payload_types = list(offered.codecs())
    if offered.is_rejected or not payload_types or offered.mid not in bundle:
        return _rejected(offered)
    lines = ["c=IN IP4 0.0.0.0", "a=inactive", f"a=mid:{offered.mid}", "a=rtcp-mux"]
    for line in offered.lines:
        payload_type = line.partition(":")[2].partition(" ")[0]
        if line.startswith(("a=rtpmap:", "a=fmtp:")) and payload_type in payload_types:
            lines.append(line)
    # With the candidates, as in every section: an aiortc client keeps only those of the last one.
    for attribute in ("candidate", *_TRANSPORT):
        lines += [f"a={attribute}:{value}" for value in transport.values(attribute)]
    if transport.has("end-of-candidates"):
        lines.append("a=end-of-candidates")
    return msgspec.structs.replace(
        offered, port=9, formats=tuple(payload_types), lines=tuple(lines)
    )


def _rejected(offered: Section) -> Section:
    lines = ["c=IN IP4 0.0.0.0", "a=inactive"]
    if offered.mid:
        lines.append(f"a=mid:{offered.mid}")
    return Section(
        kind=offered.kind,
        port=0,
        profile=offered.profile,
        formats=offered.formats,
        lines=tuple(lines),
    )


def _with_opus_parameters(section: Section, bitrate_bps: int) -> Section:
    wanted = f"minptime=10;useinbandfec=1;stereo=0;sprop-stereo=0;maxaveragebitrate={bitrate_bps}"
    lines = [line for line in section.lines if not line.startswith(("a=fmtp:", "a=ptime:"))]
    lines += [f"a=fmtp:{payload_type} {wanted}" for payload_type in opus_payload_types(section)]
    lines.append("a=ptime:20")
    return msgspec.structs.replace(section, lines=tuple(lines))
