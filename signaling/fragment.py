"""ICE details by themselves: application/trickle-ice-sdpfrag (RFC 8840). Front and media worker."""

import re

import msgspec

from signaling import candidates
from signaling.sdp import Attribute, attribute_values, invalid, lines_of, split

CONTENT_TYPE = "application/trickle-ice-sdpfrag"


class Credentials(msgspec.Struct, frozen=True):
    """The ICE user name fragment and password of one side."""

    ufrag: str
    password: str


class FragmentPart(msgspec.Struct, frozen=True):
    """What a fragment says of one m-line, or with an empty `mid` of all of them."""

    mid: str = ""
    credentials: Credentials | None = None
    candidates: tuple[str, ...] = ()
    """Those of the usable ones, as `signaling.candidates.read` returns them."""


def parse_fragment(text: str) -> tuple[FragmentPart, ...]:
    """Read a fragment: first what holds for all m-lines, then a part for each.

    Candidates that cannot be used are left out, as RFC 9725 section 4.3.2 wants it; the end of
    candidates is left out, too: more may always come. Raises ProtocolError 400, 413.
    """
    session, sections = split(lines_of(text, "fragment"))
    parts = [_part("", session), *(_part(s.mid, s.attributes) for s in sections)]
    names = {name for given in (session, *(s.attributes for s in sections)) for name, _ in given}
    if not names & {"ice-ufrag", "ice-pwd", "candidate", "end-of-candidates"}:
        raise invalid("The fragment has neither candidates nor a=ice-ufrag and a=ice-pwd.")
    return tuple(parts)


def _part(mid: str, attributes: tuple[Attribute, ...]) -> FragmentPart:
    ufrag = next(iter(attribute_values(attributes, "ice-ufrag")), None)
    password = next(iter(attribute_values(attributes, "ice-pwd")), None)
    credentials = None
    if ufrag is not None or password is not None:
        if not (_is_word(ufrag) and _is_word(password)):
            raise invalid("The fragment needs both a=ice-ufrag and a=ice-pwd (RFC 8839).")
        credentials = Credentials(ufrag or "", password or "")
    found = map(candidates.read, attribute_values(attributes, "candidate"))
    usable = tuple(dict.fromkeys(filter(None, found)))
    return FragmentPart(mid, credentials, usable)


def _is_word(value: str | None) -> bool:
    return value is not None and bool(re.fullmatch(r"[!-~]{1,256}", value))


def write_fragment(parts: list[FragmentPart]) -> str:
    """Write our side after a restart: a part for each transport, with the mid of its first m-line.

    One transport's credentials stand at session level, where clients look for them.
    """
    lines = []
    is_one = len(parts) == 1
    if is_one:
        lines += _credential_lines(parts[0])
    for part in parts:
        # Only the mid counts; the rest stands for an m-line (RFC 8840 section 9).
        lines += ["m=audio 9 UDP/TLS/RTP/SAVPF 0", *([f"a=mid:{part.mid}"] if part.mid else [])]
        lines += [] if is_one else _credential_lines(part)
        lines += [f"a=candidate:{value}" for value in part.candidates]
        lines.append("a=end-of-candidates")
    return "".join(f"{line}\r\n" for line in lines)


def _credential_lines(part: FragmentPart) -> list[str]:
    assert part.credentials is not None
    return [f"a=ice-ufrag:{part.credentials.ufrag}", f"a=ice-pwd:{part.credentials.password}"]
