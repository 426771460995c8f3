"""The decoders of what clients send, in a process that may die of it.

Reads cases from stdin, each behind its length in 4 bytes, and prints a JSON line for each. The
first letter says what follows: `o`, `v` and `h` payloads of Opus, VP8 and H.264; `p`, `f` and `s` a
picture, a film and a recording.
"""

from __future__ import annotations

import json
import logging
import re
import struct
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
from aiortc.rtp import RtpPacket

from engine.builtin.picture_facts import measure
from engine.files.file import FRAME_PIXELS, PICTURE_PIXELS, Kind, PictureFile, UnreadableError
from engine.files.worker import read_file
from media.frames import FrameAssembler
from media.opus import OpusDecoder, OpusError, has_fec, packet_ticks
from media.picture import PictureDecoder
from tests.fuzz.targets.decoders import split

SIDE = 640


def opus(data: bytes) -> str:
    """Each payload through what the jitter buffer and the uplink do with it."""
    decoder, told = OpusDecoder(), []
    for payload in split(data):
        ticks = packet_ticks(payload)
        try:
            pcm = decoder.decode(payload)
            fec = decoder.decode_fec(payload, 320) if has_fec(payload) else b""
            told.append(f"{ticks is None} {len(pcm) // 320} {len(fec) > 0}")
        except OpusError as error:
            told.append(f"{ticks is None} {error}")
    return " ".join(sorted(set(told)))


def video(name: str, data: bytes) -> str:
    """Payloads as the uplink takes them, then frames and pictures."""
    assembler, decoder = FrameAssembler(), PictureDecoder(SIDE)
    told: set[str] = set()
    for number, payload in enumerate(split(data)):
        marker = int(number % 4 == 3)
        packet = RtpPacket(97, marker, number & 0xFFFF, 3_000 * (number // 4), 1, payload)
        frames = assembler.push(packet, name.lower(), float(number))
        if frames:
            found = decoder.decode(frames, number)
            told.add(f"{found.frames} {found.errors} {found.picture is not None}")
    return " ".join(sorted(told))


def file(kind: Kind, data: bytes) -> str:
    """As the engines' processes for files read one; of a picture also what is to be seen in it."""
    try:
        read = read_file(kind, data, PICTURE_PIXELS if kind == "picture" else FRAME_PIXELS)
    except UnreadableError as error:
        return _masked(error)
    if isinstance(read, PictureFile):
        return f"{measure(read.rgb).brightness // 32} {bool(read.remark)}"
    size = 0 if read.sound is None else len(read.sound).bit_length()
    return f"{len(read.pictures)} {len(read.shown)} {size} {_masked(read.remark)}"


KINDS: dict[bytes, Callable[[bytes], str]] = {
    b"o": opus,
    b"v": lambda data: video("VP8", data),
    b"h": lambda data: video("H264", data),
    b"p": lambda data: file("picture", data),
    b"f": lambda data: file("video", data),
    b"s": lambda data: file("recording", data),
}


def _masked(what: object) -> str:
    return re.sub(r"\d+|'.*'", "#", f"{type(what).__name__}: {what}")


def _memory_kib(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) if found else 0


def answer(case: bytes) -> dict[str, Any]:
    """Decode one case; `fault` says what must not be raised."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory_kib("VmRSS")
    signature = fault = ""
    try:
        signature = case[:1].decode("latin-1") + KINDS.get(case[:1], opus)(case[1:])
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        what = f"{type(error).__name__}: {str(error)[:120]}"
        fault = f"{what} ({Path(where.filename).name}:{where.lineno})"
    grown = _memory_kib("VmHWM") - before
    return {"signature": signature, "fault": fault, "grown_kib": grown}


def main() -> None:
    av.logging.set_level(None)
    logging.disable(logging.CRITICAL)
    while len(size := sys.stdin.buffer.read(4)) == 4:
        case = sys.stdin.buffer.read(struct.unpack("!I", size)[0])
        print(json.dumps(answer(case)), flush=True)


if __name__ == "__main__":
    main()
