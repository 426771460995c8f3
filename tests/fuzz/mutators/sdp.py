"""Session descriptions, changed line by line and section by section."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

from tests.fuzz.mutators.raw import edge_text, mutate_bytes

NASTY = (
    *("a=group:", "a=group:BUNDLE", "a=group:BUNDLE 0 0 0", "a=group:LS 0 1", "a=sendrecv"),
    *("a=mid:", "a=mid:0", "a=mid: ", "a=mid:0 1", "a=rtcp-mux", "a=bundle-only", "a=inactive"),
    *("a=setup:", "a=setup:holdconn", "a=fingerprint:", "a=fingerprint:sha-256", "a=ice-lite"),
    *("a=fingerprint:sha-256 00", "a=fingerprint:md5 " + ":".join(["AA"] * 16), "a=ice-ufrag:"),
    *("a=ice-pwd:", "a=ice-ufrag:" + "u" * 257, "a=ice-options:", "a=end-of-candidates"),
    *("a=candidate:", "a=candidate:1 1 udp 1 127.0.0.1 70000 typ host", "a=candidate:1 1 udp"),
    *("a=candidate:1 1 udp 99999999999 127.0.0.1 1 typ host", "a=candidate:1 9 udp 1 ::1 1 typ x"),
    *("a=candidate:1 1 udp 1 not-an-address 1 typ host", "a=candidate:1 1 udp 1 0.0.0.0 0 typ z"),
    *("a=candidate:1 1 udp x 127.0.0.1 9 typ host", "a=candidate:1 1 udp 1 127.0.0.1 -1 typ host"),
    *("a=candidate:1 1 udp 1 127.0.0.1 9 typ srflx raddr", "a=candidate:1 1 udp 1 127.0.0.1 9 typ"),
    *("a=rtpmap:", "a=rtpmap:111", "a=rtpmap:111 opus", "a=rtpmap:111 opus/0", "a=rtpmap:x y/z"),
    *("a=rtpmap:111 opus/48000/2", "a=rtpmap:111 opus/48000/0", "a=rtpmap:200 VP8/90000"),
    *("a=fmtp:", "a=fmtp:111", "a=fmtp:96 apt=96", "a=fmtp:97 apt=97", "a=fmtp:96 apt=x"),
    *("a=rtcp-fb:", "a=rtcp-fb:*", "a=rtcp-fb:* nack", "a=rtcp-fb:999 nack", "a=rtcp-fb:111"),
    *("a=extmap:", "a=extmap:0 x", "a=extmap:999 x", "a=extmap:1", "a=extmap:x y", "a=ssrc:"),
    *("a=ssrc:x cname:y", "a=ssrc:1", "a=ssrc:1 cname", "a=ssrc:99999999999 cname:y", "a=ssrc:1 :"),
    *("a=ssrc-group:", "a=ssrc-group:FID", "a=ssrc-group:FID 1 2 3", "a=msid:", "a=msid: ", "a="),
    *("a=simulcast:send 1", "a=rid:1 send", "a=sctp-port:", "a=sctp-port:70000", "a=sctpmap:"),
    *("a=sctpmap:5000 webrtc-datachannel 65535", "a=max-message-size:", "a=max-message-size:-1"),
    *("a=rtcp:", "a=rtcp:9", "a=rtcp:x IN IP4 0.0.0.0", "a=ptime:", "a=maxptime:x", "b=AS:"),
    *("c=", "c=IN IP4", "c=IN IP6 ::", "c=IN IP9 x", "c=IN IP4 300.1.1.1", "s=", "t=", "t=0", "o="),
    *("o=- 0 0 IN IP4 127.0.0.1", "o=x", "v=0", "v=1", "m=", "m=audio", "m=audio 9 RTP/AVP 0"),
    *("m=audio 0 UDP/TLS/RTP/SAVPF 111", "m=application 9 UDP/DTLS/SCTP webrtc-datachannel"),
    *("m=application 9 DTLS/SCTP 5000", "m=text 9 UDP/TLS/RTP/SAVPF 98", "m=video 9 X 96", "z=0"),
    *("m=audio 9/2 UDP/TLS/RTP/SAVPF 111 111", "m=video 65536 UDP/TLS/RTP/SAVPF 96", "k=prompt"),
    *("a=msid-semantic:", "a=msid-semantic: WMS *", "a=rtcp-rsize", "a=identity:x", "a=crypto:1 x"),
)


def _index(rng: Random, lines: list[str]) -> int:
    return rng.randrange(len(lines)) if lines else 0


def _delete(rng: Random, lines: list[str], other: list[str]) -> None:
    at = _index(rng, lines)
    del lines[at : at + rng.choice((1, 1, 1, 3))]


def _double(rng: Random, lines: list[str], other: list[str]) -> None:
    at = _index(rng, lines)
    lines[at:at] = lines[at : at + 1] * rng.choice((1, 1, 40))


def _move(rng: Random, lines: list[str], other: list[str]) -> None:
    if lines:
        line = lines.pop(_index(rng, lines))
        lines.insert(rng.randrange(len(lines) + 1), line)


def _nasty(rng: Random, lines: list[str], other: list[str]) -> None:
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(NASTY))


def _replace(rng: Random, lines: list[str], other: list[str]) -> None:
    """Put a nasty line in the place of one of its kind, if there is one."""
    line = rng.choice(NASTY)
    kind = line.partition(":")[0]
    places = [i for i, old in enumerate(lines) if old.startswith(kind)]
    if places:
        lines[rng.choice(places)] = line


def _token(rng: Random, lines: list[str], other: list[str]) -> None:
    """Change one word of one line."""
    if not lines:
        return
    at = _index(rng, lines)
    words = re.split(r"([ :/;=])", lines[at])
    words[rng.randrange(len(words))] = rng.choice((edge_text(rng), rng.choice(words)))
    lines[at] = "".join(words)


def _borrow(rng: Random, lines: list[str], other: list[str]) -> None:
    if other:
        lines.insert(rng.randrange(len(lines) + 1), rng.choice(other))


def _sections(rng: Random, lines: list[str], other: list[str]) -> None:
    """Double, drop, or change the order of whole sections."""
    starts = [i for i, line in enumerate(lines) if line.startswith("m=")]
    if not starts:
        return
    parts = [lines[a:b] for a, b in zip(starts, [*starts[1:], len(lines)], strict=True)]
    head = lines[: starts[0]]
    match rng.randrange(4):
        case 0:
            parts += [rng.choice(parts)] * rng.choice((1, 1, 3, 40))
        case 1:
            parts.pop(rng.randrange(len(parts)))
        case 2:
            rng.shuffle(parts)
        case _:
            parts.append([line for line in other if line[:2] in ("m=", "c=", "a=")][:60])
    lines[:] = head + [line for part in parts for line in part]


_CHANGES: tuple[Callable[[Random, list[str], list[str]], None], ...] = (
    *(_delete, _double, _move, _nasty, _nasty, _replace, _replace, _token, _token, _borrow),
    _sections,
)


def mutate_sdp(rng: Random, data: bytes, other: bytes) -> bytes:
    """Change an offer; `other` is another one."""
    if rng.random() < 0.05:
        return mutate_bytes(rng, data, other)
    lines = data.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n")
    more = other.decode("utf-8", "surrogateescape").replace("\r\n", "\n").split("\n")
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        rng.choice(_CHANGES)(rng, lines, more)
    end = rng.choice(("\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n\r\n"))
    return end.join(lines).encode("utf-8", "surrogateescape")
