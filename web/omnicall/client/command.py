"""`omnicall call URL`: place a call, say or write something, print what both sides say."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Sequence
from pathlib import Path

import omnicall.client
from omnicall.client.call import TURN_DETECTION, Call
from omnicall.client.carrier import Event
from omnicall.client.errors import ClientError
from omnicall.client.replies import Reply
from omnicall.client.sound import Recorder

SPEAKERS = {"user": "you", "assistant": "assistant"}
KEY_VARIABLE = "OMNICALL_KEY"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="omnicall call",
        description="Call a server from the terminal; what both sides say is printed. Without "
        "--wav, --text and --show each line of the standard input is written to the model.",
    )
    made.add_argument("url", help="the server, as http://localhost:8006")
    made.add_argument("--key", help=f"access key; the variable {KEY_VARIABLE} otherwise")
    made.add_argument("--ca", metavar="FILE", help="certificate to trust, as of a server's --tls")
    made.add_argument("--mode", choices=TURN_DETECTION, help="who speaks when")
    made.add_argument("--ws", action="store_true", help="a WebSocket instead of WebRTC")
    made.add_argument("--text", action="append", default=[], help="write this; may be repeated")
    made.add_argument("--wav", action="append", default=[], help="say this file; may be repeated")
    made.add_argument("--show", action="append", default=[], help="show this picture or video")
    made.add_argument("--record", metavar="WAV", help="keep what the other side says")
    made.add_argument("--wait", type=float, default=30.0, help="seconds to wait for each answer")
    return made


class AnswerProgress:
    """Whether the other side is answering, from its events."""

    def __init__(self) -> None:
        self.answers = 0
        self._is_answering = False
        self._is_playing = False
        self._changed = asyncio.Event()

    def apply(self, event: Event) -> None:
        match event.get("type"):
            case "response.created":
                self._is_answering = True
            case "response.done":
                self._is_answering = False
                self.answers += 1
            case "output_audio_buffer.started":
                self._is_playing = True
            case "output_audio_buffer.stopped" | "output_audio_buffer.cleared":
                self._is_playing = False
        self._changed.set()

    async def rest(self, answers: int) -> None:
        """Until so many answers were given, and the last was played."""
        while self.answers < answers or self._is_answering or self._is_playing:
            self._changed.clear()
            await self._changed.wait()


async def run(args: argparse.Namespace) -> None:
    """Place the call that the arguments tell of. Raises `ClientError`, `TimeoutError`."""
    call = omnicall.client.call(
        args.url,
        key=args.key or os.environ.get(KEY_VARIABLE),
        mode=args.mode,
        transport="websocket" if args.ws else "webrtc",
        tls=_trust(args.ca) if args.ca else None,
    )
    async with call:
        print(f"connected, {args.mode or 'mode of the server'}", file=sys.stderr)
        progress = AnswerProgress()
        async with _followed(call, progress, args.record):
            await _converse(call, progress, args)


def _trust(path: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError as error:
        raise ClientError(f"{path} holds no certificate: {error.reason}") from error


@contextlib.asynccontextmanager
async def _followed(
    call: Call, progress: AnswerProgress, record: str | None
) -> AsyncIterator[None]:
    """In the block what comes is printed and kept; what came by its end is, too."""
    with contextlib.ExitStack() as files:
        recorder = files.enter_context(contextlib.closing(Recorder(record))) if record else None
        async with asyncio.TaskGroup() as group:
            group.create_task(_print_captions(call))
            group.create_task(_follow_events(call, progress))
            if recorder is not None:
                group.create_task(_record(call, recorder))
            yield
            await call.hang_up()


async def _print_captions(call: Call) -> None:
    async for caption in call.captions:
        if caption.is_final and caption.text:
            print(f"{SPEAKERS[caption.role]}: {caption.text}", flush=True)


async def _follow_events(call: Call, progress: AnswerProgress) -> None:
    async for event in call.events:
        progress.apply(event)
        told = event.get("error") if event["type"] == "error" else event
        if event["type"] in ("error", "session.warning") and told:
            print(f"server: {told.get('message')}", file=sys.stderr)


async def _record(call: Call, recorder: Recorder) -> None:
    async for pcm in call.sound:
        await asyncio.to_thread(recorder.add, pcm)


async def _converse(call: Call, progress: AnswerProgress, args: argparse.Namespace) -> None:
    for path in args.wav:
        await call.say_file(path)
        await call.said()
        wanted = progress.answers + 1
        async with asyncio.timeout(args.wait):
            if args.mode == "turn_based":
                await call.commit()
            await progress.rest(wanted)
    for path in args.show:
        await _answered(call.show(path), progress, args.wait)
    for text in args.text:
        print(f"you: {text}", flush=True)
        await _answered(call.ask(text), progress, args.wait)
    if not (args.wav or args.show or args.text):
        async for line in _lines():
            await _answered(call.ask(line), progress, args.wait)


async def _answered(question: Awaitable[Reply], progress: AnswerProgress, wait_s: float) -> None:
    wanted = progress.answers + 1
    async with asyncio.timeout(wait_s):
        await question
        await progress.rest(wanted)


async def _lines() -> AsyncIterator[str]:
    """Of the standard input, without blanks."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        if text := line.decode(errors="replace").strip():
            yield text


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code: 0, 1 where the call failed, 2 for bad arguments, 130 after Ctrl-C."""
    args = parser().parse_args(argv)
    for path in (*args.wav, *args.show, *([args.ca] if args.ca else [])):
        if not Path(path).is_file():
            print(f"omnicall: {path} is no file", file=sys.stderr)
            return 2
    code = 0
    try:
        asyncio.run(run(args))
    except* (ClientError, ValueError) as errors:
        print(f"omnicall: {_first(errors)}", file=sys.stderr)
        code = 1
    except* TimeoutError:
        print(f"omnicall: no answer within {args.wait:g} s", file=sys.stderr)
        code = 1
    except* KeyboardInterrupt:
        code = 130
    return code


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    first = errors.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
