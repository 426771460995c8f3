"""An engine process: build the engine, say `Ready`, serve sessions, end in order."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from typing import TYPE_CHECKING

import msgspec
import uvloop

from engine.base import BehindIngest, Engine, EngineError, VoiceTaker
from engine.config import BuiltinConfig, DelegateConfig, EngineConfig, TranscriptionConfig
from engine.gpus import bound_threads, see_only
from engine.host import Host, SessionMaker
from engine.hub import Fetching, unheard
from engine.ingest.child import Ingest
from engine.ipc.child_process import Child, LoopLag, process_usage
from engine.ipc.cycles import CycleCollector
from engine.ipc.lifeline import OOM_ENGINE, die_with_parent, go_before_parent
from engine.ipc.logs import log_to
from engine.ipc.supervision import (
    EXIT_FATAL,
    OWN_VOICES_ONLY,
    DefaultVoice,
    DropVoice,
    EngineStats,
    KeepVoice,
    Ready,
    VoiceReport,
    WorkerGone,
)
from engine.scribe import Scribe

if TYPE_CHECKING:
    from engine.delegate.delegate import Delegate

log = logging.getLogger(__name__)

STATS_INTERVAL_S = 1.0


def build(config: EngineConfig, fetching: Fetching = unheard) -> Engine:
    """The engine that `config.kind` names; each is imported only when it is the one wanted.

    `fetching` hears of downloads, on the event loop.
    """
    match config.kind:
        case "echo":
            from engine.echo import EchoEngine

            return EchoEngine(config.slots)
        case "builtin":
            from engine.builtin.engine import BuiltinEngine

            return BuiltinEngine(config.builtin, config.slots)
        case "scripted":
            from engine.scripted.engine import ScriptedEngine

            return ScriptedEngine(config.script, config.slots)
        case "minicpmo":
            if config.gpu is not None and config.minicpmo.device != "cpu":
                see_only(config.gpu)
            bound_threads()
            try:
                from engine.minicpmo.engine import MiniCpmoEngine
            except ImportError as error:
                raise EngineError(
                    f"the minicpmo engine needs more packages ({error.name} is missing): "
                    "pip install 'omnicall[minicpmo]'"
                ) from error
            return MiniCpmoEngine(
                config.model,
                config.slots,
                config.minicpmo,
                fetching,
                config.voice_cache,
                scribe_of(config.minicpmo.transcription, config.builtin),
                memory_gib=config.gpu_memory_gib,
            )


def scribe_of(config: TranscriptionConfig, builtin: BuiltinConfig) -> Scribe | None:
    """Who writes down what callers say, imported only when wanted. `builtin`: its ears."""
    if config.url:
        from engine.transcription_endpoint import TranscriptionEndpoint

        return TranscriptionEndpoint(config)
    if config.builtin:
        from engine.builtin.scribe import BuiltinScribe

        return BuiltinScribe(builtin)
    return None


async def delegate_of(config: DelegateConfig, engine: Engine) -> Delegate | None:
    """The text model that full-duplex sessions hand tasks to, imported only when wanted; raises
    `EngineError`. The engine has started.
    """
    if not config.chat.url:
        return None
    from engine.delegate.delegate import Delegate

    delegate = Delegate(config, engine)
    try:
        await delegate.start()
    except EngineError:
        await asyncio.gather(delegate.close(), engine.close())
        raise
    return delegate


async def _report(
    child: Child, engine: Engine, host: Host, lag: LoopLag, ingest: Ingest | None
) -> None:
    while True:
        await asyncio.sleep(STATS_INTERVAL_S)
        cpu_s, rss_bytes = process_usage()
        pending_ms = engine.pending_ms()
        pace = host.headroom.pace(host.slots.used, pending_ms)
        child.send(
            EngineStats(
                slots=host.slots.count,
                slots_used=host.slots.used,
                capacity=pace.capacity,
                unit_p99_ms=pace.unit_p99_ms,
                late_share=pace.late_share,
                oldest_pending_ms=pending_ms,
                dropped_ms=host.dropped_ms,
                units=host.stages.units,
                stages_ms=host.stages.summary(),
                cpu_s=cpu_s + (0.0 if ingest is None else ingest.cpu_s),
                rss_bytes=rss_bytes,
                loop_lag_ms=lag.take(),
                tasks=len(asyncio.all_tasks()),
            )
        )


async def _close(engine: Engine, delegate: Delegate | None, ingest: Ingest | None) -> None:
    beside = [] if delegate is None else [delegate.close()]
    if ingest is not None:
        beside.append(ingest.stop())
    await asyncio.gather(engine.close(), *beside)


async def _serve(
    child: Child, engine: Engine, host: Host, cycles: CycleCollector, ingest: Ingest | None
) -> None:
    lag = LoopLag()
    async with asyncio.TaskGroup() as tasks:
        background = [
            tasks.create_task(host.run(), name="sweep"),
            tasks.create_task(lag.run(), name="lag"),
            tasks.create_task(cycles.run(), name="cycles"),
            tasks.create_task(_report(child, engine, host, lag, ingest), name="report"),
        ]
        if ingest is not None:
            background.append(tasks.create_task(ingest.run(), name="ingest"))
        await child.stop.wait()
        for task in background:
            task.cancel()


def _voice(child: Child, engine: Engine, message: KeepVoice | DropVoice | DefaultVoice) -> None:
    """Carry out what the supervisor says of uploaded voices."""
    if not isinstance(engine, VoiceTaker):
        if isinstance(message, KeepVoice):
            child.send(VoiceReport(message.voice, "unsupported", OWN_VOICES_ONLY))
        return
    match message:
        case KeepVoice():
            engine.keep_voice(message.voice, message.sound, child.send)
        case DropVoice():
            engine.drop_voice(message.voice)
        case DefaultVoice():
            engine.default_voice(message.voice)


async def run(config: EngineConfig) -> int:
    """Serve until told to stop; returns the exit code."""
    started = time.monotonic()
    hosts: list[Host] = []

    def told(message: WorkerGone | KeepVoice | DropVoice | DefaultVoice) -> None:
        for host in hosts:
            if isinstance(message, WorkerGone):
                host.worker_gone(message.name)
            else:
                _voice(child, engine, message)

    child = Child(config.control, config.name, config.secret, on_message=told)
    try:
        engine = build(config, child.fetching)
        await engine.start(child.progress)
        delegate = await delegate_of(config.delegate, engine)
    except EngineError as error:
        child.fatal(str(error))
        child.close()
        return EXIT_FATAL
    cycles = CycleCollector()
    wants_ingest = isinstance(engine, BehindIngest) and engine.is_behind_ingest
    ingest = Ingest(config) if wants_ingest else None
    sessions: SessionMaker = delegate or engine
    host = Host(
        sessions,
        config.endpoint if ingest is None else ingest.inner,
        engine.slots,
        on_closed=cycles.ended,
        is_behind_ingest=ingest is not None,
    )
    hosts.append(host)
    failure = ""
    try:
        if ingest is not None:
            await ingest.start()
        build_ms = (time.monotonic() - started) * 1000
        endpoint = host.endpoint if ingest is None else ingest.endpoint
        child.send(Ready(os.getpid(), endpoint, sessions.welcome(engine.slots), round(build_ms, 1)))
        await _serve(child, engine, host, cycles, ingest)
    except* EngineError as failed:
        failure = str(failed.exceptions[0])
        log.error("no session can be served any more: %s", failure)
        child.fatal(failure)
    finally:
        await host.close(has_failed=bool(failure))
        await _close(engine, delegate, ingest)
        child.close()
    return EXIT_FATAL if failure else 0


def main() -> None:
    """Entry of the child: the parent's pid is the argument, the configuration comes on stdin."""
    die_with_parent(int(sys.argv[1]))
    go_before_parent(OOM_ENGINE)
    config = msgspec.json.decode(sys.stdin.buffer.readline(), type=EngineConfig)
    log_to(config.name, config.log_level, config.log_file, config.log_max_mb)
    sys.exit(uvloop.run(run(config)))
