"""Payloads and files, decoded in a process of their own: a crash is a finding, not the end."""

from __future__ import annotations

import json
import select
import struct
import subprocess
import sys
import time
from random import Random
from typing import Any

import psutil

from tests import ROOT
from tests.fuzz.mutators.raw import mutate_bytes
from tests.fuzz.target import Target

MAX_GROWTH_KIB = 700 * 1024
MAX_CASE_CPU_S = 45.0
"""Of the decoding process: on a busy machine time itself says nothing."""
MAX_CASE_S = 600.0
LOOK_S = 1.0


class SubjectDied(Exception):
    """The decoding process is gone; the text says how."""


class Subject:
    """Owns `python -m tests.fuzz.subject`, started anew after each death."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, case: bytes) -> dict[str, Any]:
        """What it made of a case. Blocks; raises SubjectDied."""
        if self._process is None:
            self._process = subprocess.Popen(
                (sys.executable, "-m", "tests.fuzz.subject"),
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(struct.pack("!I", len(case)) + case)
        self._process.stdin.flush()
        ready = self._await(self._process)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            self._process.kill()
            code = self._process.wait()
            self._process = None
            raise SubjectDied(
                f"exit code {code}" if ready else f"no end within {MAX_CASE_CPU_S:g} s of work"
            )
        found: dict[str, Any] = json.loads(line)
        return found

    def _await(self, process: subprocess.Popen[bytes]) -> bool:
        """Whether it answers, or ends, before it has worked for too long."""
        assert process.stdout is not None
        begun_cpu_s, deadline = _cpu_s(process.pid), time.monotonic() + MAX_CASE_S
        while time.monotonic() < deadline:
            if select.select([process.stdout], [], [], LOOK_S)[0]:
                return True
            if _cpu_s(process.pid) - begun_cpu_s > MAX_CASE_CPU_S:
                return False
        return False

    def close(self) -> None:
        if self._process is not None:
            assert self._process.stdin is not None and self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()
            self._process = None


def _cpu_s(pid: int) -> float:
    used = psutil.Process(pid).cpu_times()
    return float(used.user + used.system)


class _Decoded(Target):
    """All is done for the signature: which error, or what came of it."""

    needs_server = False

    def __init__(self) -> None:
        self._subject = Subject()

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        """The first byte says what it is."""
        if rng.random() < 0.02:
            parent = other
        return parent[:1] + mutate_bytes(rng, parent[1:], other[1:], limit=1 << 22)

    def signature(self, case: bytes) -> str:
        found = self._subject.ask(case)
        if found["fault"]:
            raise RuntimeError(found["fault"])
        if found["grown_kib"] > MAX_GROWTH_KIB:
            raise MemoryError(f"{len(case)} bytes took {found['grown_kib']} KiB")
        return str(found["signature"])

    async def try_case(self, case: bytes) -> str:
        return ""

    async def close(self) -> None:
        self._subject.close()


class Payloads(_Decoded):
    """RTP payloads of Opus, VP8 and H.264: a letter, then payloads, each behind its length."""

    name = "payloads"

    def mutate(self, rng: Random, parent: bytes, other: bytes) -> bytes:
        payloads = split(parent[1:])
        if not payloads:
            return parent
        more = split(other[1:])
        at = rng.randrange(len(payloads))
        match rng.randrange(6):
            case 0:
                payloads.pop(at)
            case 1:
                payloads.insert(at, rng.choice(payloads))
            case 2 if more:
                payloads[at] = rng.choice(more)
            case _:
                payloads[at] = mutate_bytes(rng, payloads[at], limit=1_400)
        return parent[:1] + join(payloads[:64])


class Files(_Decoded):
    """Pictures, films and recordings, as clients upload them."""

    name = "files"


def split(data: bytes) -> list[bytes]:
    """Payloads of a case; a length that is too long is cut."""
    found, position = [], 0
    while position + 2 <= len(data):
        size = int.from_bytes(data[position : position + 2], "big")
        found.append(data[position + 2 : position + 2 + size])
        position += 2 + size
    return found


def join(payloads: list[bytes]) -> bytes:
    return b"".join(struct.pack("!H", len(one)) + one for one in payloads)
