"""What every answer must keep to, whatever was offered; reads SDP on its own, strictly."""

import re
from typing import NamedTuple

DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
LEGAL_DIRECTIONS = {
    "sendrecv": {"sendrecv", "sendonly", "recvonly", "inactive"},
    "sendonly": {"recvonly", "inactive"},
    "recvonly": {"sendonly", "inactive"},
    "inactive": {"inactive"},
}
LEGAL_SETUP = {"actpass": {"active", "passive"}, "active": {"passive"}, "passive": {"active"}}


class MLine(NamedTuple):
    kind: str
    port: int
    profile: str
    formats: list[str]
    lines: list[str]

    def values(self, name: str) -> list[str]:
        return [x.partition(":")[2] for x in self.lines if x.startswith(f"a={name}:")]

    def flags(self, *names: str) -> list[str]:
        return [name for name in names for line in self.lines if line == f"a={name}"]

    def by_format(self, name: str) -> dict[str, str]:
        pairs = [value.partition(" ") for value in self.values(name)]
        return {number: value for number, _, value in pairs}


def read(text: str) -> tuple[list[str], list[MLine]]:
    """Return the session's lines and the m-lines of a well-formed description."""
    assert text.endswith("\r\n")
    lines = text.split("\r\n")[:-1]
    assert all(re.fullmatch(r"[a-z]=[^\r\n\0]+", line) for line in lines), lines
    assert lines[0] == "v=0"
    assert [line[0] for line in lines[1:4]] == ["o", "s", "t"]
    starts = [i for i, line in enumerate(lines) if line.startswith("m=")]
    found = []
    for start, end in zip(starts, [*starts[1:], len(lines)], strict=True):
        kind, port, profile, *formats = lines[start][2:].split(" ")
        found.append(MLine(kind, int(port), profile, formats, lines[start + 1 : end]))
    return lines[: starts[0]], found


class Offered(NamedTuple):
    """What was offered on one m-line, as its author meant it."""

    kind: str
    profile: str
    mid: str
    formats: list[str]
    rtpmaps: dict[str, str]
    """Payload type to name/clock."""
    direction: str
    setup: str
    is_rejected: bool
    is_bundled: bool
    has_mux: bool


def check_answer(answer: str, offered: list[Offered]) -> list[MLine]:
    """Assert the rules of RFC 3264, 5888, 8829, 8842 and 9143; return the answer's m-lines."""
    session, lines = read(answer)
    assert len(lines) == len(offered)
    for line, offer in zip(lines, offered, strict=True):
        assert (line.kind, line.profile) == (offer.kind, offer.profile)
        assert line.values("mid") == ([offer.mid] if offer.mid else [])
        assert not (offer.is_rejected and line.port), "rejected means rejected"
        if line.port:
            check_accepted(line, offer)
    check_group(session, lines, offered)
    live = [line for line in lines if line.port and line.kind == "audio"]
    assert sum(bool(line.flags("sendrecv", "sendonly")) for line in live) <= 1
    assert sum(bool(line.flags("sendrecv", "recvonly")) for line in live) <= 1
    assert sum(line.kind == "application" and line.port > 0 for line in lines) <= 1
    return lines


def check_accepted(line: MLine, offer: Offered) -> None:
    (setup,) = line.values("setup")
    assert setup in LEGAL_SETUP[offer.setup]
    for name in ("ice-ufrag", "ice-pwd", "fingerprint"):
        assert line.values(name)
    if offer.kind not in ("audio", "video"):
        assert line.values("sctp-port") or line.values("sctpmap")
        return
    (direction,) = line.flags(*DIRECTIONS)
    assert direction in LEGAL_DIRECTIONS[offer.direction]
    assert bool(line.values("msid")) <= direction.startswith("send")
    assert bool(line.flags("rtcp-mux")) <= offer.has_mux
    assert line.formats and set(line.formats) <= set(offer.formats)
    maps = line.by_format("rtpmap")
    assert list(maps) == line.formats
    for number, codec in maps.items():
        assert codec.lower().split("/")[:2] == offer.rtpmaps[number].lower().split("/")[:2]
        if codec.startswith("rtx"):
            assert line.by_format("fmtp")[number].removeprefix("apt=") in line.formats
    assert {*line.by_format("fmtp"), *line.by_format("rtcp-fb")} <= set(line.formats)


def check_group(session: list[str], lines: list[MLine], offered: list[Offered]) -> None:
    groups = [line for line in session if line.startswith("a=group:")]
    assert len(groups) <= 1
    grouped = groups[0].removeprefix("a=group:BUNDLE ").split() if groups else []
    assert len(grouped) == len(set(grouped))
    accepted = {
        offer.mid
        for line, offer in zip(lines, offered, strict=True)
        if line.port and offer.is_bundled
    }
    assert set(grouped) == accepted
