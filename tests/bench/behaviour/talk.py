"""`python -m tests.bench.behaviour.talk [--url URL] [--speech basic]`: a conversation.

For three minutes a caller over real WebRTC says one thing after the other, some of it over an
answer; what each side said and heard is printed with its times. To be read, not to be counted.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import time
from typing import NamedTuple

import psutil

from tests.bench.behaviour import sounds
from tests.bench.behaviour.caller import Caller, Event
from tests.serving import Serving

SESSION: Event = {"type": "realtime", "model": "omnicall"}
SHOWN = {
    "conversation.item.input_audio_transcription.completed": "heard",
    "response.output_audio_transcript.done": "answer",
    "output_audio_buffer.cleared": "cut",
    "error": "error",
}


class Line(NamedTuple):
    """Something the caller says, so long after what came before."""

    text: str
    after_s: float | None = None
    """After the answer before has begun, over it; None: a second after its end."""
    voice: str = "en-us"


LINES = (
    Line("hello"),
    Line("who are you"),
    Line("what time is it"),
    Line("what is seventeen plus twenty five"),
    Line("tell me a story"),
    Line("yeah", 4.0),
    Line("wait, what time is it", 4.0),
    Line("do you know how far the moon is from here"),
    Line("count to twenty"),
    Line("stop", 3.0),
    Line("repeat after me, the weather is very nice in the mountains"),
    Line("what do you see"),
    Line("what is nine times twelve", None, "en-gb"),
    Line("你好，现在几点了？", None, "cmn"),
    Line("what did you say"),
    Line("what is the date today", None, "en-us+f2"),
    Line("tell me another story"),
    Line("right", 5.0),
    Line("no, tell me the time please", 5.0),
    Line("thank you very much"),
)
LONGEST_ANSWER_S = 30.0


async def converse(url: str) -> None:
    async with Caller(url, SESSION) as caller:
        start = time.monotonic()
        await asyncio.sleep(1.0)
        told = 0
        for line in LINES:
            if line.after_s is not None:
                await asyncio.sleep(line.after_s)
            sound = sounds.spoken(line.text, line.voice)
            begun = await caller.mouth.say(sound)
            ended = begun + len(sound) / sounds.RATE
            print(f"{begun - start:6.1f} caller  {line.text}")
            await asyncio.sleep(max(0.0, ended - time.monotonic()))
            first = await _first_sound(caller, ended)
            waited = "nothing" if first is None else f"{(first - ended) * 1000:.0f} ms"
            follows = LINES[LINES.index(line) + 1 :][:1]
            if not follows or follows[0].after_s is None:
                await caller.quiet(1.0, LONGEST_ANSWER_S)
            for at, event in caller.events[told:]:
                if event["type"] in SHOWN:
                    text = event.get("transcript") or event.get("error", {}).get("message", "")
                    print(f"{at - start:6.1f} {SHOWN[event['type']]:7} {text}")
            told = len(caller.events)
            print(f"       sound behind it: {waited}", flush=True)


async def _first_sound(caller: Caller, since: float) -> float | None:
    while time.monotonic() < since + 4.0:
        if found := caller.ear.loud(since, time.monotonic()):
            return found[0]
        await asyncio.sleep(0.01)
    return None


def _cpu_s(pid: int) -> float:
    """CPU seconds of a process and all below it."""
    root = psutil.Process(pid)
    times = [process.cpu_times() for process in [root, *root.children(recursive=True)]]
    return sum(time.user + time.system for time in times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", help="a server that is there; else one is started")
    parser.add_argument("--speech", default="auto")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        url = options.url
        if url is None:
            speech = {"OMNICALL_BUILTIN_SPEECH": options.speech}
            serving = stack.enter_context(Serving(environment=speech))
            url = serving.url
            before_s = _cpu_s(serving.pid)
        begun = time.monotonic()
        asyncio.run(converse(url))
        if options.url is None:
            share = (_cpu_s(serving.pid) - before_s) / (time.monotonic() - begun)
            print(f"the server took {share:.2f} of a core")
    return 0


if __name__ == "__main__":
    sys.exit(main())
