"""Presets: what ships with us, the operator's own, bad ones named, changes seen, and the routes."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from server.front.preset_shelf import LOOK_S, PresetShelf
from server.front.presets import MAX_FILE_BYTES, PresetList, read
from signaling.http.auth import ApiKey, Authenticator, install
from signaling.settings import SessionSettings
from tests.waiting import Clock

KEY = "a-key-of-sixteen-or-more"
MINE = 'name = "Mine"\nmode = "half_duplex"\nlanguage = "en"\n'


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_those_that_ship_are_good_and_cover_each_mode_in_both_languages() -> None:
    found = read(None)
    assert found.bad == ()
    pairs = {(one.mode, one.camera, one.language) for one in found.presets.values()}
    for mode, camera in [
        ("full_duplex", False),
        ("full_duplex", True),
        ("half_duplex", False),
        ("turn_based", False),
    ]:
        assert {(mode, camera, "en"), (mode, camera, "zh")} <= pairs
    for one in found.presets.values():
        settings = SessionSettings().merge(one.session)
        assert settings.instructions == one.session["instructions"] and settings.unknown == ()
        # A preset and its twin have the same name but for the language.
        base, _, language = one.id.rpartition(".")
        twin = found.presets[f"{base}.{'zh' if language == 'en' else 'en'}"]
        assert (one.language, twin.mode, twin.camera) == (language, one.mode, one.camera)


def test_prompts_are_in_the_language_that_they_say() -> None:
    for one in read(None).presets.values():
        letters = [c for c in one.session["instructions"] if c.isalpha()]
        chinese = sum("\u4e00" <= c <= "\u9fff" for c in letters) / len(letters)
        assert chinese > 0.7 if one.language == "zh" else chinese == 0, one.id


def test_own_preset_becomes_a_session(tmp_path: Path) -> None:
    (tmp_path / "cup.png").write_bytes(b"png")
    text = (
        MINE.replace("half_duplex", "turn_based")
        + 'prompt = "Hello"\nmedia = ["cup.png"]\nvoice = "calm"\nprompt_voice = "warm"\n'
        + "spoken = false\nhd = true\norder = 0\n"
        + "[sampling]\ntemperature = 0.5\nmax_output_tokens = 64\nlisten_bias = 1.5\n"
    )
    write(tmp_path, "mine.toml", text)
    found = read(tmp_path)
    first = next(iter(found.presets.values()))
    assert (first.id, first.source, first.hd, first.voice) == ("mine", "own", True, "calm")
    assert first.session == {
        "instructions": "Hello",
        "output_modalities": ["text"],
        "audio": {"input": {"turn_detection": None}, "output": {"voice": "calm"}},
        "video": {"detail": "high"},
        "engine": {"temperature": 0.5, "listen_bias": 1.5, "prompt_voice": "warm"},
        "max_output_tokens": 64,
    }
    [media] = first.media
    assert (media.kind, media.bytes, media.url) == ("image", 3, "/api/presets/mine/media/0")


def test_own_preset_replaces_or_hides_ours(tmp_path: Path) -> None:
    write(tmp_path, "talk.en.toml", MINE)
    write(tmp_path, "talk.zh.toml", MINE + "hidden = true\n")
    found = read(tmp_path).presets
    assert found["talk.en"].name == "Mine" and "talk.zh" not in found and "chat.zh" in found


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.toml", "name = ", "not TOML"),
        ("a.toml", 'name = "x"\nlanguage = "en"\n', "mode: this field is required"),
        ("a.toml", MINE + "colour = 1\n", "colour: this field is not known"),
        ("a.toml", MINE.replace("half_duplex", "loud"), "mode: "),
        ("a.toml", MINE.replace('"en"', '"English please"'), "language: "),
        ("a.toml", MINE + "[sampling]\ntemperature = 9.0\n", "sampling.temperature: "),
        ("a.toml", MINE + "[sampling]\nmax_output_tokens = 9000\n", "session.max_output_tokens: "),
        ("a.toml", MINE + 'media = ["gone.png"]\n', "media.0: there is no file"),
        ("a.toml", MINE + 'media = ["../secret.png"]\n', "media.0: "),
        ("a.toml", MINE + 'media = ["run.exe"]\n', "media.0: "),
        ("a.toml", "#" * (MAX_FILE_BYTES + 1), "bytes"),
        ("two words.toml", MINE, "file's name"),
    ],
)
def test_bad_file_is_named_with_its_reason(tmp_path: Path, name: str, text: str, says: str) -> None:
    write(tmp_path, name, text)
    found = read(tmp_path)
    [bad] = found.bad
    assert bad.file == name and says in bad.reason
    assert "talk.en" in found.presets


def test_missing_folder_is_named() -> None:
    [bad] = read(Path("/nowhere/at/all")).bad
    assert bad.file == "/nowhere/at/all" and "presets.dir" in bad.reason


async def test_changes_are_seen_and_bad_ones_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    shelf = PresetShelf(tmp_path, tmp_path / "none", clock)
    assert (await shelf.refresh()).presets == {}
    path = write(tmp_path, "mine.toml", MINE)
    assert (await shelf.refresh()).presets == {}, "looked at too soon"
    clock.now += LOOK_S
    assert set((await shelf.refresh()).presets) == {"mine"}
    write(tmp_path, "mine.toml", MINE.replace("Mine", "Ours"))
    os.utime(path, ns=(1, 1))
    clock.now += LOOK_S
    assert (await shelf.refresh()).presets["mine"].name == "Ours"
    with caplog.at_level(logging.WARNING):
        write(tmp_path, "broken.toml", "name")
        for _ in range(2):
            clock.now += LOOK_S
            assert set((await shelf.refresh()).presets) == {"mine"}
        write(tmp_path, "other.toml", MINE)
        clock.now += LOOK_S
        assert len((await shelf.refresh()).presets) == 2 and len(shelf.bad) == 1
    assert [r.getMessage().startswith("preset broken.toml") for r in caplog.records] == [True]


async def test_routes_tell_presets_and_give_their_files_to_who_has_a_key(tmp_path: Path) -> None:
    (tmp_path / "cup.png").write_bytes(b"png")
    write(tmp_path, "mine.toml", MINE + 'media = ["cup.png"]\n')
    app = web.Application()
    auth = Authenticator((ApiKey("access", KEY, "user"),))
    install(app, auth)
    PresetShelf(tmp_path).add_to(app, auth)
    headers = {"Authorization": f"Bearer {KEY}"}
    async with TestClient(TestServer(app)) as client:
        assert (await client.get("/api/presets")).status == 401
        told = await client.get("/api/presets", headers=headers)
        listed = msgspec.json.decode(await told.read(), type=PresetList)
        assert listed.modes == ("full_duplex", "half_duplex", "turn_based")
        mine = next(one for one in listed.presets if one.id == "mine")
        assert (await client.get(mine.media[0].url)).status == 401
        file = await client.get(mine.media[0].url, headers=headers)
        assert (await file.read(), file.content_type) == (b"png", "image/png")
        for path in ("mine/media/1", "mine/media/-1", "mine/media/x", "other/media/0"):
            assert (await client.get(f"/api/presets/{path}", headers=headers)).status == 404
