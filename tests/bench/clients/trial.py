"""One client against the servers: is it there, what did its driver tell."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from msgspec import Struct

from tests import ROOT
from tests.bench.clients.rig import Rig, address
from tests.bench.clients.roster import Client
from tests.bench.clients.steps import ONLY
from tests.bench.clients.table import Outcome
from tests.browser.chrome import chromium
from tests.server.test_live_whip import python_with_gstreamer

LIMIT_S = 420.0
NODE = 20
"""The oldest with which the packages were seen working."""
DRIVERS = Path(__file__).parent / "drivers"


class Places(Struct, frozen=True):
    """Where packages were installed."""

    pythons: tuple[str, ...]
    modules: Path
    """node_modules"""


class _Missing(Exception):
    pass


async def tried(client: Client, rig: Rig, places: Places, only: tuple[str, ...] = ()) -> Outcome:
    """Run its driver to the end, or for `LIMIT_S`. `only`: steps that are taken beside the first
    and the last; empty: all."""
    try:
        # It asks Pythons what they have; the chat endpoint answers on this loop meanwhile.
        command = await asyncio.to_thread(_command, client, rig, places)
    except _Missing as error:
        return Outcome(client, missing=str(error))
    version, steps, notes = "", dict[str, str](), list[str]()
    driver = await asyncio.create_subprocess_exec(
        *command,
        cwd=ROOT,
        env=_environment(rig) | ({ONLY: ",".join(only)} if only else {}),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(driver.communicate(), LIMIT_S)
    except TimeoutError:
        driver.kill()
        out, errors = await driver.communicate()
        notes.append(f"the driver was stopped after {LIMIT_S:.0f} s")
    for line in out.decode(errors="replace").splitlines():
        told = json.loads(line) if line.startswith("{") else {}
        version = told.get("version", version)
        if "step" in told:
            steps[told["step"]] = "" if told["ok"] else told["why"] or "no"
        if "note" in told:
            notes.append(told["note"])
    if driver.returncode:
        notes.append(errors.decode(errors="replace")[-600:])
    if not await rig.is_free():
        steps["hang-up"] = "the server still had the call"
    return Outcome(client, version, steps, notes=tuple(notes))


def _environment(rig: Rig) -> dict[str, str]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "web"), os.environ.get("PYTHONPATH", "")])
    return os.environ | {"PYTHONPATH": path, "NODE_EXTRA_CA_CERTS": str(rig.certificate)}


def _command(client: Client, rig: Rig, places: Places) -> list[str]:
    url = address(rig.secure if client.is_secure else rig.plain)
    more = [argument.format(modules=places.modules) for argument in client.arguments]
    if client.runtime == "node":
        node = shutil.which("node")
        if node is None or _major_version(node) < NODE:
            raise _Missing(f"not installed: node {NODE} or newer")
        _require_package(client, places)
        return [node, str(DRIVERS / client.driver), url, str(rig.folder), *more]
    python = sys.executable
    if client.runtime == "python":
        python = _python(client, places)
    elif client.driver == "in_chromium":
        if chromium() is None:
            raise _Missing("not installed: Debian's package chromium")
        if client.needs:
            _require_package(client, places)
    elif client.driver == "in_firefox" and not _has_firefox():
        raise _Missing(f"not installed: `{client.install}`")
    elif client.needs == "gstreamer" and python_with_gstreamer() is None:
        raise _Missing(f"not installed: `{client.install}`")
    module = f"tests.bench.clients.drivers.{client.driver}"
    return [python, "-m", module, url, str(rig.folder), *more]


def _has_firefox() -> bool:
    """With a sound server, without which a page's sound never begins."""
    sound = Path(f"/run/user/{os.getuid()}/pulse/native").exists()
    return shutil.which("firefox-esr") is not None and ("PULSE_SERVER" in os.environ or sound)


def _major_version(node: str) -> int:
    told = subprocess.run([node, "--version"], capture_output=True, text=True).stdout
    number = told.strip().removeprefix("v").partition(".")[0]
    return int(number) if number.isdigit() else 0


def _require_package(client: Client, places: Places) -> None:
    if not (places.modules / client.needs).is_dir():
        raise _Missing(f"not installed: `{client.install}`")


def _python(client: Client, places: Places) -> str:
    """The first Python that has the client."""
    for python in places.pythons:
        done = subprocess.run([python, "-c", f"import {client.needs}"], capture_output=True)
        if done.returncode == 0:
            return python
    raise _Missing(f"not installed: `{client.install}`")
