"""Multipart bodies with the header that names their boundary: `header CRLF CRLF body`."""

from __future__ import annotations

from random import Random

from tests.fuzz.mutators.raw import edge_text, mutate_bytes
from tests.fuzz.mutators.sdp import mutate_sdp
from tests.fuzz.mutators.structures import mutate_json

HEADERS = (
    *(b"Content-Type: a/b", b"Content-Type: application/sdp", b"Content-Type", b": x", b"X: \x00"),
    *(b'Content-Disposition: form-data; name="sdp"', b"Content-Disposition: form-data"),
    *(b'Content-Disposition: form-data; name="session"', b"Content-Disposition: attachment"),
    *(b'Content-Disposition: form-data; name="sdp"; filename="../x"', b"Content-Length: -1"),
    *(b"Content-Length: 99999999999", b"Content-Length: 1", b"Content-Transfer-Encoding: base64"),
    *(b"Content-Transfer-Encoding: quoted-printable", b"Content-Transfer-Encoding: rot13"),
    *(b"Content-Encoding: gzip", b"Content-Encoding: deflate", b"Content-Encoding: br", b" x"),
    *(b"Content-Type: multipart/mixed; boundary=c", b"Content-Type: multipart/form-data", b""),
    *(b"Content-Disposition: form-data; name*=utf-8''sdp", b'Content-Disposition: x; name="a'),
    *(b"\xff: y", b"A" * 9000),
)
CONTENT_TYPES = tuple(
    b"Content-Type: " + kind
    for kind in (
        *(b"multipart/form-data", b"multipart/form-data; boundary=", b"multipart/form-data; b=x"),
        *(b'multipart/form-data; boundary="b', b"multipart/form-data; boundary=" + b"b" * 80),
        *(
            b"multipart/form-data; boundary=b; boundary=c",
            b"multipart/mixed; boundary=b",
            b"",
            b"x",
        ),
        *(b"application/sdp", b"multipart/form-data; charset=utf-16; boundary=b"),
    )
)


def mutate_multipart(rng: Random, data: bytes, other: bytes) -> bytes:
    """Change the outer header, a part's headers, its content, or the order of parts."""
    head, _, body = data.partition(b"\r\n\r\n")
    boundary = b"--" + (head.rpartition(b"boundary=")[2].strip(b'"; ') or b"b")
    parts = body.split(boundary)
    at = rng.randrange(len(parts))
    headers, gap, content = parts[at].partition(b"\r\n\r\n")
    match rng.randrange(9):
        case 0:
            return rng.choice(CONTENT_TYPES) + b"\r\n\r\n" + body
        case 1 | 2:
            lines = headers.split(b"\r\n")
            lines.insert(rng.randrange(len(lines) + 1), rng.choice(HEADERS))
            headers = b"\r\n".join(lines)
        case 3:
            headers = headers.replace(b'"', edge_text(rng).encode())
        case 4:
            headers = mutate_bytes(rng, headers)
        case 5:
            change = mutate_sdp if content.startswith(b"v=") else mutate_json
            content = change(rng, content.strip(), content.strip()) + b"\r\n"
        case 6:
            gap = rng.choice((b"", b"\r\n", b"\n\n", b"\r\n\r\n\r\n"))
        case 7:
            parts += [parts[at]] * rng.choice((1, 1, 20))
        case _:
            return head + b"\r\n\r\n" + mutate_bytes(rng, body, other)
    parts[at] = headers + gap + content
    return head + b"\r\n\r\n" + boundary.join(parts)
