"""Who may import whom, and what each process never loads.

The directions are those of the design: run.py -> server -> signaling, media and the torch-free part
of engine; signaling, media and engine do not know each other.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import ROOT

PACKAGES = ("server", "signaling", "media", "engine", "web")
OPEN_TO_SERVER = ("engine.ipc", "engine.config")

DOORS = ("realtime", "live", "openbmb")
DOOR_LINES = 700
CARRIERS = {"doors.py", "peer_transport.py", "live_session.py", "live_stream.py"}
"""What connects sessions and doors, of `server/worker`."""

FLOORS = (
    ("engine.ipc", "engine.config"),
    ("engine.hearing", "engine.audio_output"),
    ("engine.base",),
    ("engine.ingest", "engine.scribe"),
    ("engine.admission", "engine.gpus", "engine.files", "engine.hub"),
    ("engine.transcription_endpoint",),
    ("engine.host", "engine.builtin"),
    ("engine.gpu.staging", "engine.gpu.memory", "engine.gpu.layers"),
    ("engine.gpu.graphs", "engine.gpu.timing", "engine.gpu.weights", "engine.gpu.kernels"),
    ("engine.gpu.kv",),
    ("engine.gpu.blocks",),
    ("engine.echo", "engine.scripted", "engine.dsp", "engine.delegate"),
    ("engine.minicpmo.models",),
    ("engine.minicpmo.llm",),
    ("engine.minicpmo.session", "engine.minicpmo.encoders"),
    ("engine.clip", "engine.readitem"),
    ("engine.minicpmo.checkpoint",),
    ("engine.minicpmo.memory_plan", "engine.minicpmo.runner"),
    ("engine.minicpmo.speech",),
    ("engine.minicpmo.modes",),
    ("engine.minicpmo.serving",),
    ("engine.minicpmo.engine",),
    ("engine.minicpmo.check",),
    ("engine.process",),
)
"""Inside the engine a file imports its own folder and lower floors, never others."""


def room(name: str) -> str:
    """The longest of the names on `FLOORS` that `name` is or lies in, or the empty string."""
    rooms = [r for floor in FLOORS for r in floor if name == r or name.startswith(r + ".")]
    return max(rooms, key=len, default="")


def floor_of(name: str) -> int:
    return next(i for i, floor in enumerate(FLOORS) if room(name) in floor)


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@cache
def imported(path: Path) -> tuple[tuple[int, str], ...]:
    """Line and dotted name of every import anywhere in a file, of `from x import y` both forms."""
    return tuple(_imported(path))


def _imported(path: Path) -> Iterator[tuple[int, str]]:
    tree = ast.parse(path.read_text(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute"
            assert node.module is not None
            yield node.lineno, node.module
            for alias in node.names:
                if (ROOT / node.module.replace(".", "/") / f"{alias.name}.py").is_file():
                    yield node.lineno, f"{node.module}.{alias.name}"


def offences(package: str, forbidden: tuple[str, ...]) -> list[str]:
    """Imports of `package` from one of `forbidden` (dotted prefixes)."""
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for line, name in imported(path)
        if any(name == prefix or name.startswith(prefix + ".") for prefix in forbidden)
    ]


def test_the_walk_finds_what_it_looks_for() -> None:
    """A test that finds no import at all would always pass."""
    assert offences("server", ("engine.ipc.protocol",)) and offences("server", ("signaling",))
    assert offences("engine", ("engine.host",)) and len(modules("engine")) > 20


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [
        ("signaling", ("server", "media", "engine", "web", "omnicall", "run")),
        ("media", ("server", "signaling", "engine", "web", "omnicall", "run")),
        ("engine", ("server", "signaling", "media", "web", "omnicall", "run")),
        ("server", ("run", "omnicall")),
        ("web/omnicall", ("server", "signaling", "media", "engine", "web", "run")),
    ],
)
def test_package_does_not_import(package: str, forbidden: tuple[str, ...]) -> None:
    assert offences(package, forbidden) == []


@pytest.mark.parametrize("door", DOORS)
def test_a_door_is_small_and_knows_no_other(door: str) -> None:
    others = tuple(f"signaling.{other}" for other in (*DOORS, "chat", "audio") if other != door)
    assert offences(f"signaling/{door}", others) == []
    assert len((ROOT / "signaling" / door / "door.py").read_text().splitlines()) < DOOR_LINES


def test_the_core_of_a_session_knows_no_wire_format() -> None:
    doors = tuple(f"signaling.{door}" for door in DOORS)
    assert offences("signaling/session", (*doors, "signaling.chat", "signaling.audio")) == []
    found = {name.split(":")[0].rpartition("/")[2] for name in offences("server/worker", doors)}
    assert found == CARRIERS


def dotted(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_every_file_of_the_engine_has_its_floor() -> None:
    names = [dotted(path) for path in modules("engine") if path.name != "__init__.py"]
    assert [name for name in names if not room(name)] == []
    used = {room(name) for name in names}
    assert [r for floor in FLOORS for r in floor if r not in used] == []


def test_inside_the_engine_imports_go_down() -> None:
    bad = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules("engine")
        for line, name in imported(path)
        if room(name) and room(name) != room(dotted(path))
        if floor_of(name) >= floor_of(dotted(path))
    ]
    assert bad == []


def test_few_files_of_the_engine_lie_flat() -> None:
    assert len(list((ROOT / "engine").glob("*.py"))) <= 14


def test_server_imports_only_the_light_part_of_engine() -> None:
    bad = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in [*modules("server"), ROOT / "run.py"]
        for line, name in imported(path)
        if name.startswith("engine.") and not name.startswith(OPEN_TO_SERVER)
    ]
    assert bad == []


def test_light_part_of_engine_imports_nothing_heavy() -> None:
    for path in [*modules("engine/ipc"), ROOT / "engine" / "config.py"]:
        names = {name for _, name in imported(path)}
        assert all(n.startswith(OPEN_TO_SERVER) for n in names if n.startswith("engine")), path
        assert not names & {"torch", "numpy", "aiortc", "av"}, path


def test_no_package_of_ours_hides_a_package_that_we_use() -> None:
    for package in PACKAGES:
        assert package not in sys.stdlib_module_names


# ---------------------------------------------------------------- what real processes load

LOADED = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
from engine.config import EngineConfig
if "engine.process" in sys.argv:
    from engine.process import build
    for kind in ("echo", "builtin", "scripted"):
        build(EngineConfig(kind=kind))
print(json.dumps(sorted(sys.modules)))
"""


def loaded(*names: str) -> set[str]:
    """Every module of a fresh process that imports these."""
    done = subprocess.run(
        [sys.executable, "-c", LOADED, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


HEAVY = ("torch", "transformers", "onnxruntime", "tensorflow")


@pytest.mark.loopback
def test_front_loads_no_torch_no_engine_and_no_media() -> None:
    modules = loaded("server.front.launch", "server.config_loader")
    assert "server.front.front" in modules and "aiohttp" in modules
    assert not modules & {*HEAVY, "engine.process", "engine.host"}
    apart = ("engine.builtin", "media", "server.worker")
    assert not {name for name in modules if name.startswith(apart)}
    # The front touches no media: neither peer connections nor codecs.
    assert not modules & {"aiortc", "av", "numpy", "cv2", "pocketsphinx"}


@pytest.mark.loopback
def test_keeper_loads_next_to_nothing() -> None:
    modules = loaded("run")
    assert "server.keeper.keeper" in modules
    assert not modules & {*HEAVY, "asyncio", "uvloop", "aiohttp", "zmq", "server.config"}


@pytest.mark.loopback
def test_media_worker_loads_no_torch_and_no_engine() -> None:
    modules = loaded("server.worker.worker")
    assert "aiortc" in modules and "server.worker.session" in modules
    assert not modules & {*HEAVY, "engine.process", "engine.host", "cv2", "pocketsphinx"}
    assert "aiohttp.web" not in modules
    assert not {name for name in modules if name.startswith(("engine.builtin", "server.front"))}


@pytest.mark.loopback
def test_engine_loads_no_peer_connections() -> None:
    modules = loaded("engine.process")
    assert "engine.host" in modules and "engine.builtin.engine" in modules
    assert not modules & {*HEAVY, "aiortc", "aioice", "av"}
    # Only a chat endpoint needs it, and every start would wait for it.
    assert "aiohttp" not in modules
    assert not {name for name in modules if name.startswith(("server", "signaling", "media."))}
