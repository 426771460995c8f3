"""Every page as a whole: in both languages, in any size, for everybody, and from this host alone.

Guards: Call and Hang up in sight and nothing cut off in every size, also under a notice; no words
on the stage lie over others; axe-core finds nothing serious or moderate; no error on the console,
no request to another host; the language is that of the browser, of the address and of the switch;
the picture takes the stage; a microphone that gives nothing is noticed.
"""

from __future__ import annotations

import os
import re
import wave
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from tests import ROOT
from tests.browser.chrome import browse, call
from tests.serving import Serving
from tests.speech import microphone

AXE = ROOT / "tests" / "web" / "node_modules" / "axe-core" / "axe.min.js"
SIZES = ((1280, 800), (1920, 1080), (390, 844), (844, 390), (568, 320), (320, 568))
SHOTS = os.environ.get("OMNICALL_SHOTS", "")
"""A folder that gets a picture of the page in each state and size, to be looked at."""
CHINESE = re.compile("[\u4e00-\u9fff]")

OUT_OF_SIGHT = """
() => {
  const wrong = [];
  const { scrollWidth, scrollHeight } = document.documentElement;
  if (scrollWidth > innerWidth || scrollHeight > innerHeight) {
    wrong.push(`page ${scrollWidth}x${scrollHeight}`);
  }
  for (const node of document.querySelectorAll('#bar button, .tools > *, .modes button, #text')) {
    const { left, right, top, bottom, width } = node.getBoundingClientRect();
    if (!width) continue;
    const isBeyond = right > innerWidth + 0.5 || bottom > innerHeight + 0.5;
    const name = node.id || node.outerHTML.slice(0, 60);
    if (isBeyond || left < 0 || top < 0) wrong.push(`${name} is cut off`);
    if (!node.closest('#bar')) continue;
    const above = document.elementFromPoint((left + right) / 2, (top + bottom) / 2);
    if (!node.contains(above)) wrong.push(`${node.id} lies under ${above?.id || above?.className}`);
  }
  const stage = document.getElementById('stage').getBoundingClientRect();
  const words = ['#state', '.substate', '#recorded', '#mode-meaning', '#engine', '#subtitles'];
  const shown = [...document.querySelectorAll([...words, '.stage-tools button'].join())]
    .filter((node) => node.getClientRects().length && getComputedStyle(node).clipPath === 'none')
    .map((node) => {
      const range = document.createRange();
      range.selectNodeContents(node);
      const isWhole = node.matches('button') || getComputedStyle(node).overflowX === 'hidden';
      const rects = (isWhole ? node : range).getClientRects();
      return [node.id || node.className, [...rects].filter(({ width }) => width > 1)];
    });
  shown.forEach(([name, rects], place) => {
    const leaves = ({ top, bottom }) => top < stage.top - 1 || bottom > stage.bottom + 1;
    if (rects.some(leaves)) wrong.push(`${name} leaves the stage`);
    for (const [other, others] of shown.slice(place + 1)) {
      const meets = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 2;
      if (rects.some((a) => others.some((b) => meets(a, b)))) wrong.push(`${name} meets ${other}`);
    }
  });
  return wrong;
}
"""
TROUBLES = """
async () => {
  const { violations } = await window.axe.run(document, { resultTypes: ['violations'] });
  return violations.filter(({ impact }) => impact !== 'minor').map(({ id, impact, nodes }) =>
    [impact, id, ...nodes.map(({ html }) => html.slice(0, 120))].join(' | '));
}
"""


async def assert_fits(page: Page, state: str) -> None:
    for width, height in SIZES:
        await page.set_viewport_size({"width": width, "height": height})
        # Until what was resized has been laid out.
        await page.evaluate("() => new Promise(done => requestAnimationFrame(() => done()))")
        wrong = await page.evaluate(OUT_OF_SIGHT)
        assert wrong == [], (state, width, height)
        if SHOTS:
            await page.screenshot(path=Path(SHOTS) / f"{state}-{width}x{height}.png")


async def troubles(page: Page) -> list[str]:
    """What axe-core finds, minor things aside."""
    if not await page.evaluate("() => 'axe' in window"):
        await page.add_script_tag(content=AXE.read_text())
    found: list[str] = await page.evaluate(TROUBLES)
    return found


@asynccontextmanager
async def clean(server: Serving, mic: Path | None, path: str, **how: Any) -> AsyncIterator[Page]:
    """A page that must say nothing on the console, and ask no other host."""
    said: list[str] = []
    strangers: list[str] = []
    # axe-core is put into the page itself.
    async with browse("about:blank", mic, bypass_csp=True, **how) as page:
        page.on("console", lambda one: said.append(one.text) if one.type == "error" else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on(
            "request",
            lambda asked: (
                strangers.append(asked.url)
                if not asked.url.startswith((server.url, "data:", "blob:"))
                else None
            ),
        )
        await page.goto(server.url + path)
        yield page
        assert said == [] and strangers == []


async def as_if_calls_were_recorded(route: Route) -> None:
    answer = await route.fetch()
    recorded = {"recorded": True, "recorded_pictures": True}
    await route.fulfill(response=answer, json=await answer.json() | recorded)


@pytest.fixture
def quiet(tmp_path: Path) -> Path:
    return microphone(tmp_path / "mic.wav", [], 90)


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is missing: `npm install` in tests/web")
@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_call_page_fits_and_is_for_everybody(
    server: Serving, quiet: Path, scheme: Any
) -> None:
    locale = "en-US" if scheme == "light" else "zh-CN"
    async with clean(server, quiet, "", color_scheme=scheme, locale=locale) as page:
        if scheme == "light":
            await page.route("**/api/info", as_if_calls_were_recorded)
            await page.reload()
            await expect(page.locator("#recorded")).to_be_visible()
        await expect(page.locator("#engine-more")).to_contain_text("omnicall")
        await assert_fits(page, "idle")
        assert await troubles(page) == []
        for panel in ("settings", "figures", "history"):
            await page.click(f"[aria-controls={panel}]")
            await assert_fits(page, panel)
            assert await troubles(page) == []
            await page.keyboard.press("Escape")
            await expect(page.locator(f"#{panel}")).to_be_hidden()

        await call(page)
        await page.evaluate("() => { window.omnicall.call.recorded = 'recorded_pictures' }")
        await assert_fits(page, "call")
        await page.click("#camera-toggle")
        await expect(page.locator("#stage")).to_have_attribute("data-picture", "large")
        await page.fill("#text", "tell me a story")
        await page.press("#text", "Enter")
        await expect(page.locator("#subtitles")).to_be_visible()
        await assert_fits(page, "picture")
        assert await troubles(page) == []
        await page.set_viewport_size({"width": 1280, "height": 800})
        box = await page.locator("#self").bounding_box()
        assert box is not None and box["width"] > 640 and box["height"] > 400
        await page.click("#mode-turn-based")
        await expect(page.locator("#push-to-talk")).to_be_enabled()
        await assert_fits(page, "push to talk")
        await page.click("#mode-chat")
        await expect(page.locator("main")).to_have_attribute("data-mode", "chat")
        await assert_fits(page, "chat with a picture")
        await page.click("#camera-toggle")
        await expect(page.locator("#stage")).to_have_attribute("data-picture", "none")
        await assert_fits(page, "chat")
        assert await troubles(page) == []
        await page.click("#hangup")
        await expect(page.locator("#state")).to_have_attribute("data-state", "ended")
        await assert_fits(page, "ended")


async def test_controls_stay_in_sight_under_a_notice(server: Serving) -> None:
    async with browse(server.url, grant=False) as page:
        await page.click("#call")
        await expect(page.locator("#error")).to_have_attribute("data-kind", "microphone_denied")
        await assert_fits(page, "notice")
        await page.set_viewport_size({"width": 320, "height": 568})
        await expect(page.locator("#error [data-action=call]")).to_be_in_viewport()


@pytest.mark.skipif(not AXE.exists(), reason="axe-core is missing: `npm install` in tests/web")
@pytest.mark.parametrize("path", ["admin", "faq", "docs"])
async def test_other_pages_are_for_everybody(server: Serving, path: str) -> None:
    async with clean(server, None, path) as page:
        await expect(page.locator("h1")).not_to_be_empty()
        assert await troubles(page) == []
        await page.set_viewport_size({"width": 320, "height": 568})
        assert await page.evaluate("() => document.documentElement.scrollWidth") <= 320
        assert await troubles(page) == []


async def test_language_is_the_browsers_the_addresss_and_the_switchs(
    server: Serving, quiet: Path
) -> None:
    async with browse(server.url, quiet, locale="zh-CN") as page:
        state, language = page.locator("#state"), page.locator("html")
        await expect(state).to_have_text("可以开始通话")
        await expect(language).to_have_attribute("lang", "zh-CN")
        await page.goto(server.url + "?lang=en")
        await expect(state).to_have_text("Ready to call")
        await call(page)
        await page.click("#language")
        # Within the call, which goes on.
        await expect(state).to_have_text("正在听")
        await expect(language).to_have_attribute("lang", "zh-CN")
        assert await page.evaluate("() => window.omnicall.state") == "listening"
        for path in ("", "faq", "admin"):
            await page.goto(server.url + path)
            await expect(page.locator("h1")).to_have_text(CHINESE)


async def test_silent_microphone_is_noticed(server: Serving, tmp_path: Path) -> None:
    mic = tmp_path / "dead.wav"
    with wave.open(str(mic), "wb") as file:
        file.setparams((1, 2, 48_000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 48_000 * 60))
    async with browse(server.url, mic) as page:
        await call(page)
        await page.wait_for_function("() => window.omnicall.state === 'listening'")
        await expect(page.locator("#hint")).to_contain_text("No sound comes")


async def test_hush_and_pause_are_shown_as_the_server_confirms_them(
    server: Serving, quiet: Path
) -> None:
    async with browse(server.url, quiet) as page:
        await call(page)
        state, hint = page.locator("#state"), page.locator("#hint")
        await page.keyboard.press("h")
        await expect(page.locator("#hush")).to_have_attribute("aria-pressed", "true")
        await expect(hint).to_contain_text("only listens")
        await page.click("#hush")
        await expect(page.locator("#hush")).to_have_attribute("aria-pressed", "false")

        await page.click("#pause")
        await expect(state).to_have_text("Paused")
        await expect(hint).to_contain_text("Your place is kept for 00:5")
        heard = "() => window.omnicall.call.microphone.enabled"
        assert not await page.evaluate(heard)
        await page.click("#pause")
        await expect(state).to_have_text("Listening")
        assert await page.evaluate(heard)
