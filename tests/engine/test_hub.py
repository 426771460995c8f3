"""A checkpoint from a hub: fetched with progress in bytes, refused with what helps."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.hub import HubError, locate
from tests.hubserver import HubServer

pytest.importorskip("huggingface_hub")

FILES = {"config.json": b"{}", "model.safetensors": bytes(3_000_000)}


@pytest.fixture
def fake_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    constants = importlib.import_module("huggingface_hub.constants")
    with HubServer({"acme/omni": FILES}) as server:
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server


def test_checkpoint_is_fetched_and_tells_how_far_it_is(fake_hub: HubServer) -> None:
    told: list[tuple[str, int, int]] = []
    folder = locate("acme/omni", lambda *figures: told.append(figures))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES
    assert told[0] == ("acme/omni", 0, 0), "said before anything has come"
    whole = sum(map(len, FILES.values()))
    assert ("acme/omni", whole, whole) in told
    assert all(0 <= done <= total <= whole for _, done, total in told)


def test_checkpoint_that_the_hub_does_not_have_is_named_with_what_fetches_it(
    fake_hub: HubServer,
) -> None:
    with pytest.raises(HubError, match=r"(?s)acme/none is not a folder.*hf download acme/none"):
        locate("acme/none")


def test_download_that_breaks_off_is_told_in_words(
    fake_hub: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It tries again and again, a second apart.
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    fake_hub.cut = "model.safetensors"
    with pytest.raises(HubError, match=r"(?s)cannot be fetched: .*closed.*hf download acme/omni"):
        locate("acme/omni")


def test_folder_that_is_not_there_tells_how_to_fetch_it() -> None:
    with pytest.raises(HubError, match=r"(?s)is not a folder.*hf download"):
        locate("/nowhere/model")


def test_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    assert locate(tmp_path) == tmp_path
