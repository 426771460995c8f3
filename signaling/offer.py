"""Which m-lines of an offer a call takes, and in words why not the others. Front and media worker.

Each m-line is judged alone: what is unusable is declined in the answer. The offer is refused only
when nothing is left to talk with, or when the only microphone line is unusable, for then its
sender means to speak. Whoever sends is heard or seen, whoever receives gets the sound, and who has
a data channel alone types and reads.
"""

import base64
import contextlib
import re

import msgspec

from signaling.errors import ProtocolError
from signaling.sdp import Description, Section, invalid, parse

FINGERPRINT_BYTES = {"sha-256": 32, "sha-384": 48, "sha-512": 64}
SETUP_ROLES = ("actpass", "active", "passive")
DEFAULT_SCTP_PORT = 5000
"""What every known stack uses, for offers that forget to say it."""

H264_PROFILES = ("42", "4d", "58", "64")
"""profile_idc of Baseline, Main, Extended and High: 8 bit, 4:2:0."""
MAX_PARAMETER_SETS = 32
MIN_OPUS_BITRATE = 6000
RTCP_LOOKALIKES = range(64, 81)
"""Payload types that read as RTCP in a packet with the marker bit (RFC 5761 section 4)."""

_RTP_PROFILE = re.compile(r"((UDP|TCP)/(TLS|DTLS)/)?RTP/S?AVPF?", re.IGNORECASE)
_SCTP_PROFILE = re.compile(r"((UDP|TCP)/)?DTLS/SCTP", re.IGNORECASE)
_SENDING = ("sendonly", "sendrecv")
_RECEIVING = ("recvonly", "sendrecv")


class Codec(msgspec.Struct, frozen=True):
    """A format that a call takes, with the payload type and the parameters offered."""

    payload_type: str
    name: str
    """"opus", "red", "vp8", "h264" or "rtx"."""
    parameters: dict[str, str]


class AnswerPlan(msgspec.Struct, frozen=True):
    """What a call takes of an offer: indices of m-sections."""

    hears: int | None = None
    """The first audio line on which the client sends."""
    speaks: int | None = None
    """The audio line that carries our sound: `hears` if it is listened to, else the first."""
    sees: int | None = None
    """The first video line on which the client sends."""
    data: int | None = None

    @property
    def taken(self) -> list[int]:
        """Each section once, in the order of the offer."""
        indices = (self.hears, self.speaks, self.sees, self.data)
        return sorted({index for index in indices if index is not None})

    def direction(self, index: int) -> str:
        """Return the direction of a taken media section as answered (RFC 3264 section 6.1)."""
        receives = index in (self.hears, self.sees)
        if index == self.speaks:
            return "sendrecv" if receives else "sendonly"
        return "recvonly" if receives else "inactive"


def check_offer(text: str) -> AnswerPlan:
    """Check an offer without spending anything on it.

    Raises ProtocolError with param "sdp": 400 malformed, 406 nothing we can take, 413 too large.
    """
    return plan(parse(text))


def check_whole_offer(text: str) -> AnswerPlan:
    """As check_offer, and 406 as well when anything in it would be declined.

    A WHIP client takes any answer for all that it sends (RFC 9725, "No Partially Successful
    Answers").
    """
    description = parse(text)
    chosen = plan(description)
    for index, section in enumerate(description.sections):
        is_unused = description.is_rejected(section) or description.direction(section) == "inactive"
        if index in chosen.taken or is_unused:
            continue
        reason = problem(description, section)
        why = reason.message if reason is not None else "Another m-line has its part already."
        raise invalid(
            f"The {section.media} m-line (number {index + 1}) cannot be taken: {why}",
            status=406,
            code="unsupported_media",
        )
    return chosen


def plan(description: Description) -> AnswerPlan:
    """Decide what the call takes. Raises ProtocolError as check_offer does."""
    usable: dict[int, Section] = {}
    problems: list[tuple[str, ProtocolError]] = []
    for index, section in enumerate(description.sections):
        if description.is_rejected(section):
            continue
        reason = problem(description, section)
        if reason is None:
            usable[index] = section
        else:
            problems.append((section.media, reason))
    chosen = _choose(description, usable)
    is_mute = chosen.hears is None and chosen.speaks is None
    for media, reason in problems:
        if media == "audio" and is_mute and reason.status == 400:
            raise reason
    wants_sound = any(media == "audio" for media, _ in problems)
    can_hear = any(section.media == "audio" for section in usable.values())
    can_type = chosen.data is not None and (can_hear or not wants_sound)
    if is_mute and chosen.sees is None and not can_type:
        _refuse_silence(description, usable, [reason for _, reason in problems])
    _check_mids(description, chosen)
    return chosen


def _choose(description: Description, usable: dict[int, Section]) -> AnswerPlan:
    def first(media: str, directions: tuple[str, ...]) -> int | None:
        for index, section in usable.items():
            if section.media == media and description.direction(section) in directions:
                return index
        return None

    hears = first("audio", _SENDING)
    is_duplex = hears is not None and description.direction(usable[hears]) == "sendrecv"
    sees = first("video", _SENDING)
    if hears is not None and sees is not None:
        sees = None if _collide(description, usable[hears], usable[sees]) else sees
    data = (index for index, section in usable.items() if section.media == "application")
    return AnswerPlan(
        hears=hears,
        speaks=hears if is_duplex else first("audio", _RECEIVING),
        sees=sees,
        data=next(data, None),
    )


def _collide(description: Description, audio: Section, video: Section) -> bool:
    """Return whether the packets of the two cannot be told apart (RFC 9143 section 9.2)."""
    if not (description.is_bundled(audio) and description.is_bundled(video)):
        return False
    shared = {c.payload_type for c in codecs(audio)} & {c.payload_type for c in codecs(video)}
    return bool(shared) and not (sources(audio) and sources(video))


def _refuse_silence(
    description: Description,
    usable: dict[int, Section],
    reasons: list[ProtocolError],
) -> None:
    media = [section for section in usable.values() if section.media in ("audio", "video")]
    for reason in reasons:
        if reason.status == 400:
            raise reason
    if media:
        raise invalid(
            "Nothing in the offer is sent or received: no audio or video line is sendrecv, "
            "sendonly or (audio) recvonly.",
            status=406,
            code="unsupported_media",
        )
    alive = [s for s in description.sections if not description.is_rejected(s)]
    offered = [
        codec for s in alive if s.media in ("audio", "video") for codec in s.codecs().values()
    ]
    names = ", ".join(dict.fromkeys(offered)) or "no audio and no video"
    raise invalid(
        f"Nothing in the offer can be taken ({names[:200]}): audio must be Opus, "
        "video VP8 or H.264 with packetization-mode 0 or 1.",
        status=406,
        code="unsupported_media",
    )


def _check_mids(description: Description, chosen: AnswerPlan) -> None:
    mids = [description.sections[index].mid for index in chosen.taken]
    given = [mid for mid in mids if mid]
    is_short = len(given) < len(mids) and bool(description.bundle) and len(mids) > 1
    if is_short or len(set(given)) < len(given):
        raise invalid("Every m-line needs an a=mid of its own (RFC 9143).")


# ---------------------------------------------------------------------- one m-line


def problem(description: Description, section: Section) -> ProtocolError | None:
    """Return what keeps a section from being taken, None if nothing does."""
    where = f"The {section.media} m-line"
    match section.media:
        case "audio" | "video":
            found = _rtp_problem(section, where)
        case "application":
            found = None if sctp_port(section) else invalid(f"{where} is no data channel.")
        case _:
            found = invalid(f"{where} is of no known kind.", status=406)
    return found or _transport_problem(description, section, where)


def _rtp_problem(section: Section, where: str) -> ProtocolError | None:
    if not _RTP_PROFILE.fullmatch(section.profile):
        return invalid(f"{where} has the profile {section.profile[:40]}, which is no RTP.")
    if not codecs(section):
        for payload_type in section.formats:
            if not is_payload_type(payload_type):
                return invalid(
                    f'"{payload_type[:20]}" in the {section.media} m-line is no payload type.'
                )
        return invalid(f"{where} has no codec we know.", status=406, code="unsupported_media")
    if not section.has("rtcp-mux"):
        return invalid(f"{where} has no a=rtcp-mux, which is required (RFC 8834).")
    return None


def _transport_problem(
    description: Description, section: Section, where: str
) -> ProtocolError | None:
    # As much as a header extension holds (RFC 8285 section 4.3).
    if not re.fullmatch(r"[!-~]{0,255}", section.mid):
        return invalid(f"{where} has an a=mid that is not one word of at most 255 characters.")
    for attribute in ("ice-ufrag", "ice-pwd"):
        values = description.inherited(section, attribute)
        if not values or not re.fullmatch(r"[!-~]{1,256}", values[0]):
            return invalid(f"{where} has no valid a={attribute} (ICE credentials, RFC 8839).")
    if not fingerprints(description, section):
        hashes = ", ".join(FINGERPRINT_BYTES)
        return invalid(f"{where} has no a=fingerprint with one of {hashes}.")
    if setup_role(description, section) not in SETUP_ROLES:
        return invalid(f"{where} has no a=setup of {', '.join(SETUP_ROLES)} (RFC 8842).")
    return None


def is_payload_type(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) < 128 and text == str(int(text))


def codecs(section: Section) -> list[Codec]:
    """Return what we take of an audio or video section, in the client's order of preference."""
    known = [
        Codec(payload_type, codec.partition("/")[0], section.parameters(payload_type))
        for payload_type, codec in section.codecs().items()
        if is_payload_type(payload_type)
        and codec in (_AUDIO_CODECS if section.media == "audio" else _VIDEO_CODECS)
    ]
    if section.media == "audio":
        return [c for c in known if c.name == "opus" or opus_in(section, c)]
    known = [c for c in known if int(c.payload_type) not in RTCP_LOOKALIKES]
    main = {c.payload_type for c in known if c.name == "vp8" or (c.name == "h264" and _decodes(c))}
    return [
        c
        for c in known
        if c.payload_type in main or (c.name == "rtx" and c.parameters.get("apt") in main)
    ]


def opus_in(section: Section, red: Codec) -> str | None:
    """Return the payload type of the Opus that a redundant format repeats (RFC 2198 section 5).

    None where it repeats something else, or does not say what.
    """
    found = {payload_type for kinds in red.parameters for payload_type in kinds.split("/")}
    opus = {pt for pt, codec in section.codecs().items() if codec == "opus/48000"}
    return found.pop() if len(found) == 1 and found <= opus else None


_AUDIO_CODECS = ("opus/48000", "red/48000")
_VIDEO_CODECS = ("vp8/90000", "h264/90000", "rtx/90000")


def _decodes(codec: Codec) -> bool:
    """Whether we decode this H.264 (RFC 6184 section 8.1); the level is the decoder's business."""
    profile = codec.parameters.get("profile-level-id", "42e01f").lower()
    mode = codec.parameters.get("packetization-mode", "0")
    is_known = bool(re.fullmatch(r"[0-9a-f]{6}", profile)) and profile[:2] in H264_PROFILES
    return is_known and mode in ("0", "1")


class OpusWishes(msgspec.Struct, frozen=True):
    """How a client wants to be sent Opus (RFC 7587 section 6.1)."""

    has_pauses: bool = False
    """It prefers that nothing is sent in silence (usedtx)."""
    max_bitrate: int | None = None
    """bit/s (maxaveragebitrate)."""
    opens_late: bool = False
    """It is a browser that begins to play seconds after it begins to receive."""
    red_payload_type: int | None = None
    """Of packets that carry copies of earlier ones (RFC 2198); None if it takes none."""


def opus_wishes(section: Section, origin: str = "") -> OpusWishes:
    """Return what an audio section asks for; what is no sensible number is no wish.

    `origin` is that of the description, in which Firefox gives its name.
    """
    taken = codecs(section)
    # The first one is sent.
    opus = next((codec for codec in taken if codec.name == "opus"), None)
    if opus is None:
        return OpusWishes()
    reds = (codec for codec in taken if codec.name == "red")
    red = next((codec for codec in reds if opus_in(section, codec) == opus.payload_type), None)
    most = opus.parameters.get("maxaveragebitrate", "")
    is_number = most.isascii() and most.isdigit() and len(most) <= 6
    return OpusWishes(
        has_pauses=opus.parameters.get("usedtx") == "1",
        opens_late=origin.startswith("mozilla"),
        max_bitrate=max(MIN_OPUS_BITRATE, int(most)) if is_number else None,
        red_payload_type=int(red.payload_type) if red else None,
    )


def parameter_sets(section: Section) -> dict[int, tuple[bytes, ...]]:
    """Return the H.264 parameter sets of a video section by payload type (RFC 6184 section 8.1).

    What is no base64 is left out: a camera may bring its sets in the stream as well.
    """
    found: dict[int, tuple[bytes, ...]] = {}
    for codec in codecs(section):
        given = codec.parameters.get("sprop-parameter-sets", "").split(",")[:MAX_PARAMETER_SETS]
        sets = []
        for text in filter(None, given):
            with contextlib.suppress(ValueError):
                sets.append(base64.b64decode(text, validate=True))
        if sets and codec.name == "h264":
            found[int(codec.payload_type)] = tuple(filter(None, sets))
    return found


def sctp_port(section: Section) -> int | None:
    """Return the SCTP port of a data channel section (RFC 8841, or a draft of it), else None."""
    if not _SCTP_PROFILE.fullmatch(section.profile):
        return None
    if section.formats[0].lower() == "webrtc-datachannel":
        value = next(iter(section.values("sctp-port")), str(DEFAULT_SCTP_PORT))
    else:
        # m=application 9 DTLS/SCTP 5000, a=sctpmap:5000 webrtc-datachannel 1024
        value = section.formats[0]
        for mapped in section.values("sctpmap"):
            number, *names = mapped.lower().split()
            if number == value and names[:1] != ["webrtc-datachannel"]:
                return None
    return int(value) if re.fullmatch(r"[0-9]{1,5}", value) and 0 < int(value) < 65536 else None


def fingerprints(description: Description, section: Section) -> list[str]:
    """Return the well-formed fingerprints of known hashes as `hash XX:XX:...`."""
    found = []
    for value in description.inherited(section, "fingerprint"):
        name, _, digest = value.partition(" ")
        size = FINGERPRINT_BYTES.get(name.lower())
        digest = digest.strip().upper()
        if size and re.fullmatch(rf"[0-9A-F]{{2}}(:[0-9A-F]{{2}}){{{size - 1}}}", digest):
            found.append(f"{name.lower()} {digest}")
    return list(dict.fromkeys(found))


def setup_role(description: Description, section: Section) -> str:
    return next(iter(description.inherited(section, "setup")), "").lower()


def sources(section: Section) -> list[int]:
    """Return the SSRC of the first stream announced, then that of its retransmissions if any."""
    given = [int(v.split()[0]) for v in section.values("ssrc") if _is_ssrc(v.split()[0])]
    if not given:
        return []
    for value in section.values("ssrc-group"):
        semantics, *members = value.split()
        if semantics.upper() == "FID" and len(members) == 2 and all(map(_is_ssrc, members)):
            if int(members[0]) == given[0]:
                return [int(member) for member in members]
    return given[:1]


def _is_ssrc(text: str) -> bool:
    return bool(re.fullmatch(r"[0-9]{1,10}", text)) and 0 < int(text) < 1 << 32
