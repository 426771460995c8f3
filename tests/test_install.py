"""`pip install .` (not editable) gives a working `omnicall` from any folder: pages included."""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests import ROOT
from tests.browser.chrome import browse, call, chromium, event, record, recorded
from tests.serving import Serving
from tests.speech import BROWSER_HZ, microphone, stretches

pytestmark = pytest.mark.loopback

SHIPPED = (
    *("engine", "media", "server", "signaling", "web", "certs"),
    *("run.py", "pyproject.toml", "README.md", "LICENSE"),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `omnicall` of an empty virtual environment; the checkout it came from is gone."""
    source = tmp_path_factory.mktemp("source")
    for name in SHIPPED:
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, source / name)
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=True)
    pip = [str(home / "bin" / "python"), "-m", "pip", "install", "-q", str(source)]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(source)
    return home / "bin" / "omnicall"


def test_installed_command_tells_its_version(installed: Path, tmp_path: Path) -> None:
    done = subprocess.run([installed, "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("omnicall 0."), done


def test_installed_client_is_imported_and_calls_from_the_terminal(
    installed: Path, tmp_path: Path
) -> None:
    code = "import omnicall.client; print(omnicall.client.call.__module__)"
    done = subprocess.run(
        [installed.with_name("python"), "-c", code], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == "omnicall.client", done
    with Serving(command=(str(installed),), cwd=tmp_path) as serving:
        question = [str(installed), "call", serving.url, "--text", "what time is it"]
        done = subprocess.run(question, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "assistant: It is" in done.stdout, done


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="Chromium is missing: apt-get install chromium")
async def test_installed_command_serves_a_call(installed: Path, tmp_path: Path) -> None:
    # Folders of the same names in the current directory must not be taken for ours.
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "__init__.py").write_text("raise RuntimeError('not this one')\n")
    mic = microphone(tmp_path / "mic.wav", [(3.0, "what_time")], 30)
    with Serving(command=(str(installed),), cwd=tmp_path) as serving:
        async with browse(serving.url, mic) as page:
            await call(page)
            await record(page)
            done = await event(page, "response.output_audio_transcript.done")
            await event(page, "output_audio_buffer.stopped")
            sound = await recorded(page)
    assert "It is" in done["transcript"]
    assert stretches(sound.assistant, BROWSER_HZ)
    assert sys.prefix not in str(installed)
