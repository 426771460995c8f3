"""Session descriptions as text: split into sections and check an offer. Front and media worker.

Nothing here parses what aiortc parses again: it decides which m-lines a call can take and says in
words what is wrong with an offer before any resource is spent on it.
"""

import re

import msgspec

from signaling.errors import ProtocolError

MAX_OFFER_BYTES = 64 * 1024
MAX_SECTIONS = 32
FINGERPRINT_HASHES = ("sha-256", "sha-384", "sha-512")
SETUP_ROLES = ("actpass", "active", "passive")

_LINE = re.compile(r"[a-z]=[^\x00\r\n]*")
_MEDIA = re.compile(r"m=([a-z]+) ([0-9]{1,5})(?:/[0-9]+)? ([A-Z/]+) (\S.*)")
_RTPMAP = re.compile(r"([0-9]{1,3}) ([^/ ]+)/([0-9]+)(?:/([0-9]+))?")


class Section(msgspec.Struct, frozen=True):
    """One `m=` section; `lines` are all lines below the m-line."""

    kind: str
    port: int
    profile: str
    formats: tuple[str, ...]
    lines: tuple[str, ...]

    def values(self, attribute: str) -> list[str]:
        """Return the values of every `a=attribute:` line, in order."""
        return attribute_values(self.lines, attribute)

    def has(self, attribute: str) -> bool:
        """Return whether the property attribute `a=attribute` is there."""
        return f"a={attribute}" in self.lines

    @property
    def mid(self) -> str:
        return next(iter(self.values("mid")), "")

    @property
    def is_rejected(self) -> bool:
        """Port 0 means rejected, except on bundle-only m-lines (RFC 8843 section 6)."""
        return self.port == 0 and not self.has("bundle-only")

    def codecs(self) -> dict[str, str]:
        """Return payload type -> lower-case `name/clock` of every rtpmap."""
        found = {}
        for value in self.values("rtpmap"):
            match = _RTPMAP.fullmatch(value.strip())
            if match and match[1] in self.formats:
                found[match[1]] = f"{match[2].lower()}/{match[3]}"
        return found

    def text(self) -> str:
        head = f"m={self.kind} {self.port} {self.profile} {' '.join(self.formats)}"
        return "".join(f"{line}\r\n" for line in (head, *self.lines))


class Description(msgspec.Struct, frozen=True):
    """A whole session description: session-level lines, then the m-sections."""

    session: tuple[str, ...]
    sections: tuple[Section, ...]

    @property
    def bundle(self) -> tuple[str, ...]:
        """Return the mids of the first BUNDLE group."""
        for value in attribute_values(self.session, "group"):
            semantics, *mids = value.split()
            if semantics == "BUNDLE":
                return tuple(mids)
        return ()

    def text(self) -> str:
        session = "".join(f"{line}\r\n" for line in self.session)
        return session + "".join(section.text() for section in self.sections)


class Choice(msgspec.Struct, frozen=True):
    """Indices of the m-sections that a call takes: the first usable one of each kind."""

    audio: int | None
    video: int | None
    data: int | None

    @property
    def indices(self) -> list[int]:
        return sorted(i for i in (self.audio, self.video, self.data) if i is not None)


class OfferSummary(msgspec.Struct, frozen=True):
    """What an offer brings, as far as a call can take it."""

    has_audio: bool
    has_video: bool
    has_data_channel: bool
    audio_tracks: int
    """Audio m-lines that are not rejected; only the first with Opus is taken."""
    video_tracks: int
    audio_codecs: tuple[str, ...]
    """`name/clock`, lower case, of the audio m-line taken, in the client's order."""
    video_codecs: tuple[str, ...]
    candidates: int


def invalid(message: str, *, status: int = 400, code: str = "invalid_offer") -> ProtocolError:
    """Return the error for an offer that cannot be taken."""
    return ProtocolError(message, code=code, param="sdp", status=status)


def attribute_values(lines: tuple[str, ...], attribute: str) -> list[str]:
    """Return the values of every `a=attribute:` line, in order."""
    prefix = f"a={attribute}:"
    return [line[len(prefix) :].strip() for line in lines if line.startswith(prefix)]


def parse(text: str) -> Description:
    """Split a description into lines and sections (RFC 8866 section 5).

    Raises ProtocolError: 400 when empty or not SDP, 413 above MAX_OFFER_BYTES.
    """
    if not text.strip():
        raise invalid("The offer is empty; an SDP offer (application/sdp) is expected.")
    if len(text) > MAX_OFFER_BYTES or len(text.encode("utf-8", "replace")) > MAX_OFFER_BYTES:
        raise invalid(f"The offer is larger than {MAX_OFFER_BYTES} bytes.", status=413)
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    lines = [line for line in lines if line]
    if lines[0] != "v=0":
        raise invalid('This is not an SDP offer: its first line must be "v=0".')
    for number, line in enumerate(lines, 1):
        if not _LINE.fullmatch(line):
            raise invalid(f"Line {number} of the offer is not SDP: <letter>=<value> is expected.")
    return _split(lines)


def _split(lines: list[str]) -> Description:
    starts = [i for i, line in enumerate(lines) if line.startswith("m=")]
    if not starts:
        raise invalid("The offer has no m-line: add an audio or a video track before createOffer.")
    if len(starts) > MAX_SECTIONS:
        raise invalid(f"The offer has {len(starts)} m-lines; at most {MAX_SECTIONS} are taken.")
    sections = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        match = _MEDIA.fullmatch(lines[start])
        if not match or int(match[2]) > 65535:
            raise invalid(f'The m-line "{lines[start][:80]}" is malformed.')
        section = Section(
            kind=match[1],
            port=int(match[2]),
            profile=match[3],
            formats=tuple(match[4].split()),
            lines=tuple(lines[start + 1 : end]),
        )
        if section.kind in ("audio", "video"):
            _check_payload_types(section)
        sections.append(section)
    return Description(session=tuple(lines[: starts[0]]), sections=tuple(sections))


def _check_payload_types(section: Section) -> None:
    for payload_type in section.formats:
        if not (payload_type.isascii() and payload_type.isdigit() and int(payload_type) < 128):
            raise invalid(f'"{payload_type[:20]}" in the {section.kind} m-line is no payload type.')


def opus_payload_types(section: Section) -> list[str]:
    """Return the payload types of Opus (RFC 7587: always opus/48000)."""
    return [pt for pt, codec in section.codecs().items() if codec == "opus/48000"]


def takes_video(section: Section) -> bool:
    """Return whether VP8 or H.264 baseline with packetization-mode 1 (RFC 6184) is offered."""
    parameters = dict(value.partition(" ")[::2] for value in section.values("fmtp"))
    for payload_type, codec in section.codecs().items():
        if codec == "vp8/90000":
            return True
        fmtp = parameters.get(payload_type, "").replace(" ", "").lower().split(";")
        profile = next((p for p in fmtp if p.startswith("profile-level-id=")), "=42e01f")
        if codec == "h264/90000" and "packetization-mode=1" in fmtp and "=42" in profile:
            return True
    return False


def choose(description: Description) -> Choice:
    """Choose the sections a call takes. Raises ProtocolError 406 without usable audio or video."""
    audio = video = data = None
    offered = []
    for index, section in enumerate(description.sections):
        if section.is_rejected:
            continue
        if section.kind in ("audio", "video"):
            offered += list(section.codecs().values())
        if section.kind == "audio" and audio is None and opus_payload_types(section):
            audio = index
        elif section.kind == "video" and video is None and takes_video(section):
            video = index
        elif section.kind == "application" and data is None and "SCTP" in section.profile:
            data = index
    if audio is None and video is None:
        codecs = ", ".join(dict.fromkeys(offered)) or "no audio and no video"
        raise invalid(
            f"Nothing in the offer can be taken ({codecs[:200]}): audio must be Opus, "
            "video VP8 or H.264 baseline with packetization-mode 1.",
            status=406,
            code="unsupported_media",
        )
    return Choice(audio=audio, video=video, data=data)


def inherited(description: Description, section: Section, attribute: str) -> list[str]:
    """Return an attribute's values from the section, the session, or the BUNDLE that it is in.

    In a bundle only one section has to carry the transport attributes (RFC 8843 section 7.1.3).
    """
    values = section.values(attribute) or attribute_values(description.session, attribute)
    if values or section.mid not in description.bundle:
        return values
    for other in description.sections:
        if other.mid in description.bundle and (values := other.values(attribute)):
            return values
    return []


def _check_transport(description: Description, section: Section) -> None:
    where = f"The {section.kind} m-line"
    for attribute in ("ice-ufrag", "ice-pwd"):
        values = inherited(description, section, attribute)
        if not values or not re.fullmatch(r"[!-~]{1,256}", values[0]):
            raise invalid(f"{where} has no valid a={attribute} (ICE credentials, RFC 8839).")
    hashes = [v.split() for v in inherited(description, section, "fingerprint")]
    if not any(len(v) == 2 and v[0].lower() in FINGERPRINT_HASHES for v in hashes):
        raise invalid(f"{where} has no a=fingerprint with one of {', '.join(FINGERPRINT_HASHES)}.")
    setup = inherited(description, section, "setup")
    if not setup or setup[0] not in SETUP_ROLES:
        raise invalid(f"{where} has no a=setup of {', '.join(SETUP_ROLES)} (RFC 8842).")
    if section.kind != "application" and not section.has("rtcp-mux"):
        raise invalid(f"{where} has no a=rtcp-mux, which is required (RFC 8834).")


def check(description: Description) -> Choice:
    """Choose the sections to take and check what their transport needs. Raises ProtocolError."""
    choice = choose(description)
    mids = [description.sections[i].mid for i in choice.indices]
    if len(mids) > 1 and (not all(mids) or len(set(mids)) < len(mids)):
        raise invalid("Every m-line needs an a=mid of its own (RFC 8843).")
    for index in choice.indices:
        _check_transport(description, description.sections[index])
    return choice


def check_offer(text: str) -> OfferSummary:
    """Check an offer without spending anything on it and say what it brings.

    Raises ProtocolError with param "sdp": 400 malformed, 406 no codec we can take, 413 too large.
    """
    description = parse(text)
    choice = check(description)
    alive = [section for section in description.sections if not section.is_rejected]

    def codecs(index: int | None) -> tuple[str, ...]:
        return () if index is None else tuple(description.sections[index].codecs().values())

    return OfferSummary(
        has_audio=choice.audio is not None,
        has_video=choice.video is not None,
        has_data_channel=choice.data is not None,
        audio_tracks=sum(section.kind == "audio" for section in alive),
        video_tracks=sum(section.kind == "video" for section in alive),
        audio_codecs=codecs(choice.audio),
        video_codecs=codecs(choice.video),
        candidates=sum(len(section.values("candidate")) for section in alive),
    )
