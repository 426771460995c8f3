"""Compose the processes from the configuration, serve, and end everything in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator
from functools import partial
from importlib import metadata
from pathlib import Path

import msgspec
from aiohttp import web
from msgspec.structs import replace

from engine.config import EngineConfig
from engine.ipc.child_process import LoopLag
from server import recordings
from server.config import Config, DataConfig, MediaConfig
from server.control import Inbound, WorkerConfig, encode_worker
from server.front import acceptor
from server.front import app as application
from server.front.entrance import StartError, data_folder, listen, tls_context, url
from server.front.feedback import FeedbackBox
from server.front.front import Front
from server.front.legacy import Legacy
from server.front.preset_shelf import PresetShelf
from server.front.processes import KeptProcesses
from server.front.recording_shelf import RecordingShelf
from server.front.socket_folder import SocketFolder
from server.front.supervisor import ChildFailed, ChildSpec, Supervisor
from server.front.telemetry import Telemetry
from server.front.voice_routes import VoiceRoutes
from server.front.voices import VoiceDesk
from server.keeper.keeper import AT_ONCE, STOPS, Inheritance
from signaling.http.auth import ApiKey, Authenticator, Limits
from signaling.http.ice_servers import IceServers
from signaling.http.proxies import TrustedProxies
from signaling.ice_servers import TurnLogin

WORKER_READY_TIMEOUT_S = 60.0
STOP_GRACE_S = 2.2
HTTP_GRACE_S = 0.3
CALLS_A_WORKER = 16
"""With cameras they take 0.7 of a core."""
MOST_WORKERS = 64
NO_LIMIT_PER_MINUTE = 1_000_000

log = logging.getLogger(__name__)


def version() -> str:
    try:
        return metadata.version("omnicall")
    except metadata.PackageNotFoundError:
        return "0.0.0+uninstalled"


def num_workers(config: Config, cores: int | None = None) -> int:
    """Media workers to start: as configured, or as many as the engines' calls need and the cores
    carry."""
    if config.media.workers != "auto":
        return config.media.workers
    cores = cores or len(os.sched_getaffinity(0))
    needed = -(-config.engine.count * config.engine.slots // CALLS_A_WORKER)
    return max(1, min(needed, cores // 2, MOST_WORKERS))


def specs(config: Config, folder: Path) -> list[ChildSpec]:
    """The children to start. Engines listen at an address of their own in each life."""
    control = f"ipc://{folder}/control"

    def engine(index: int) -> ChildSpec:
        name = f"engine-{index}"

        def payload(generation: int, secret: str) -> bytes:
            return msgspec.json.encode(
                EngineConfig(
                    kind=config.engine.kind,
                    name=f"{name}#{generation}",
                    endpoint=f"ipc://{folder}/{name}.{generation}",
                    control=control,
                    secret=secret,
                    slots=config.engine.slots + config.chat.slots,
                    gpu_memory_gib=config.engine.gpu_memory_gib,
                    gpu=index if config.engine.count > 1 else None,
                    model=config.engine.model,
                    script=config.engine.script,
                    voice_cache=str(data_folder(config) / "prepared"),
                    builtin=config.builtin,
                    minicpmo=config.minicpmo,
                    delegate=config.delegate,
                    log_level=config.log.level,
                    log_file=config.log.file,
                    log_max_mb=config.log.max_mb,
                )
            )

        return ChildSpec("engine", name, "engine.process", payload, config.engine.ready_timeout_s)

    def worker(index: int) -> ChildSpec:
        name = f"worker-{index}"

        def payload(generation: int, secret: str) -> bytes:
            whole = msgspec.json.encode(replace(config, data=DataConfig(str(data_folder(config)))))
            return encode_worker(WorkerConfig(f"{name}#{generation}", control, whole, secret))

        return ChildSpec("worker", name, "server.worker.worker", payload, WORKER_READY_TIMEOUT_S)

    return [*map(engine, range(config.engine.count)), *map(worker, range(num_workers(config)))]


def ice_servers(media: MediaConfig) -> IceServers:
    """Return the servers that callers are told: a lasting password only if it is configured."""
    login = None
    if media.turn_secret:
        login = TurnLogin(secret=media.turn_secret, lifetime_s=media.turn_lifetime_s)
    elif media.turn_share_password:
        login = TurnLogin(media.turn_user, media.turn_password)
    return IceServers(media.stun, media.turn, login)


def _leaf(error: BaseException) -> BaseException:
    """The first exception of a group that is not a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


@contextlib.asynccontextmanager
async def _in_order(
    front: Front, supervisor: Supervisor, folder: SocketFolder, runner: web.AppRunner
) -> AsyncIterator[None]:
    """End everything after a stop, or a start that fails.

    After a bug nothing but this process ends: another front takes over its children and calls.
    """
    is_over = False
    try:
        yield
        is_over = True
    except StartError:
        is_over = True
        raise
    finally:
        front.drain()
        if is_over:
            await supervisor.stop(STOP_GRACE_S)
        await runner.cleanup()
        supervisor.close()
        if is_over:
            folder.remove()


class Launch:
    """One run of the server, from the bound socket to the last child's end."""

    def __init__(self, config: Config, found: Inheritance) -> None:
        """`found`: what the keeper holds for this front."""
        # The next front has as many media workers, on however many cores it finds itself.
        workers = replace(config.media, workers=num_workers(config))
        config = self._config = replace(config, media=workers)
        self._found = found
        self._started = time.monotonic()
        self._stop = asyncio.Event()
        self._proxies = TrustedProxies(config.server.trusted_proxies, config.server.proxy_header)
        self._key = config.auth.key

    async def run(self) -> None:
        """Serve until SIGINT or SIGTERM. Raises `StartError`."""
        config = self._config
        kept = KeptProcesses(self._found)
        legacy = Legacy(kept)
        legacy.leave(config)
        listening = legacy.listening(partial(listen, config.server.host, config.server.port))
        if config.needs_key and not self._key:
            self._key = legacy.key()
        self._show(f"omnicall {version()}, engine {config.engine.kind}")
        if self._found.ended:
            log.warning("the front before was %s; this one takes its place", self._found.ended)
        tls = tls_context(config, self._show)
        folder = legacy.folder()
        desk = VoiceDesk(data_folder(config) / "voices", config.voices.max_count)
        await desk.load()
        front = Front(
            max_queue=config.calls.max_queue,
            max_per_remote=config.calls.max_per_remote,
            max_per_key=config.calls.max_per_key,
            grace_s=config.calls.grace_s,
            hurried_grace_s=config.calls.hurried_grace_s,
            max_connecting=config.calls.max_connecting,
            chat=config.chat,
            call_slots=config.engine.slots,
            voices=desk,
            resume_secret=legacy.resume_secret(),
            life=self._found.life,
            show=self._show,
        )
        control = f"ipc://{folder.path}/control"
        supervisor = Supervisor(specs(config, folder.path), control, Inbound, front, processes=kept)
        front.attach(supervisor)
        self._handle_signals(supervisor, folder)
        lag = LoopLag()
        telemetry = Telemetry(front, version(), config.engine.kind, lag)
        shelf = PresetShelf(Path(config.presets.dir) if config.presets.dir else None)
        await shelf.refresh()
        recorded = self._recordings(front)
        site = self._application(front, telemetry, shelf, desk, recorded, kept)
        runner = acceptor.runner(site, HTTP_GRACE_S)
        async with _in_order(front, supervisor, folder, runner):
            await runner.setup()
            connections = self._acceptor(listening, runner, tls)
            telemetry.connections = connections.counts
            await self._serve(front, supervisor, lag, folder, connections, recorded, kept)

    def _recordings(self, front: Front) -> RecordingShelf:
        wanted = self._config.recordings
        return RecordingShelf(
            data_folder(self._config) / recordings.FOLDER,
            front.desk,
            enabled=wanted.enabled,
            max_bytes=wanted.max_mb * 1_000_000,
            max_days=wanted.max_days,
        )

    def _acceptor(
        self, listening: socket.socket, runner: web.AppRunner, tls: ssl.SSLContext | None
    ) -> acceptor.HttpAcceptor:
        assert runner.server is not None
        most = min(
            self._config.server.max_connections, acceptor.raise_file_limit() - acceptor.SPARE_FILES
        )
        return acceptor.HttpAcceptor(
            listening,
            runner.server,
            most=max(acceptor.FEWEST, most),
            proxies=self._proxies,
            tls=tls,
        )

    async def _serve(
        self,
        front: Front,
        supervisor: Supervisor,
        lag: LoopLag,
        folder: SocketFolder,
        connections: acceptor.HttpAcceptor,
        recorded: RecordingShelf,
        kept: KeptProcesses,
    ) -> None:
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [
                    tasks.create_task(supervisor.run(), name="supervisor"),
                    tasks.create_task(lag.run(), name="lag"),
                    tasks.create_task(folder.keep(), name="folder"),
                ]
                stopping = tasks.create_task(self._stop.wait(), name="stop")
                taking = tasks.create_task(front.take_over(), name="takeover")
                await asyncio.wait([stopping, taking], return_when=asyncio.FIRST_COMPLETED)
                running.append(taking)
                chats = None
                if not self._stop.is_set():
                    kept.serves()
                    serving = (
                        ("acceptor", connections.run()),
                        ("recordings", recorded.run()),
                        ("announce", self._announce(supervisor, connections.port)),
                    )
                    running += [tasks.create_task(work, name=name) for name, work in serving]
                    chats = tasks.create_task(front.chats.run(), name="chats")
                await stopping
                self._show(f"stopping; telling {len(front.calls)} open calls")
                front.drain()
                if chats is not None:
                    chats.cancel()
                await supervisor.stop(STOP_GRACE_S)
                for task in running:
                    task.cancel()
        except ExceptionGroup as group:
            failed = group.subgroup(ChildFailed)
            if failed is None:
                raise
            raise StartError(str(_leaf(failed))) from None

    async def _announce(self, supervisor: Supervisor, port: int) -> None:
        for child in supervisor.children.values():
            await child.is_ready.wait()
        address = url(self._config, port, self._key)
        self._show(f"ready after {time.monotonic() - self._started:.1f} s: open {address}")
        if not self._config.on_loopback and not self._config.uses_tls:
            self._show("without TLS browsers give no microphone to pages of another machine")

    def _application(
        self,
        front: Front,
        telemetry: Telemetry,
        shelf: PresetShelf,
        desk: VoiceDesk,
        recorded: RecordingShelf,
        kept: KeptProcesses,
    ) -> web.Application:
        config = self._config
        # Whoever is on this machine can load it without our help.
        per_minute = config.auth.calls_per_minute if self._key else NO_LIMIT_PER_MINUTE
        auth = Authenticator(
            (ApiKey("access", self._key, "admin"),) if self._key else (),
            is_keyless=not self._key,
            allowed_origins=config.server.allowed_origins,
            memory=kept,
            limits=Limits(calls_per_minute=per_minute, calls_burst=max(20.0, per_minute / 10)),
        )
        info = {
            "name": "omnicall",
            "version": version(),
            "auth_required": bool(self._key),
            "kind": config.engine.kind,
            "modes": config.calls.modes,
            "recorded": config.recordings.enabled,
            "recorded_pictures": config.recordings.enabled and config.recordings.pictures,
        }
        servers = ice_servers(config.media)
        voices = VoiceRoutes(
            desk,
            front.welcomes,
            policy=config.voices.upload,
            most=config.voices.max_count,
            per_minute=config.voices.per_minute,
        )
        box = FeedbackBox(
            data_folder(config) / "feedback", front.desk, data_folder(config) / recordings.FOLDER
        )
        return application.build(
            front, telemetry, auth, info, self._proxies, servers, shelf, [voices, box, recorded]
        )

    def _handle_signals(self, supervisor: Supervisor, folder: SocketFolder) -> None:
        def at_once() -> None:
            supervisor.kill()
            folder.remove()
            os._exit(1)

        loop = asyncio.get_running_loop()
        for number in STOPS:
            # However often: a service manager signals every process, and the keeper passes it on.
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(AT_ONCE, at_once)

    def _show(self, text: str) -> None:
        try:
            sys.stdout.write(f"{time.monotonic() - self._started:6.1f} s  {text}\n")
            sys.stdout.flush()
        except OSError:
            # Whoever read this has gone: no reason to stop, nor to tell callers less.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
