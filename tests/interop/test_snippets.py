"""Each example of docs/clients.md does what it is there for, against real servers.

It runs as it stands, but for the address and for how long one of them listens.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests import ROOT
from tests.bench.clients.rig import Rig, address, servers
from tests.interop.snippets import SNIPPETS, Snippet, text_of, texts
from tests.speech import DATA
from tests.waiting import PATIENCE_S

MODULES = ROOT / "tests" / "web" / "node_modules"
HOST = "localhost:8006"
TAILS = {
    "agents-node": "console.log('connected'); session.close();",
    "openai-node": "socket.on('session.created', () => { console.log('made'); socket.close(); });",
}
"""What ends the programs of which only the beginning is shown."""
TOLD = {
    "agents-node": r"connected",
    "openai-node": r"made",
    "omnicall-call": r"You said: What time is it\?.*You said: Hello",
    "omnicall-python": r"it wrote: You said: What day is it\?\n.*it said: \w",
    "openai-live": r"\w",
    "openai-chat": r"\w",
}
"""What they print, where they print anything. What was understood of speech is not judged here."""
LEFT = {"aiortc-whip": "answer.wav", "openai-chat": "answer.wav"}
"""Files that they leave behind."""
HEARS = r"""\1while not any(
\1    getattr(row, "packetsReceived", 0) > 50 for row in (await pc.getStats()).values()
\1):
\1    await asyncio.sleep(0.1)"""
RUN = [one for one in SNIPPETS if one.kind in ("python", "node", "terminal")]


def test_every_example_is_known_and_each_once() -> None:
    known = [[one.name for one in SNIPPETS if one.words in text] for text in texts()]
    assert known == [[one.name] for one in SNIPPETS]


@pytest.fixture(scope="module")
def outcomes() -> dict[str, str]:
    """Of each that was run what went wrong, if anything did."""
    return asyncio.run(_all())


@pytest.mark.loopback
@pytest.mark.parametrize("snippet", RUN, ids=lambda snippet: snippet.name)
def test_example_runs_as_it_stands(snippet: Snippet, outcomes: dict[str, str]) -> None:
    if missing := _missing(snippet):
        pytest.skip(missing)
    assert outcomes[snippet.name] == ""


def _missing(snippet: Snippet) -> str:
    """Why an example cannot be run here; empty: it can."""
    told = f"not installed: {snippet.needs}"
    if snippet.kind == "node":
        return "" if (MODULES / snippet.needs).is_dir() and shutil.which("node") else told
    if not snippet.needs:
        return ""
    try:
        return told if find_spec(snippet.needs) is None else ""
    except ModuleNotFoundError:
        return told


async def _all() -> dict[str, str]:
    wanted = [snippet for snippet in RUN if not _missing(snippet)]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        async with servers(folder) as rig:
            shutil.copy(DATA / "what_time.wav", folder / "question.wav")
            (folder / "question.pcm").write_bytes((folder / "what_time.24000.pcm").read_bytes())
            if MODULES.is_dir():
                (folder / "node_modules").symlink_to(MODULES)
            # Those that go on come last: calls are then theirs, and can be hung up.
            ended = [one for one in wanted if not one.is_endless]
            outcomes = dict(
                zip(ended, await asyncio.gather(*(_ran(one, rig) for one in ended)), strict=True)
            )
            for one in wanted:
                if one.is_endless:
                    outcomes[one] = await _ran(one, rig)
    return {snippet.name: outcome for snippet, outcome in outcomes.items()}


async def _ran(snippet: Snippet, rig: Rig) -> str:
    """Run one to its end; what went wrong."""
    folder = rig.folder / snippet.name
    folder.mkdir()
    for path in rig.folder.glob("question.*"):
        shutil.copy(path, folder)
    text = _addressed(text_of(snippet.name), rig)
    printed = ""
    for command, given in _commands(snippet, text, folder):
        program = await asyncio.create_subprocess_exec(
            *command,
            cwd=folder,
            env=_environment(rig),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(5 * PATIENCE_S):
                out, errors = await _ended(program, given, snippet, rig)
        except TimeoutError:
            return f"it did not end: {command}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                program.kill()
        if program.returncode:
            return f"{command}: {program.returncode}: {errors[-2000:]}"
        printed += out
    if not re.search(TOLD.get(snippet.name, ""), printed, re.DOTALL):
        return f"it printed {printed[-2000:]!r}"
    left = LEFT.get(snippet.name)
    if left is not None and (folder / left).stat().st_size < 1000:
        return f"{left} is empty"
    return ""


async def _ended(
    program: asyncio.subprocess.Process, given: str, snippet: Snippet, rig: Rig
) -> tuple[str, str]:
    """What it printed until its end, and its complaints."""
    before = await _hung_up(program, snippet, rig) if snippet.is_endless else b""
    out, errors = await program.communicate(given.encode())
    return (before + out).decode(errors="replace"), errors.decode(errors="replace")


async def _hung_up(program: asyncio.subprocess.Process, snippet: Snippet, rig: Rig) -> bytes:
    """Hang up the only call, once it has printed what it is to print; what it printed."""
    assert program.stdout is not None
    out = b""
    while not re.search(TOLD.get(snippet.name, ""), out.decode(errors="replace")):
        if not (piece := await program.stdout.read(4096)):
            return out
        out += piece
    while not (ids := await asyncio.to_thread(_served, rig)):  # noqa: ASYNC110 - of a process
        await asyncio.sleep(0.1)
    for call_id in ids:
        url = f"{address(rig.plain)}/v1/realtime/calls/{call_id}/hangup"
        await asyncio.to_thread(urlopen, Request(url, method="POST"))
    return out


def _served(rig: Rig) -> list[str]:
    """The calls that an engine serves."""
    calls = rig.plain.get("/api/stats")[1]["calls"]
    return [call["call_id"] for call in calls if call["state"] == "active"]


def _addressed(text: str, rig: Rig) -> str:
    """With the addresses of the servers that are there."""
    plain, secure = (address(one).partition("://")[2] for one in (rig.plain, rig.secure))
    for scheme, host in (("http", plain), ("ws", plain), ("https", secure)):
        text = text.replace(f"{scheme}://{HOST}", f"{scheme}://{host}")
    text = text.replace("https://calls.example.com", f"http://{plain}")
    text = text.replace("certs/omnicall.crt", str(rig.certificate))
    return re.sub(r"^( +)await asyncio\.sleep\(20\)$", HEARS, text, flags=re.MULTILINE)


def _commands(snippet: Snippet, text: str, folder: Path) -> list[tuple[list[str], str]]:
    """The programs of an example, and what each is given to read."""
    if snippet.kind == "terminal":
        lines = [shlex.split(line, comments=True) for line in text.splitlines()]
        return [_call(words) for words in lines]
    suffix = "mjs" if snippet.kind == "node" else "py"
    path = folder / f"example.{suffix}"
    path.write_text(f"{text}\n{TAILS.get(snippet.name, '')}\n")
    return [(["node" if snippet.kind == "node" else sys.executable, str(path)], "")]


def _call(words: list[str]) -> tuple[list[str], str]:
    """A command of the terminal as an argument list."""
    program = [sys.executable, str(ROOT / "run.py")]
    if "<" in words:
        return [*program, *words[1 : words.index("<")]], "Hello\n"
    return [*program, *words[1:]], "Hello\n"


def _environment(rig: Rig) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "web")])
    return os.environ | {"PYTHONPATH": path, "NODE_EXTRA_CA_CERTS": str(rig.certificate)}
