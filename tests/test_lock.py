"""The lock files name what pyproject.toml asks for, pinned, with hashes, and no place to get it."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BASE: list[str] = PROJECT["dependencies"]
NATIVE: list[str] = BASE + PROJECT["optional-dependencies"]["minicpmo"]
VOICE: list[str] = BASE + PROJECT["optional-dependencies"]["voice"]
PYTHONS = ("3.11", "3.12", "3.13")


def locked(name: str) -> list[tuple[Requirement, int]]:
    """Each requirement of a lock file and how many hashes it has."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        if line and not line.startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
            found.append((Requirement(requirement), len(hashes)))
    return found


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("requirements.lock", BASE),
        ("requirements-voice.lock", VOICE),
        ("requirements-minicpmo.lock", NATIVE),
    ],
)
def test_every_requirement_is_locked_within_its_range(name: str, wanted: list[str]) -> None:
    found = locked(name)
    for python in PYTHONS:
        here = {
            "python_version": python,
            "python_full_version": f"{python}.5",
            "sys_platform": "linux",
            "platform_machine": "x86_64",
            "implementation_name": "cpython",
        }
        pinned: dict[str, str] = {}
        for requirement, _ in found:
            if requirement.marker is None or requirement.marker.evaluate(here):
                (pin,) = requirement.specifier
                assert pin.operator == "==", requirement
                key = canonicalize_name(requirement.name)
                assert key not in pinned, f"{key} is locked twice on {python}"
                pinned[key] = pin.version
        for text in wanted:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate(here):
                version = pinned.get(canonicalize_name(requirement.name))
                assert version is not None, f"{name} lacks {text}: run .ci/lock"
                assert requirement.specifier.contains(version), f"{text} is locked as {version}"


@pytest.mark.parametrize(
    "name", ["requirements.lock", "requirements-voice.lock", "requirements-minicpmo.lock"]
)
def test_everything_locked_has_hashes_and_no_address(name: str) -> None:
    assert all(hashes for _, hashes in locked(name))
    text = (ROOT / name).read_text()
    assert "://" not in text and "index" not in text.lower() and "find-links" not in text
