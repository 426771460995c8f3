"""The client library in a page of its own, in a real Chromium against the real server.

Guards: the example of the documentation calls; a conversation outlives the process that carried its
call, with what was said before; the call page stays within what it may load.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Page, Response, Route, expect

from tests import ROOT
from tests.browser.chrome import browse, call
from tests.interop.snippets import text_of
from tests.serving import Serving
from tests.speech import microphone

MAX_REQUESTS = 60
AGENTS = "node_modules/@openai/agents-realtime/dist/bundle/openai-realtime-agents.mjs"
BUNDLE = ROOT / "tests" / "web" / AGENTS
MAX_BYTES = 250_000
BEGIN = """
async () => {
  const { OmnicallCall } = await import('/static/lib/omnicall.js');
  const call = new OmnicallCall({ mode: 'turn_based', audio: false });
  window.mine = { call, states: [], messages: [] };
  call.addEventListener('state', ({ detail }) => window.mine.states.push(detail.state));
  call.addEventListener('message', ({ detail }) => window.mine.messages.push(detail));
  await call.connect();
  return call.id;
}
"""
ANSWERED = """
(count) => window.mine.call.captions.list()
  .filter(row => row.role === 'assistant' && row.status === 'done').length >= count
"""
SAID = "() => window.mine.call.captions.list().map(row => [row.role, row.text])"
CONTINUED = """
() => window.mine.messages.find(event => event.type === 'session.continued')
  ?.items.map(item => item.role)
"""


async def ask(page: Page, text: str, answers: int) -> list[Any]:
    await page.evaluate("text => window.mine.call.write(text)", text)
    await page.wait_for_function(ANSWERED, arg=answers)
    said: list[Any] = await page.evaluate(SAID)
    return said


async def test_example_of_the_documentation_calls(server: Serving, tmp_path: Path) -> None:
    async def serve(route: Route) -> None:
        await route.fulfill(content_type="text/html", body=text_of("omnicall-js"))

    # Again: where connecting takes 3 s, only the rest of the first one is heard.
    said = [(3.0 + 8 * i, "what_time") for i in range(7)]
    mic = microphone(tmp_path / "mic.wav", said, 60)
    async with browse("about:blank", mic) as page:
        await page.route("**/mine.html", serve)
        await page.goto(server.url + "mine.html")
        await page.click("#call")
        await expect(page.locator("#state")).to_have_text("connected")
        captions = page.locator("#captions")
        await expect(captions).to_contain_text("assistant: It is")
        await page.fill("#text", "hello")
        await page.press("#text", "Enter")
        await expect(captions).to_contain_text("user: hello")
        await page.click("#hangup")
        await expect(page.locator("#state")).to_have_text("The call was hung up.")


async def test_example_of_the_agents_sdk_calls(server: Serving, tmp_path: Path) -> None:
    if not BUNDLE.is_file():
        pytest.skip("not installed: npm install, in tests/web")
    example = text_of("agents-page").replace("http://localhost:8006/", server.url)
    imports = json.dumps({"imports": {"@openai/agents-realtime": f"/sdk/{BUNDLE.name}"}})
    body = f"""<!doctype html><title>-</title><script type="importmap">{imports}</script>
        <script type="module">{example}\ndocument.title = 'connected';</script>"""

    async def serve(route: Route) -> None:
        await route.fulfill(content_type="text/html", body=body)

    async def bundle(route: Route) -> None:
        await route.fulfill(
            content_type="text/javascript",
            path=BUNDLE.parent / route.request.url.rpartition("/")[2],
        )

    async with browse("about:blank", microphone(tmp_path / "mic.wav", [], 10)) as page:
        await page.route("**/agents.html", serve)
        await page.route("**/sdk/*.mjs", bundle)
        await page.goto(server.url + "agents.html")
        await expect(page).to_have_title("connected")


async def test_conversation_outlives_its_media_worker(tmp_path: Path) -> None:
    with Serving("--engine", "builtin") as serving:
        async with browse(serving.url + "admin") as page:
            call_id = await page.evaluate(BEGIN)
            before = await ask(page, "what time is it", 1)
            # The words are handed over once a second.
            await asyncio.sleep(1.5)
            os.kill(serving.process("worker")["pid"], signal.SIGKILL)
            await page.wait_for_function("() => window.mine.states.includes('reconnecting')")
            continued = await page.wait_for_function(CONTINUED)
            assert await continued.json_value() == ["user", "assistant"]
            assert await page.evaluate("() => window.mine.call.id") == call_id
            after = await ask(page, "what day is it", 2)
            assert after[:2] == before and len(after) == 4
            assert after[2] == ["user", "what day is it"]
            await page.evaluate("() => window.mine.call.hangUp()")
            assert await page.evaluate("() => window.mine.states.at(-1)") == "ended"


async def on_the_wire(answer: Response) -> int:
    """What the answer's body took, packed as it was."""
    return (await answer.request.sizes())["responseBodySize"]


async def test_call_page_loads_little(server: Serving, tmp_path: Path) -> None:
    mic = microphone(tmp_path / "mic.wav", [], 30)
    answers: list[Response] = []
    async with browse("about:blank", mic) as page:
        page.on("response", lambda answer: answers.append(answer))
        await page.goto(server.url)
        await call(page)
        sizes = {answer.url: await on_the_wire(answer) for answer in answers}
    assert len(sizes) > 20, "the page loaded too little to be counted"
    assert len(sizes) <= MAX_REQUESTS and sum(sizes.values()) <= MAX_BYTES, (
        len(sizes),
        sum(sizes.values()),
    )
    assert not [url for url in sizes if not url.startswith(server.url)]
