"""What phones have and what a wait is like, in a real Chromium whose camera says that it can more.

Guards: lamp, zoom and the other camera are asked of the device; what is shown now is attached; a
screen stands in for the camera; what a phone call took away comes back with the page; who waits
sees the time run down and hears when it is over; the page opens without its server, from what a
service worker kept of it and of nothing else; a newer worker takes over; it can be installed.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Browser, Page, async_playwright, expect

from tests.browser.chrome import FLAGS, browse, call, chromium, event
from tests.serving import Serving
from tests.speech import microphone

PHONE = """
(() => {
  window.asked = [];
  const track = MediaStreamTrack.prototype;
  const { getCapabilities, getSettings } = track;
  const isCamera = (one) => one.kind === 'video' && !('displaySurface' in getSettings.call(one));
  track.getCapabilities = function () {
    const can = getCapabilities.call(this);
    return isCamera(this) ? { ...can, torch: true, zoom: { min: 1, max: 4, step: 0.5 } } : can;
  };
  track.getSettings = function () {
    const now = getSettings.call(this);
    return isCamera(this) ? { ...now, facingMode: window.facing ?? 'user' } : now;
  };
  track.applyConstraints = async function (how) { window.asked.push(how.advanced[0]); };
  const { getUserMedia } = MediaDevices.prototype;
  MediaDevices.prototype.getUserMedia = function (how) {
    window.facing = how.video?.facingMode?.ideal ?? window.facing;
    return getUserMedia.call(this, how);
  };
})();
"""
HIDE = """
() => {
  Object.defineProperty(document, 'hidden', { value: true, configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}
"""
SHOW = """
() => {
  delete document.hidden;
  document.dispatchEvent(new Event('visibilitychange'));
}
"""
TAKE_AWAY = """
() => {
  const { microphone, camera } = window.omnicall.call;
  window.before = { microphone, camera };
  Object.defineProperty(microphone, 'muted', { value: true });
  camera.stop();
  camera.dispatchEvent(new Event('ended'));
}
"""
IS_BACK = """
() => {
  const { microphone, camera } = window.omnicall.call;
  const isNew = microphone !== window.before.microphone && camera !== window.before.camera;
  return isNew && microphone?.readyState === 'live' && camera?.readyState === 'live';
}
"""
COUNT_TONES = """
window.tones = 0;
window.OscillatorNode = class extends OscillatorNode {
  start(...when) { window.tones += 1; super.start(...when); }
};
"""
KEPT = """
async () => {
  const kept = [];
  for (const name of await caches.keys()) {
    for (const one of await (await caches.open(name)).keys()) kept.push(new URL(one.url).pathname);
  }
  return kept;
}
"""


async def test_lamp_zoom_other_camera_screen_and_coming_back(
    server: Serving, tmp_path: Path
) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 60)
    async with browse("about:blank", mic) as page:
        await page.add_init_script(PHONE)
        await page.goto(server.url)
        await call(page)
        await page.click("#camera-toggle")
        shown = page.locator("#self")
        await expect(shown).to_have_attribute("data-mirror", "true")
        await page.click("#torch")
        await expect(page.locator("#torch")).to_have_attribute("aria-pressed", "true")
        await page.fill("#zoom", "2.5")
        await page.wait_for_function("() => window.asked.length === 2")
        assert await page.evaluate("() => window.asked") == [{"torch": True}, {"zoom": 2.5}]
        await page.click("#flip")
        await page.wait_for_function("() => window.facing === 'environment'")
        await expect(shown).to_have_attribute("data-mirror", "false")

        await page.click("#snap")
        await expect(page.locator("#attached .chip")).to_have_text(re.compile("^picture.jpg"))
        await page.click("#send")
        added = await event(page, "conversation.item.added")
        assert [part["type"] for part in added["item"]["content"]] == ["input_image"]
        await expect(page.locator(".caption[data-role=user] img.thumb")).to_be_visible()

        await page.click("#share")
        surface = "() => window.omnicall.call.camera?.getSettings().displaySurface ?? ''"
        await page.wait_for_function(surface)
        await page.click("#share")
        await page.wait_for_function(f"() => !({surface})()")

        await page.evaluate(HIDE)
        await page.evaluate(TAKE_AWAY)
        await page.evaluate(SHOW)
        await page.wait_for_function(IS_BACK)
        await page.evaluate(
            "() => window.omnicall.call.microphone.dispatchEvent(new Event('ended'))"
        )
        await expect(page.locator("#error")).to_have_attribute("data-kind", "microphone_lost")
        await page.evaluate(SHOW)
        await expect(page.locator("#error")).to_be_hidden()
        assert await page.evaluate("() => window.omnicall.call.state") == "connected"


async def wait_in_line(browser: Browser, url: str, place: Any) -> None:
    """A caller in line sees the time run down, and hears the end of it once `place` is free."""
    page = await browser.new_page()
    await page.add_init_script(COUNT_TONES)
    await page.goto(url)
    await page.click("#call")
    hint = page.locator("#hint")
    told = re.compile("About [3-9] s left|About [1-9][0-9] s left")
    await expect(hint).to_have_text(told)
    first = await hint.inner_text()
    await expect(hint).not_to_have_text(first)
    await expect(hint).to_contain_text(re.compile("left|Any moment"))
    assert await page.evaluate("() => window.tones") == 0
    await place()
    await event(page, "session.created")
    await page.wait_for_function("() => window.tones === 3")
    await page.close()


async def opens_without_its_server(page: Page, server: Serving) -> None:
    await asyncio.to_thread(server.stop)
    await page.reload()
    await expect(page.locator("#engine-text")).to_have_text("The server cannot be reached.")
    await expect(page.locator("#call")).to_be_visible()


async def test_wait_runs_down_and_the_page_outlives_its_server() -> None:
    flags = [*FLAGS, "--use-fake-ui-for-media-stream"]
    options = ("--set", "engine.slots=1", "--set", "calls.modes=half_duplex,full_duplex")
    with Serving("--engine", "echo", *options) as server:
        async with async_playwright() as playwright:
            browser = await playwright.chromium.launch(executable_path=chromium(), args=flags)
            page = await browser.new_page()
            await page.goto(server.url)
            await expect(page.locator("#mode-turn-based")).to_be_disabled()
            await expect(page.locator("#mode-chat")).to_be_disabled()
            await call(page)
            # How long this call takes is what the next ones are told to wait.
            await page.evaluate("() => navigator.serviceWorker.ready.then(() => {})")
            await asyncio.sleep(5)
            await page.click("#hangup")
            await call(page)
            await wait_in_line(browser, server.url, lambda: page.click("#hangup"))

            # What the worker sees from the second visit on, it keeps.
            await page.reload()
            await expect(page.locator("#engine-more")).to_contain_text("omnicall")
            await page.wait_for_function("() => navigator.serviceWorker.controller")
            kept = await page.evaluate(KEPT)
            assert "/" in kept and "/static/js/page.js" in kept
            assert [path for path in kept if path != "/" and not path.startswith("/static/")] == []

            devtools = await page.context.new_cdp_session(page)
            manifest = await devtools.send("Page.getAppManifest")
            assert urlsplit(manifest["url"]).path == "/static/app.webmanifest"
            assert manifest["errors"] == []
            wrong = await devtools.send("Page.getInstallabilityErrors")
            # The browser that a test gets keeps nothing.
            ids = {one["errorId"] for one in wrong["installabilityErrors"]}
            assert ids <= {"in-incognito"}

            await page.evaluate("() => navigator.serviceWorker.register('/sw.js?newer')")
            await page.wait_for_function(
                "() => navigator.serviceWorker.controller.scriptURL.endsWith('?newer')"
            )
            await opens_without_its_server(page, server)
            await browser.close()
