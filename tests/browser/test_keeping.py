"""What stays of a conversation on the call page, in a real Chromium, with a scripted engine.

Guards: Markdown; change and send again; another answer; thumbs; files dropped and pasted; the
model's figures; presets and a prompt in another language; what a preset
shows; what ends a turn; a voice uploaded and recorded; the history with search, export, reopening
and deleting; a reload in a call; the sound of what is not written down; a film as source; the sign
of a recording, and a recording that is looked at.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import PIL.Image
import pytest
from playwright.async_api import FilePayload, Page, Route, expect

from server.recordings import FOLDER, PICTURES, SEEN, RecordedPicture, read_about
from tests.browser.chrome import browse, call, event, open_settings
from tests.browser.test_pages import AXE, troubles
from tests.recordings import packed, talk
from tests.serving import Serving
from tests.speech import microphone
from tests.waiting import PATIENCE_S, until

SCRIPT = '''
title = "Keeping"
sound = "tones"
context = { limit = 1000, start = 820, per_unit = 5 }

[[answer]]
to = "text"
when = "list"
say = """
# Plan

- **one**
- two <img src=x>

[site](https://example.com) [bad](javascript:alert(1))"""

[[answer]]
to = "text"
when = "think"
say = "<think>Seven times six.</think>42"

[[answer]]
to = "text"
say = "Noted."

[[answer]]
to = "speech"
say = "Heard."
'''

PRESET = """
name = "A picture"
mode = "half_duplex"
language = "en"
prompt = "Talk about the boat."
media = ["boat.png"]
"""

FILES = """
(kind) => {
  const data = new DataTransfer();
  for (const name of ['one.png', 'two.png']) {
    const canvas = document.createElement('canvas');
    canvas.width = canvas.height = 8;
    const bytes = Uint8Array.from(atob(canvas.toDataURL().split(',')[1]), (c) => c.charCodeAt(0));
    data.items.add(new File([bytes], `${kind}-${name}`, { type: 'image/png' }));
  }
  const [place, event] = kind === 'paste'
    ? ['text', new ClipboardEvent('paste', { clipboardData: data, bubbles: true })]
    : ['talk', new DragEvent('drop', { dataTransfer: data, bubbles: true, cancelable: true })];
  document.getElementById(place).dispatchEvent(event);
}
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def scripted(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    script = tmp_path_factory.mktemp("script") / "keeping.toml"
    script.write_text(SCRIPT)
    own = script.parent / "presets"
    own.mkdir()
    (own / "picture.en.toml").write_text(PRESET)
    PIL.Image.new("RGB", (32, 24), "teal").save(own / "boat.png")
    folders = ("--set", f"data.dir={data}", "--set", f"presets.dir={own}")
    kept = ("--set", "recordings.enabled=true", "--set", "recordings.pictures=true")
    with Serving("--engine", "scripted", "--script", str(script), *folders, *kept) as serving:
        yield serving


async def say(page: Page, text: str) -> None:
    await page.fill("#text", text)
    await page.press("#text", "Enter")


async def texts(page: Page) -> list[str]:
    found: list[dict[str, Any]] = await page.evaluate("() => window.omnicall.captions()")
    return [row["text"] for row in found if row["role"] != "note"]


async def wait_texts(page: Page, count: int, last: str) -> None:
    """Until there are `count` messages and the last one is over and says `last`."""
    await page.wait_for_function(
        """([count, last]) => {
          const rows = window.omnicall.captions().filter((row) => row.role !== 'note');
          const row = rows.at(-1);
          return rows.length === count && row.text.includes(last) && row.status !== 'growing';
        }""",
        arg=[count, last],
    )


async def told(page: Page) -> list[str]:
    """What this page's call was told of an earlier one, in words."""
    found: list[str] = await page.evaluate(
        """() => window.omnicall.events
          .filter((e) => e.sent && e.type === 'conversation.item.create')
          .map((e) => e.item.content[0].text)"""
    )
    return found


async def exported(page: Page) -> dict[str, Any]:
    """The first conversation of the list, as JSON."""
    async with page.expect_download() as waiting:
        await page.click(".history-deeds button >> nth=1")
    saved = await (await waiting.value).path()
    found: dict[str, Any] = json.loads(await asyncio.to_thread(Path(saved).read_text))
    return found


async def rate(page: Page) -> None:
    """Call the answer bad, and say why."""
    await page.click("[data-tool=down]")
    await page.fill(".vote-word", "too short")
    async with page.expect_response("**/feedback") as answer:
        await page.press(".vote-word", "Enter")
    kept = await answer.value
    assert kept.ok and "too short" in str(kept.request.post_data)
    await expect(page.locator("[data-tool=down]")).to_have_attribute("aria-pressed", "true")


async def test_messages_are_rendered_changed_and_answered_anew(scripted: Serving) -> None:
    async with browse(scripted.url) as page:
        await page.click("#aloud")
        await say(page, "Give me a list")
        await wait_texts(page, 2, "bad")
        words = page.locator(".caption[data-role=assistant] .words")
        await expect(words.locator("li")).to_have_text(["one", "two <img src=x>"])
        await expect(words.locator("h3, li > strong")).to_have_text(["Plan", "one"])
        await expect(words.locator("a")).to_have_attribute("href", "https://example.com")
        await expect(words.locator("img")).to_have_count(0)

        await page.click(".caption[data-role=user] [data-tool=edit]")
        await expect(page.locator("#text")).to_have_value("Give me a list")
        await say(page, "Now think")
        await wait_texts(page, 2, "42")
        await event(page, "conversation.item.deleted", count=2)
        assert (await texts(page))[0] == "Now think"
        thought = page.locator(".caption[data-role=assistant] .thinking")
        await expect(thought).not_to_have_attribute("open", "")
        await expect(words).to_have_text("42")

        await page.click(".caption[data-role=assistant] [data-tool=again]")
        await event(page, "conversation.item.deleted", count=3)
        await wait_texts(page, 2, "Noted.")
        await rate(page)
        await page.click("[aria-controls=figures]")
        await expect(page.locator("#context-text")).to_contain_text("of 1,000")
        meter = page.locator("#context-meter")
        assert await meter.get_attribute("data-level") in ("1", "2", "3")
        await page.click("#figures [data-close]")

        await page.evaluate(FILES, "drop")
        await page.evaluate(FILES, "paste")
        await expect(page.locator("#attached .chip")).to_have_count(4)
        await page.click(".chip-remove >> nth=3")
        await say(page, "Look")
        await wait_texts(page, 4, "Noted.")
        await expect(page.locator(".caption[data-role=user] img.thumb")).to_have_count(3)
        await page.click(".thumb-button >> nth=0")
        await expect(page.locator("dialog img")).to_be_visible()


async def test_conversation_is_kept_found_exported_reopened_and_deleted(scripted: Serving) -> None:
    async with browse(scripted.url, accept_downloads=True) as page:
        await page.click("#aloud")
        await page.evaluate(FILES, "drop")
        await say(page, "My cat is called Ada")
        await wait_texts(page, 2, "Noted.")
        await page.click("[data-tool=up]")

        # A reload in a call comes back into its session, which knows what was said.
        before = (await event(page, "session.created"))["session"]["id"]
        await page.reload()
        assert (await event(page, "session.created"))["session"]["id"] == before
        assert len((await event(page, "session.continued"))["items"]) == 2
        assert (await texts(page)) == ["My cat is called Ada", "Noted."]
        await expect(page.locator(".caption", has_text="is recorded")).to_have_count(1)
        await expect(page.locator("img.thumb")).to_have_count(2)
        await expect(page.locator("[data-tool=up]")).to_have_attribute("aria-pressed", "true")

        await page.click("#fresh")
        await page.wait_for_function("() => window.omnicall.captions().length === 0")
        await say(page, "Something else")
        await wait_texts(page, 2, "Noted.")
        assert await told(page) == ["Something else"]

        await page.click("[aria-controls=history]")
        rows = page.locator(".history-title")
        await expect(rows).to_have_text(["Something else", "My cat is called Ada"])
        await page.fill("#history-search", "ADA cat")
        await expect(rows).to_have_text(["My cat is called Ada"])
        kept = await exported(page)
        assert [row["text"] for row in kept["messages"]] == ["My cat is called Ada", "Noted."]
        assert kept["messages"][1]["feedback"] == {"is": "up"}
        assert [one["name"] for one in kept["messages"][0]["files"]] == [
            "drop-one.png",
            "drop-two.png",
        ]

        await page.click(".history-open")
        await page.wait_for_function("() => window.omnicall.captions()[0]?.text.includes('Ada')")
        await expect(page.locator("img.thumb")).to_have_count(2)
        await say(page, "What is she called?")
        await wait_texts(page, 4, "Noted.")
        assert "Noted." in await told(page)

        await page.click("[aria-controls=history]")
        await page.fill("#history-search", "")
        await expect(rows).to_have_count(2)
        await page.click(".history-row:has([aria-current]) .history-deeds button >> nth=2")
        await expect(rows).to_have_text(["Something else"])
        assert await texts(page) == []


async def test_presets_prompt_and_language(scripted: Serving) -> None:
    async with browse(scripted.url, locale="en-GB") as page:
        await open_settings(page)
        await page.wait_for_selector("#preset option[value='talk.zh']", state="attached")
        await page.select_option("#preset", "talk.zh")
        await expect(page.locator("#clash")).to_contain_text("Chinese")
        await page.fill("#prompt", "You are a patient teacher of geography.")
        await page.press("#prompt", "Tab")
        await expect(page.locator("#clash")).to_be_hidden()
        await page.fill("#preset-name", "Teacher")
        await page.click("#preset-save")
        await page.reload()
        await say(page, "Hello")
        created = await event(page, "session.created")
        assert created["session"]["instructions"] == "You are a patient teacher of geography."
        await open_settings(page)
        await page.select_option("#preset", "")
        await event(page, "session.updated")
        await page.select_option("#preset", label="Teacher")
        updated = await event(page, "session.updated", count=2)
        assert updated["session"]["instructions"] == "You are a patient teacher of geography."


async def test_preset_shows_its_picture_first_and_turns_end_as_they_are_set(
    scripted: Serving,
) -> None:
    async with browse(scripted.url, locale="en-GB") as page:
        await open_settings(page)
        await page.wait_for_selector("#preset option[value='picture.en']", state="attached")
        await page.select_option("#preset", "picture.en")
        await expect(page.locator("#preset-media")).to_contain_text("boat.png")
        await page.fill("#wish-vad_threshold", "0.8")
        await page.press("#wish-vad_threshold", "Tab")
        await page.click("#settings [data-close]")
        await say(page, "What is it?")
        await wait_texts(page, 3, "Noted.")
        assert (await texts(page))[:2] == ["", "What is it?"]
        await expect(page.locator(".caption[data-role=user] img.thumb")).to_have_count(1)
        kinds = await page.evaluate(
            "() => window.omnicall.events.filter((e) => e.type === 'conversation.item.added')"
            ".map((e) => e.item.content.map((part) => part.type).join())"
        )
        assert kinds[:2] == ["input_image", "input_text"]

        await page.click("#mode-half-duplex")
        updated = await event(page, "session.updated")
        assert updated["session"]["audio"]["input"]["turn_detection"]["threshold"] == 0.8
        await open_settings(page)
        await page.fill("#wish-vad_silence_ms", "900")
        await page.press("#wish-vad_silence_ms", "Tab")
        updated = await event(page, "session.updated", count=2)
        detection = updated["session"]["audio"]["input"]["turn_detection"]
        assert (detection["threshold"], detection["silence_duration_ms"]) == (0.8, 900)
        await page.click("#wish-reset")
        updated = await event(page, "session.updated", count=3)
        detection = updated["session"]["audio"]["input"]["turn_detection"]
        assert (detection["threshold"], detection["silence_duration_ms"]) == (0.5, 500)


async def as_if_voices_were_taken(route: Route) -> None:
    """The server keeps them either way; this engine speaks with none of them."""
    if route.request.method != "GET":
        await route.continue_()
        return
    answer = await route.fetch()
    found = await answer.json()
    if "upload" in found:
        found["upload"] |= {"code": "", "reason": ""}
    await route.fulfill(response=answer, json=found)


async def test_voice_is_uploaded_recorded_chosen_renamed_and_deleted(
    scripted: Serving, tmp_path: Path
) -> None:
    mic = tmp_path / "mic.wav"
    mic.write_bytes(packed(talk(20.0, rate=48_000), rate=48_000))
    async with browse(scripted.url, mic) as page:
        page.on("dialog", lambda dialog: dialog.accept())
        said = page.locator("#voice-said")
        await open_settings(page)
        await expect(page.locator("#voice-rules")).to_contain_text("needs an engine")
        await expect(page.locator("#voice-upload")).to_be_hidden()
        await page.click("#settings [data-close]")
        await page.route("**/api/voices", as_if_voices_were_taken)
        await open_settings(page)
        await expect(page.locator("#voice-upload")).to_be_visible()
        short = microphone(tmp_path / "short.wav", [(0.2, "hello")], 1.5)
        await page.set_input_files("#voice-file", short)
        await expect(said).to_have_text("The recording is too short.")
        await page.fill("#voice-name", "Anna")
        sample = FilePayload(name="a.wav", mimeType="audio/wav", buffer=packed(talk(4.0)))
        await page.set_input_files("#voice-file", sample)
        await expect(said).to_have_text("Anna is kept.")
        chosen = await page.input_value("#voice")
        assert chosen.startswith("voice_")
        await expect(page.locator("#voice-listen .sound")).to_be_visible()
        await page.fill("#voice-rename", "Anne")
        await page.click("#voice-rename-button")
        await expect(said).to_have_text("It is called Anne now.")
        await page.click("#voice-delete")
        await expect(said).to_have_text("Anne is deleted.")
        assert await page.input_value("#voice") == ""

        await page.click("#voice-record")
        await expect(page.locator("#voice-record")).to_contain_text("4")
        await page.click("#voice-record")
        await expect(said).to_have_text("My voice is kept.")
        kept = await page.input_value("#voice")
        assert kept.startswith("voice_")

        await call(page)
        ended = await page.evaluate("() => window.omnicall.call.id")
        await page.click("#hangup")
        await page.goto(f"{scripted.url}admin")
        await is_on_admin(page, ended, kept)


async def is_on_admin(page: Page, call_id: str, voice: str) -> None:
    """The call that ended is told of, and the voice is, until it is deleted there."""
    past = page.locator(f"#past tr[data-key='{call_id}']")
    await expect(past).to_contain_text("The call was hung up.")
    await expect(past).to_contain_text("Talk freely")
    await page.click(f"#voices tr[data-key='{voice}'] button")
    await expect(page.locator("#voices-said")).to_have_text("My voice is deleted.")
    await expect(page.locator(f"#voices tr[data-key='{voice}']")).to_have_count(0)


async def recording_is_seen_and_heard(page: Page, call_id: str) -> None:
    """Who spoke when, what was said and seen, and it plays."""
    row = page.locator(f"#recordings tr[data-key^='{call_id}']")
    await expect(row).to_contain_text("The call was hung up.")
    await row.locator(".parts > button").click()
    for side in ("user", "assistant"):
        lane = page.locator(f".viewer .lane[data-role={side}] path")
        await expect(lane).to_have_attribute("d", re.compile("^M"))
    line = page.locator(".said li")
    await expect(line.locator("p")).to_have_text(["Heard."])
    await line.locator("button").click()
    await expect(line).to_have_attribute("aria-current", "true")
    await expect(page.locator(".viewer-picture")).to_have_js_property("naturalWidth", 32)
    place = page.locator(".viewer-place")
    before = float(await place.input_value())
    await place.press("ArrowLeft")
    before = max(0.0, before - 5)
    await expect(place).to_have_value(f"{before:g}")
    if AXE.exists():
        assert await troubles(page) == []
    await page.click("[data-testid=viewer-play]")
    await expect(place).not_to_have_value(f"{before:g}")
    await page.keyboard.press("Escape")
    await expect(page.locator(".viewer")).to_have_count(0)


async def put_picture(recording: Path) -> None:
    """Into the recording of a call that is over, once it is."""
    await until(lambda: (about := read_about(recording)) is not None and about.ended_at)
    about = read_about(recording)
    assert about is not None
    PIL.Image.new("RGB", (32, 24), "teal").save(recording / PICTURES, "jpeg")
    size = (recording / PICTURES).stat().st_size
    seen = RecordedPicture(at=about.sounds_began_at[0], start=0, size=size)
    (recording / SEEN).write_bytes(msgspec.json.encode(seen))


async def test_what_is_not_written_down_can_be_heard(
    scripted: Serving, data: Path, tmp_path: Path
) -> None:
    mic = microphone(tmp_path / "mic.wav", [(3.0, "what_time")], 40)
    # axe-core is put into the page itself.
    async with browse(scripted.url, mic, bypass_csp=True) as page:
        sign = page.locator("#recorded")
        await expect(sign).to_have_text("Calls are recorded with pictures")
        await page.click("#mode-half-duplex")
        await call(page)
        await expect(sign).to_have_text("Being recorded with pictures")
        call_id = await page.evaluate("() => window.omnicall.call.id")
        await event(page, "conversation.item.input_audio_transcription.failed")
        sound = page.locator(".caption[data-role=user] .media .sound")
        await expect(sound).to_be_visible()
        seconds = float((await sound.inner_text()).split()[0])
        assert 0.8 < seconds < 3.5, seconds
        await event(page, "output_audio_buffer.stopped")
        await page.click("#hangup")
        await page.reload()
        await expect(sound).to_be_visible()
        await sound.click()
        await expect(sound).to_have_attribute("aria-label", "Stop playing")
        await put_picture(data / FOLDER / call_id)
        await page.goto(f"{scripted.url}admin")
        await recording_is_seen_and_heard(page, call_id)


async def test_film_is_seen_and_heard_instead_of_the_user(server: Serving) -> None:
    film = FilePayload(name="film.webm", mimeType="video/webm", buffer=film_of("red", 2.0))
    async with browse(server.url) as page:
        await open_settings(page)
        await page.fill("#play-padding", "30")
        await page.set_input_files("#play-input", film)
        await event(page, "session.created")
        await expect(page.locator("#stage")).to_have_attribute("data-picture", "large")
        await page.wait_for_function("() => document.getElementById('self').videoWidth === 320")
        await expect(page.locator("#self")).to_have_attribute("data-mirror", "false")
        await page.click("#settings [data-close]")
        await expect(page.locator("#playing-name")).to_contain_text("film.webm")
        await picture_arrives(server, page)
        await say(page, "What do you see?")
        done = await event(page, "response.output_audio_transcript.done")
        assert "red" in done["transcript"]
        await page.click("#playing-stop")
        await expect(page.locator("#stage")).to_have_attribute("data-picture", "none")
        assert await page.evaluate("() => window.omnicall.call.camera") is None


async def picture_arrives(server: Serving, page: Page) -> None:
    """Until the server has decoded one of the call's."""
    call_id = await page.evaluate("() => window.omnicall.call.id")
    async with asyncio.timeout(PATIENCE_S):
        while not await asyncio.to_thread(_pictures, server, call_id):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


def _pictures(server: Serving, call_id: str) -> int:
    _, told = server.get("/api/stats")
    rows = [row for call in told["calls"] if call["call_id"] == call_id for row in call["stats"]]
    return sum(row.get("framesDecoded", 0) for row in rows if row["type"] == "inbound-rtp")


def film_of(colour: str, seconds: float) -> bytes:
    """A silent WebM film of one colour."""
    made = io.BytesIO()
    with av.open(made, "w", format="webm") as opened:
        stream: Any = opened.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuv420p"
        picture = np.asarray(PIL.Image.new("RGB", (320, 240), colour))
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        for _ in range(round(10 * seconds)):
            frame.pts = None
            opened.mux(stream.encode(frame))
        opened.mux(stream.encode(None))
    return made.getvalue()


async def test_file_is_played_into_a_call_that_ends_with_it(
    server: Serving, tmp_path: Path
) -> None:
    file = microphone(tmp_path / "question.wav", [(0.2, "seven_times_eight")], 2.4)
    async with browse(server.url) as page:
        await open_settings(page)
        await page.fill("#play-padding", "5")
        await page.set_input_files("#play-input", file)
        await event(page, "session.created")
        heard = await event(page, "conversation.item.input_audio_transcription.completed")
        assert heard["transcript"] == "what is seven times eight"
        # The answer is heard to its end before the call is.
        done = await event(page, "response.done")
        assert done["response"]["status"] == "completed"
        await event(page, "output_audio_buffer.stopped")
        await page.wait_for_function("() => window.omnicall.state === 'ended'")
        assert await page.is_hidden("#playing")
