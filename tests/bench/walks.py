"""How far a reader goes: the functions on the main route of a piece of work, and their files.

    python -m tests.bench.walks [--list WALK] [--json]

A server with a tiny random model on the CPU is called twice: one caller speaks, another one types
and asks for answers. On the main route are functions that call another one of ours, in at least
half of the runs; what calls none is read by its name. A walk ends where another one begins.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tests import ROOT
from tests.bench import call_trace
from tests.bench.call_trace import Edges
from tests.caller import Caller
from tests.serving import Serving

SHARE = 0.5
"""Of the runs."""
LONGEST_S = 180.0
SPEAKING_S = 20.0
ANSWERS = 2


@dataclass(frozen=True)
class Leg:
    """A part of a walk, in one process and thread."""

    entry: str
    through: str = ""
    """Only runs that meet this function count."""
    until: tuple[str, ...] = ()
    """Functions whose insides belong to another walk."""


PACKET = "a1  a packet, until the engine has heard in it"
UNIT = "a2  a unit's sound, until the model reads it"
TOKEN = "b1  one token"
SPEECH = "b2  what was decided, until its sound is sent"
PLAYED = "a3  sound from the engine, until it is a packet"
REQUEST = "c   response.create, until its first events are back"

SCHEDULER = "engine/minicpmo/serving/scheduler.py:Scheduler"
LISTENER = "engine/ipc/transport.py:Listener._receive"
DIALER = "engine/ipc/transport.py:Dialer._receive"
TAKE = "engine/minicpmo/serving/session_messages.py:SessionMessages.take"
DRAIN = Leg(f"{SCHEDULER}._drain", "SessionMessages.take", (TAKE,))
SEND = Leg("engine/host.py:Host._send")
READ = "engine/minicpmo/llm/rows.py:LlmRows.append"
HEARD = "engine/minicpmo/encoders/audio.py:AudioEncoder.hear"
DOWNLINK = "media/downlink.py:AudioDownlink._on_tick"
WALKS: dict[str, tuple[Leg, ...]] = {
    PACKET: (
        Leg("media/hooks.py:take_audio.<locals>.handle", "EngineClient.send"),
        Leg(LISTENER, "Scheduler.post"),
        DRAIN,
        Leg(TAKE, "AudioInput.push"),
    ),
    UNIT: (
        Leg(
            "engine/minicpmo/modes/full_duplex.py:FullDuplex.start",
            "DuplexBatch.prefill",
            (READ, HEARD),
        ),
    ),
    TOKEN: (Leg("engine/minicpmo/modes/modes.py:step", "DuplexState.decide"),),
    SPEECH: (
        Leg("engine/minicpmo/speech/worker.py:SpeechWorker.step", "SpeechPipeline.unit"),
        Leg(f"{SCHEDULER}._spoken", "UnitSpeech._spoken"),
        SEND,
    ),
    PLAYED: (Leg(DIALER, "Playout.push"), Leg(DOWNLINK, "OpusEncoder.encode")),
    REQUEST: (
        Leg("signaling/channel.py:EventChannel._on_message", "create_response"),
        Leg(LISTENER, "Scheduler.post"),
        DRAIN,
        Leg(TAKE, "HalfDuplex.ask"),
        Leg(
            "engine/minicpmo/modes/half_duplex.py:HalfDuplex.read_on",
            "AudioOutput.begin",
            (READ,),
        ),
        SEND,
        Leg(DIALER, "SessionResponses.begin"),
    ),
}


def walked(edges: Edges, until: tuple[str, ...]) -> list[str]:
    """The functions that call another one, or that end the walk, in the order of their calls."""
    met: dict[str, None] = {}
    for caller, name in edges:
        if not caller or (caller in met and caller not in until):
            met[name] = None
    calling = {caller for caller, name in edges if caller in met and name in met}
    return [name for name in met if name in calling or name in until]


def route(runs: Sequence[Edges], leg: Leg) -> list[str]:
    """What is on the main route of a part of a walk."""
    counted = [
        walked(edges, leg.until)
        for edges in runs
        if not leg.through or any(name.endswith(leg.through) for _, name in edges)
    ]
    if not counted:
        raise ValueError(f"{leg.entry} was never run through {leg.through or 'anything'}")
    often = Counter(name for names in counted for name in names)
    order = dict.fromkeys(name for names in sorted(counted, key=len)[::-1] for name in names)
    return [name for name in order if often[name] >= SHARE * len(counted)]


def routes(out: Path, walks: dict[str, tuple[Leg, ...]]) -> dict[str, list[str]]:
    """The main routes of walks whose runs were noted in a folder."""
    runs = call_trace.runs(out)
    return {
        walk: [*dict.fromkeys(f for leg in legs for f in route(runs.get(leg.entry, []), leg))]
        for walk, legs in walks.items()
    }


async def talk(url: str) -> None:
    """Speak until there is an answer and it has gone on for a while; then type, and ask."""
    async with Caller(url) as one:
        await one.hears("session.created", timeout_s=LONGEST_S)
        one.voice.say("tell_story")
        await one.hears("output_audio_buffer.started", timeout_s=LONGEST_S)
        await asyncio.sleep(SPEAKING_S)
    turns = {"type": "realtime", "audio": {"input": {"turn_detection": None}}}
    async with Caller(url, session=turns) as two:
        await two.hears("session.created", timeout_s=LONGEST_S)
        for count in range(1, ANSWERS + 1):
            two.type("hello")
            await two.hears("response.created", count=count, timeout_s=LONGEST_S)
            two.send("response.cancel")
            await two.hears("response.done", count=count, timeout_s=LONGEST_S)


def measure() -> dict[str, list[str]]:
    from tests.tiny_checkpoint import write_checkpoint

    entries = {leg.entry for legs in WALKS.values() for leg in legs}
    with tempfile.TemporaryDirectory() as folder:
        model, out = Path(folder, "model"), Path(folder, "runs")
        out.mkdir()
        write_checkpoint(model, seed=3)
        settings = ("minicpmo.device=cpu", "minicpmo.max_context=1700", "minicpmo.flow_steps=1")
        given = [word for setting in settings for word in ("--set", setting)]
        traced = call_trace.environment(ROOT, out, entries) | {"OMP_NUM_THREADS": "1"}
        options = ("--engine", "minicpmo", "--model", str(model), *given)
        with Serving(*options, environment=traced) as server:
            asyncio.run(talk(server.url))
        return routes(out, WALKS)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--list", default="", metavar="WALK", help="functions of walks so called")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    walks = measure()
    counts = {
        walk: {"functions": len(met), "files": len({name.split(":")[0] for name in met})}
        for walk, met in walks.items()
    }
    if options.json:
        print(json.dumps(counts, indent=1))
        return 0
    for walk, count in counts.items():
        print(f"{count['functions']:4d} / {count['files']:2d}  {walk}")
        if options.list and options.list in walk:
            print("".join(f"             {name}\n" for name in walks[walk]), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
