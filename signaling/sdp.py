"""Session descriptions as text: a tolerant reader and a strict writer. Front and media worker.

The reader takes what stacks really write (any line ending, capitals, extra words, odd spaces); it
decides nothing. What a call takes of an offer is `signaling.offer`'s business.
"""

import itertools
import re

import msgspec

from signaling.errors import ProtocolError

MAX_OFFER_BYTES = 64 * 1024
MAX_SECTIONS = 32
DIRECTIONS = ("inactive", "recvonly", "sendonly", "sendrecv")
NO_CONNECTION = "IN IP4 0.0.0.0"

_LINE_END = re.compile(r"\r\n|\r|\n")
_LINE = re.compile(r"[a-z]=[^\x00]*")
_MEDIA = re.compile(r"m=([!-~]+) +([0-9]{1,5})(?:/[0-9]+)? +([!-~]+)((?: +[!-~]+)+)")
_ATTRIBUTE = re.compile(r"a=\s*([^\s:]+)(?:\s*:(.*)|\s.*)?", re.DOTALL)
_RTPMAP = re.compile(r"([0-9]{1,3})\s+([^/\s]+)\s*/\s*([0-9]+)(?:\s*/.*)?")

Attribute = tuple[str, str | None]
"""Name in lower case, and the value without spaces around it; None for a property."""


class Section(msgspec.Struct, frozen=True):
    """One `m=` section; kind, profile and formats are kept as they were written."""

    kind: str
    port: int
    profile: str
    formats: tuple[str, ...]
    attributes: tuple[Attribute, ...] = ()
    connection: str = ""
    """Value of the c-line."""

    def values(self, name: str) -> list[str]:
        """Return the values of every `a=name:` line, in order."""
        return attribute_values(self.attributes, name)

    def has(self, name: str) -> bool:
        """Return whether there is a line `a=name`."""
        return any(attribute == name for attribute, _ in self.attributes)

    @property
    def media(self) -> str:
        """The kind in lower case."""
        return self.kind.lower()

    @property
    def mid(self) -> str:
        return next(iter(self.values("mid")), "")

    def codecs(self) -> dict[str, str]:
        """Return payload type -> lower-case `name/clock` in the order of preference.

        Payload types of the m-line that have no (readable) rtpmap are left out.
        """
        maps: dict[str, str] = {}
        for value in self.values("rtpmap"):
            if match := _RTPMAP.fullmatch(value):
                maps.setdefault(match[1], f"{match[2].lower()}/{match[3]}")
        return {pt: maps[pt] for pt in self.formats if pt in maps}

    def parameters(self, payload_type: str) -> dict[str, str]:
        """Return the format parameters of a payload type, names in lower case."""
        found: dict[str, str] = {}
        for value in self.values("fmtp"):
            name, _, parameters = value.partition(" ")
            if name == payload_type:
                pairs = (pair.partition("=") for pair in parameters.split(";"))
                found |= {key.strip().lower(): given.strip() for key, _, given in pairs}
        found.pop("", None)
        return found

    def text(self) -> str:
        lines = [f"m={self.kind} {self.port} {self.profile} {' '.join(self.formats)}"]
        if self.connection:
            lines.append(f"c={self.connection}")
        return _text([*lines, *map(_attribute_line, self.attributes)])


class Description(msgspec.Struct, frozen=True):
    """A whole session description: what holds for the session, then the m-sections."""

    sections: tuple[Section, ...]
    attributes: tuple[Attribute, ...] = ()
    origin: str = "- 1 1 IN IP4 0.0.0.0"

    @property
    def bundle(self) -> tuple[str, ...]:
        """Return the mids of the first BUNDLE group, each once."""
        for value in attribute_values(self.attributes, "group"):
            semantics, *mids = value.split() or [""]
            if semantics.upper() == "BUNDLE":
                return tuple(dict.fromkeys(mids))
        return ()

    def is_bundled(self, section: Section) -> bool:
        return bool(section.mid) and section.mid in self.bundle

    def is_rejected(self, section: Section) -> bool:
        """Port 0 means rejected, except on bundle-only m-lines (RFC 9143 section 6)."""
        return section.port == 0 and not (section.has("bundle-only") and self.is_bundled(section))

    def direction(self, section: Section) -> str:
        """Return the direction in effect; sendrecv unless told (RFC 8866 section 6.7)."""
        for attributes in (section.attributes, self.attributes):
            for name, _ in attributes:
                if name in DIRECTIONS:
                    return name
        return "sendrecv"

    def inherited(self, section: Section, name: str) -> list[str]:
        """Return an attribute's values from the section, the session, or the bundle it is in.

        In a bundle only one section has to carry the transport (RFC 9143 section 7.1.3).
        """
        values = section.values(name) or attribute_values(self.attributes, name)
        if values or not self.is_bundled(section):
            return values
        for other in self.sections:
            if self.is_bundled(other) and (values := other.values(name)):
                return values
        return []

    def text(self) -> str:
        head = ["v=0", f"o={self.origin}", "s=-", "t=0 0"]
        session = _text([*head, *map(_attribute_line, self.attributes)])
        return session + "".join(section.text() for section in self.sections)


def invalid(message: str, *, status: int = 400, code: str = "invalid_offer") -> ProtocolError:
    """Return the error for an offer that cannot be taken."""
    return ProtocolError(message, code=code, param="sdp", status=status)


def attribute_values(attributes: tuple[Attribute, ...], name: str) -> list[str]:
    """Return the values, none of them empty, of every `a=name:` line, in order."""
    return [value for attribute, value in attributes if attribute == name and value]


def parse(text: str) -> Description:
    """Read a description (RFC 8866 section 5).

    Raises ProtocolError: 400 when empty or not SDP, 413 above MAX_OFFER_BYTES.
    """
    lines = lines_of(text, "offer", first="v=0")
    session, sections = split(lines)
    if not sections:
        raise invalid("The offer has no m-line: add an audio or a video track before createOffer.")
    origin = next((line[2:] for line in lines if line.startswith("o=")), "")
    return Description(
        sections=sections, attributes=session, **({"origin": origin} if origin else {})
    )


def lines_of(text: str, what: str, *, first: str | None = None) -> list[str]:
    """Return the lines of a description or of a part of one, without spaces around them.

    Raises ProtocolError: 400 when empty or not SDP, 413 above MAX_OFFER_BYTES.
    """
    if len(text) > MAX_OFFER_BYTES or len(text.encode("utf-8", "replace")) > MAX_OFFER_BYTES:
        raise invalid(f"The {what} is larger than {MAX_OFFER_BYTES} bytes.", status=413)
    lines = [line.strip() for line in _LINE_END.split(text.removeprefix("\ufeff"))]
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line]
    if not numbered:
        raise invalid(f"The {what} is empty; SDP is expected.")
    if first is not None and numbered[0][1] != first:
        raise invalid(f'This is not an SDP {what}: its first line must be "{first}".')
    for number, line in numbered:
        if not _LINE.fullmatch(line):
            raise invalid(f"Line {number} of the {what} is not SDP: <letter>=<value> is expected.")
    return [line for _, line in numbered]


def split(lines: list[str]) -> tuple[tuple[Attribute, ...], tuple[Section, ...]]:
    """Return the attributes before the first m-line, and the sections."""
    starts = [i for i, line in enumerate(lines) if line.startswith("m=")]
    if len(starts) > MAX_SECTIONS:
        raise invalid(f"There are {len(starts)} m-lines; at most {MAX_SECTIONS} are taken.")
    bounds = itertools.pairwise([*starts, len(lines)])
    sections = [_section(lines[start:end]) for start, end in bounds]
    return _attributes(lines[: starts[0]] if starts else lines), tuple(sections)


def _section(lines: list[str]) -> Section:
    match = _MEDIA.fullmatch(lines[0])
    if not match or int(match[2]) > 65535:
        raise invalid(f'The m-line "{lines[0][:80]}" is malformed.')
    return Section(
        kind=match[1],
        port=int(match[2]),
        profile=match[3],
        formats=tuple(dict.fromkeys(match[4].split())),
        attributes=_attributes(lines),
        connection=next((line[2:] for line in lines if line.startswith("c=")), ""),
    )


def _attributes(lines: list[str]) -> tuple[Attribute, ...]:
    matches = (_ATTRIBUTE.fullmatch(line) for line in lines)
    return tuple((m[1].lower(), m[2] and m[2].strip()) for m in matches if m)


def _attribute_line(attribute: Attribute) -> str:
    name, value = attribute
    return f"a={name}" if value is None else f"a={name}:{value}"


def _text(lines: list[str]) -> str:
    return "".join(f"{line}\r\n" for line in lines)
