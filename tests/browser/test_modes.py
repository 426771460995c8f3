"""The mode selector and push to talk on the call page, in a real Chromium.

Guards: a switch reaches the server and the page shows what it confirms, whoever asked for it; what
is refused is taken back; a mode that the engine lacks cannot be chosen; the choice outlives the
page; push to talk is answered after the release and only then, by pointer, touch and keys; Stop.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from tests.browser.chrome import browse, call, event, events
from tests.serving import Serving
from tests.speech import microphone

UPDATE = "(session) => window.omnicall.call.send({ type: 'session.update', session })"
SELECTORS = {
    "full_duplex": "#mode-full-duplex",
    "half_duplex": "#mode-half-duplex",
    "turn_based": "#mode-turn-based",
    "chat": "#mode-chat",
}
FIRST_S, EVERY_S, SAID_S = 4.0, 6.0, 2.0
"""When the fake user asks, how often, and how long that takes."""


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    said = [(FIRST_S + EVERY_S * i, "what_time") for i in range(15)]
    return microphone(tmp_path / "mic.wav", said, 95)


async def pressed(page: Page) -> list[str]:
    found: list[str] = await page.evaluate(
        "() => [...document.querySelectorAll('.modes [aria-pressed=true]')].map(b => b.id)"
    )
    return found


async def wait_pressed(page: Page, mode: str) -> None:
    await page.wait_for_selector(f"{SELECTORS[mode]}[aria-pressed=true]")
    assert await pressed(page) == [SELECTORS[mode][1:]]


async def mode_of(page: Page, server: Serving) -> str:
    """The mode of the page's call as the server has it; calls of closed pages may linger."""
    call_id = await page.evaluate("() => window.omnicall.call.id")
    _, stats = await asyncio.to_thread(server.get, "/api/stats")
    [mode] = [str(call["mode"]) for call in stats["calls"] if call["call_id"] == call_id]
    return mode


async def kinds(page: Page) -> list[str]:
    return [e["type"] for e in await events(page)]


async def test_switches_in_a_call_reach_the_server(server: Serving, tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 60)
    async with browse(server.url, mic) as page:
        await wait_pressed(page, "full_duplex")
        await call(page)
        assert await mode_of(page, server) == "full_duplex"
        order = ("turn_based", "half_duplex", "full_duplex")
        for count, mode in enumerate(order, 1):
            await page.click(SELECTORS[mode])
            await event(page, "session.updated", count=count)
            await wait_pressed(page, mode)
            assert await mode_of(page, server) == mode
            assert await page.is_visible("#push-to-talk") == (mode == "turn_based")
            assert await page.is_visible("#mute") == (mode != "turn_based")
        await page.click("#camera-toggle")
        await expect(page.locator("#mode-meaning")).to_contain_text("listens and looks")


async def test_page_shows_a_mode_that_it_did_not_ask_for(server: Serving, tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 60)
    async with browse(server.url, mic) as page:
        await call(page)
        await page.evaluate(UPDATE, {"audio": {"input": {"turn_detection": None}}})
        await wait_pressed(page, "turn_based")
        assert await page.is_visible("#push-to-talk")
        # It was not the user's choice, so the next call is as before.
        await page.click("#hangup")
        await wait_pressed(page, "full_duplex")


async def test_refused_switch_is_told_and_taken_back(server: Serving, tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 60)
    async with browse(server.url, mic) as page:
        # A server that knows no such mode.
        await page.route("**/static/lib/settings.js", spoil_half_duplex)
        await page.reload()
        await call(page)
        await page.click(SELECTORS["half_duplex"])
        refused = await event(page, "error")
        assert "turn_detection" in refused["error"]["message"]
        await wait_pressed(page, "full_duplex")
        assert await mode_of(page, server) == "full_duplex"
        assert "turn_detection" in str(await page.evaluate("() => window.omnicall.captions()"))
        assert await page.evaluate("() => localStorage.getItem('omnicall.mode')") != "half_duplex"


async def spoil_half_duplex(route: Route) -> None:
    answer = await route.fetch()
    text = (await answer.text()).replace("'server_vad'", "'no_such_vad'")
    await route.fulfill(response=answer, body=text)


async def test_mode_that_the_engine_lacks_cannot_be_chosen(server: Serving, tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 60)
    async with browse(server.url, mic) as page:
        await page.route("**/api/info", without_full_duplex)
        await page.reload()
        await wait_pressed(page, "half_duplex")
        assert await page.is_disabled(SELECTORS["full_duplex"])
        assert await page.is_enabled(SELECTORS["turn_based"])
        await call(page)
        assert await mode_of(page, server) == "half_duplex"


async def without_full_duplex(route: Route) -> None:
    answer = await route.fetch()
    info = await answer.json()
    info["engine"]["modes"] = ["half_duplex", "turn_based"]
    await route.fulfill(response=answer, json=info)


async def test_choice_is_kept_over_a_reload(server: Serving, tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 60)
    async with browse(server.url, mic) as page:
        await page.focus(SELECTORS["half_duplex"])
        await page.keyboard.press("Enter")
        await wait_pressed(page, "half_duplex")
        await page.reload()
        await wait_pressed(page, "half_duplex")
        await call(page)
        assert await mode_of(page, server) == "half_duplex"
        assert "session.update" not in await kinds(page)


async def place_turn_based(page: Page) -> None:
    await page.click(SELECTORS["turn_based"])
    await call(page)
    await page.wait_for_selector("#push-to-talk:enabled")


async def hold(page: Page) -> None:
    box = await page.locator("#push-to-talk").bounding_box()
    assert box is not None
    await page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    await page.mouse.down()


async def question(page: Page) -> None:
    """Until the fake user, who is being heard, has asked."""
    await event(page, "conversation.item.input_audio_transcription.delta")
    await asyncio.sleep(SAID_S)


async def answered(page: Page, count: int = 1) -> None:
    done = await event(page, "response.output_audio_transcript.done", count=count)
    assert "It is" in done["transcript"], done


async def test_push_to_talk_is_answered_after_the_release_only(
    server: Serving, questions: Path
) -> None:
    async with browse(server.url, questions) as page:
        await place_turn_based(page)
        # Nobody listens while nothing is held.
        assert not await page.evaluate("() => window.omnicall.call.microphone.enabled")
        await asyncio.sleep(FIRST_S + SAID_S)
        assert not [kind for kind in await kinds(page) if kind.startswith(("response.", "input_"))]

        await hold(page)
        assert await page.get_attribute("#push-to-talk", "aria-pressed") == "true"
        assert await page.evaluate("() => window.omnicall.call.microphone.enabled")
        await question(page)
        log = await kinds(page)
        assert "input_audio_buffer.clear" in log
        assert not {"input_audio_buffer.commit", "response.create", "response.created"} & {*log}
        assert await page.evaluate("() => window.omnicall.state") == "hearing"

        await page.mouse.up()
        await answered(page)
        log = await kinds(page)
        order = ["clear", "commit"]
        places = [log.index(f"input_audio_buffer.{kind}") for kind in order]
        places += [log.index("response.create"), log.index("response.created")]
        assert places == sorted(places), log
        assert not await page.evaluate("() => window.omnicall.call.microphone.enabled")
        await event(page, "output_audio_buffer.stopped")
        assert log.count("response.created") == 1


async def test_space_is_held_to_talk_but_not_in_the_text_box(
    server: Serving, questions: Path
) -> None:
    async with browse(server.url, questions) as page:
        await place_turn_based(page)
        # The pressed button was Call, so Hang up has the focus now.
        await page.keyboard.down(" ")
        await page.wait_for_selector("#push-to-talk[aria-pressed=true]")
        await question(page)
        await page.keyboard.up(" ")
        await answered(page)
        await event(page, "output_audio_buffer.stopped")

        await page.focus("#push-to-talk")
        await page.keyboard.down("Enter")
        await page.wait_for_selector("#push-to-talk[aria-pressed=true]")
        await asyncio.sleep(0.5)
        await page.keyboard.up("Enter")
        await page.wait_for_selector("#push-to-talk[aria-pressed=false]")
        await event(page, "input_audio_buffer.commit", count=2)

        await page.focus("#text")
        await page.keyboard.type("what time is it")
        assert await page.input_value("#text") == "what time is it"
        await asyncio.sleep(0.3)
        assert (await kinds(page)).count("input_audio_buffer.clear") == 2
        await page.keyboard.press("Enter")
        await event(page, "conversation.item.create")
        await event(page, "response.create", count=3)


async def test_short_press_and_click_without_a_press(server: Serving, questions: Path) -> None:
    async with browse(server.url, questions) as page:
        await place_turn_based(page)
        await page.click("#push-to-talk")
        await event(page, "input_audio_buffer.clear", count=2)
        assert "Hold it" in await page.inner_text("#hint")
        assert "response.create" not in await kinds(page)

        # As a screen reader or a switch presses it.
        press = "() => document.getElementById('push-to-talk').click()"
        await page.evaluate(press)
        await page.wait_for_selector("#push-to-talk[aria-pressed=true]")
        await question(page)
        await page.evaluate(press)
        await answered(page)


async def test_touch_holds_and_stop_ends_the_answer(server: Serving, questions: Path) -> None:
    phone: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True}
    async with browse(server.url, questions, **phone) as page:
        await place_turn_based(page)
        assert await page.evaluate("() => document.documentElement.scrollWidth") <= 360
        box = await page.locator("#push-to-talk").bounding_box()
        assert box is not None and box["height"] >= 44
        finger = {"x": box["x"] + 30, "y": box["y"] + 20}
        devtools = await page.context.new_cdp_session(page)
        await devtools.send(
            "Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [finger]}
        )
        await page.wait_for_selector("#push-to-talk[aria-pressed=true]")
        # A finger is never quite still.
        moved = {"x": finger["x"] + 12, "y": finger["y"] - 40}
        await devtools.send(
            "Input.dispatchTouchEvent", {"type": "touchMove", "touchPoints": [moved]}
        )
        await question(page)
        assert await page.get_attribute("#push-to-talk", "aria-pressed") == "true"
        await devtools.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        await event(page, "output_audio_buffer.started")

        await page.fill("#text", "tell me a story")
        await page.press("#text", "Enter")
        await event(page, "output_audio_buffer.started", count=2)
        await page.wait_for_selector("#interrupt:enabled")
        await page.click("#interrupt")
        await page.wait_for_function(
            "() => window.omnicall.events.filter(e => e.type === 'response.done').at(-1)"
            "?.response.status === 'cancelled'"
        )
        log = await kinds(page)
        assert {"response.cancel", "output_audio_buffer.clear"} <= {*log}


async def test_holding_silences_the_answer(server: Serving, questions: Path) -> None:
    async with browse(server.url, questions) as page:
        await place_turn_based(page)
        await page.fill("#text", "tell me a story")
        await page.press("#text", "Enter")
        await event(page, "output_audio_buffer.started")
        await page.wait_for_function("() => window.omnicall.state === 'speaking'")
        await hold(page)
        await event(page, "output_audio_buffer.cleared")
        assert await page.evaluate("() => window.omnicall.state") == "hearing"
        await question(page)
        assert (await kinds(page)).count("response.created") == 1
        await page.mouse.up()
        await event(page, "response.created", count=2)


async def test_leaving_the_mode_while_holding_opens_the_microphone(
    server: Serving, tmp_path: Path
) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 60)
    async with browse(server.url, mic) as page:
        await place_turn_based(page)
        await hold(page)
        await page.evaluate(
            UPDATE, {"audio": {"input": {"turn_detection": {"type": "server_vad"}}}}
        )
        await wait_pressed(page, "half_duplex")
        await page.mouse.up()
        assert await page.is_hidden("#push-to-talk")
        assert await page.evaluate("() => window.omnicall.call.microphone.enabled")
        await asyncio.sleep(0.5)
        assert "input_audio_buffer.commit" not in await kinds(page)


async def test_who_writes_first_can_speak_later_in_the_same_call(
    server: Serving, questions: Path
) -> None:
    async with browse(server.url, questions) as page:
        await page.click(SELECTORS["half_duplex"])
        await page.fill("#text", "what time is it")
        await page.press("#text", "Enter")
        await answered(page)
        await wait_pressed(page, "chat")
        assert await page.is_hidden("#push-to-talk")
        assert await page.evaluate("() => window.omnicall.call.microphone") is None
        written = await page.evaluate("() => window.omnicall.call.id")
        await page.click("#mute")
        await wait_pressed(page, "half_duplex")
        assert await mode_of(page, server) == "half_duplex"
        heard = await event(page, "conversation.item.input_audio_transcription.completed")
        assert heard["transcript"] == "what time is it"
        await answered(page, 2)
        assert await page.evaluate("() => window.omnicall.call.id") == written

        await page.click(SELECTORS["chat"])
        await wait_pressed(page, "chat")
        assert await mode_of(page, server) == "turn_based"
        assert await page.evaluate("() => window.omnicall.call.microphone") is None
        await page.click("#hangup")
        await wait_pressed(page, "chat")
