"""The native engine: MiniCPM-o 4.5 behind the protocol that every engine speaks."""

from __future__ import annotations

import asyncio
import gc
import logging
import secrets
from functools import partial
from pathlib import Path

import torch

from engine.base import EngineError, EngineSession, Progress, Send, TellVoice
from engine.config import MiniCpmoConfig
from engine.files.decoder import FileDecoder
from engine.gpu.kernels.loader import Kernel
from engine.gpu.memory import limit
from engine.gpu.weights import CheckpointError
from engine.hub import Fetching, HubError, locate, unheard
from engine.ingest.messages import SoundHeard
from engine.ipc.protocol import VERSION, FromEngine, Mode, SessionConfig, SessionMessage, Welcome
from engine.ipc.supervision import VoiceReport
from engine.minicpmo.checkpoint import OmniModel, best_device, load
from engine.minicpmo.memory_plan import after_warm_up, free_bytes, plan, slot_bytes
from engine.minicpmo.models.config_reader import ConfigError
from engine.minicpmo.models.unit import RELEASED_UNIT, UnitSpec
from engine.minicpmo.runner import Runner
from engine.minicpmo.serving.orders import (
    Closing,
    KeepPrepared,
    Opening,
    PreferVoice,
    WithdrawVoice,
)
from engine.minicpmo.serving.scheduler import Scheduler
from engine.minicpmo.session.inbox import Inbox
from engine.minicpmo.session.session import Session
from engine.minicpmo.session.settings import HONOURS, OPTIONS
from engine.minicpmo.speech.pipeline import SpeechPipeline
from engine.minicpmo.speech.voice_studio import VoiceStudio
from engine.minicpmo.speech.voices import PreparedVoice, VoiceLibrary
from engine.scribe import Scribe, SessionScribe, Unwritten

log = logging.getLogger(__name__)

CLOSE_TIMEOUT_S = 10.0
TOOL_MODES: tuple[Mode, ...] = ("half_duplex", "turn_based")
CALL_HONOURS = ("tools", "tool_choice", "tool_name")


class MiniCpmoSession:
    """The loop's end of a session: hands its messages to the model's thread."""

    def __init__(
        self,
        scheduler: Scheduler,
        session: str,
        slot: int,
        send: Send,
        decoder: FileDecoder,
        scribe: SessionScribe | None,
    ) -> None:
        self._scheduler = scheduler
        self._slot = slot
        self._scribe = scribe
        self._intake = Inbox(
            session, lambda message: scheduler.post((slot, message)), send, decoder
        )

    def handle(self, message: SessionMessage) -> None:
        self._intake.push(message)

    def take_sound(self, message: SoundHeard) -> None:
        self._intake.push(message)

    async def close(self) -> None:
        """Return when the slot is clear."""
        self._intake.close()
        if self._scribe is not None:
            self._scribe.close()
        loop = asyncio.get_running_loop()
        cleared = asyncio.Event()

        def done() -> None:
            loop.call_soon_threadsafe(cleared.set)

        self._scheduler.post(Closing(self._slot, done))
        async with asyncio.timeout(CLOSE_TIMEOUT_S):
            await cleared.wait()


class MiniCpmoEngine:
    """Implements `engine.base.Engine`."""

    def __init__(
        self,
        model: str,
        slots: int,
        config: MiniCpmoConfig,
        fetching: Fetching = unheard,
        voice_cache: str = "",
        scribe: Scribe | None = None,
        *,
        memory_gib: float = 0.0,
    ) -> None:
        """`scribe` writes down what callers say; without one nobody does. `memory_gib`: what the
        engine takes of its GPU at most; 0: as much as is free."""
        self._model = model
        self._scribe = scribe
        self._fetching = fetching
        self._slots = slots
        self._config = config
        self._max_context = 0
        self._memory_gib = memory_gib
        self._scheduler: Scheduler | None = None
        self._voices: VoiceLibrary | None = None
        self._voice_cache = Path(voice_cache) if voice_cache else None
        self._studio: VoiceStudio | None = None
        self._unit: UnitSpec = RELEASED_UNIT
        """The model's, once it is loaded."""
        self._decoder = FileDecoder()

    @property
    def slots(self) -> int:
        return self._slots

    @property
    def is_behind_ingest(self) -> bool:
        """As `engine.base.BehindIngest`; known once it has started."""
        wanted = self._config.ingest
        if wanted != "auto" or self._scheduler is None:
            return wanted == "on"
        return self._scheduler.runner.model.device.type == "cuda"

    @property
    def _calls_functions(self) -> bool:
        scheduler = self._scheduler
        return scheduler is not None and scheduler.runner.model.tokens.calls_functions

    def welcome(self, slots: int) -> Welcome:
        voices = self._voices
        names = voices.names() if voices is not None else ()
        spoken = "It speaks and understands English and Chinese."
        if not names:
            spoken = "It has no prepared voice here, so it answers in text."
        return Welcome(
            version=VERSION,
            kind="minicpmo",
            label="MiniCPM-o 4.5",
            description=f"Listens, looks and speaks at the same time. {spoken}",
            slots=slots,
            modes=("full_duplex", "half_duplex", "turn_based"),
            languages=("en", "zh"),
            voices=tuple(names),
            video=True,
            transcribes=self._scribe is not None,
            writes=() if self._scribe is None else self._scribe.languages,
            unit_ms=self._unit.ms,
            context_tokens=self._max_context,
            tool_modes=TOOL_MODES if self._calls_functions else (),
            appends=("instructions", "thinking", "commentary"),
            says_texts=bool(names),
            takes_voices=voices is not None and not voices.lacks,
            voices_lack="" if voices is None else voices.lacks,
            options=tuple(OPTIONS),
            honours=HONOURS + (CALL_HONOURS if self._calls_functions else ()),
        )

    async def start(self, progress: Progress) -> None:
        """Load, warm up, start the model's thread; raises `EngineError`."""
        loop = asyncio.get_running_loop()

        def show(text: str) -> None:
            loop.call_soon_threadsafe(progress, text)

        def fetching(model: str, done_bytes: int, total_bytes: int) -> None:
            loop.call_soon_threadsafe(self._fetching, model, done_bytes, total_bytes)

        try:
            folder = await asyncio.to_thread(locate, self._model, fetching)
            await asyncio.to_thread(self._load, folder, show)
        except (HubError, CheckpointError, ConfigError, ValueError) as error:
            raise EngineError(str(error)) from error
        except torch.OutOfMemoryError as error:
            first = str(error).partition(". ")[0]
            raise EngineError(
                f"there is not enough GPU memory to start ({first}): free some on this GPU, or set "
                "engine.slots or minicpmo.max_context lower"
            ) from error
        assert self._scheduler is not None
        if self._scribe is not None:
            await self._scribe.start(progress)
        self._scheduler.start()

    def _load(self, folder: Path, show: Progress) -> None:
        wanted = self._config
        device, _ = best_device(wanted.device)
        if device.type == "cuda" and self._memory_gib:
            limit(device, self._memory_gib)
        model: OmniModel = load(
            folder,
            device=wanted.device,
            steps=wanted.flow_steps,
            show=show,
            voice_cache=self._voice_cache,
            weights=wanted.weights_dtype,
            assets=Path(wanted.assets).expanduser() if wanted.assets else None,
        )
        self._unit = model.config.unit
        max_context = min(wanted.max_context, model.config.llm.max_position_embeddings)
        show("preparing voices")
        voices = self._voices = VoiceLibrary(
            model, wanted.voice, wanted.voice_seconds, wanted.voices
        )
        voices.place(model)
        for line in voices.remarks:
            show(line)
        self._fit(model, max_context, show)
        self._max_context = max_context
        runner = Runner(model, self._slots, max_context, wanted.kv_cache_dtype)
        pipeline = SpeechPipeline(
            model,
            self._slots,
            max_prompt=voices.longest_prompt,
            speech_context=wanted.speech_context,
            first_codes=wanted.first_chunk_codes,
        )
        self._scheduler = Scheduler(runner, pipeline, voices)
        # The networks' objects live as long as the process: scanning them for garbage would
        # hold up a step by a tenth of a second, and each graph's capture as well.
        gc.collect()
        gc.freeze()
        self._scheduler.warm_up(lambda text: show(f"warming up: {text}"))
        gc.freeze()
        if model.device.type == "cuda":
            left, is_enough = after_warm_up(model.device, self._slots)
            show(left)
            if not is_enough:
                log.warning(left)
            show(Kernel.report())
            if Kernel.are_missing():
                log.warning(Kernel.report())

    def _fit(self, model: OmniModel, max_context: int, show: Progress) -> None:
        """Offer as many slots as the GPU has memory for; raises `EngineError` if there is none."""
        assert self._voices is not None, "the voices come first"
        free = free_bytes(model.device)
        if free is None:
            return
        slot = slot_bytes(
            model,
            max_context=max_context,
            speech_context=self._config.speech_context,
            max_prompt=self._voices.longest_prompt,
            kv_cache=self._config.kv_cache_dtype,
        )
        planned = plan(self._slots, free, slot, max_context)
        show(str(planned))
        self._slots = planned.slots

    def open(self, session: str, slot: int, config: SessionConfig, send: Send) -> EngineSession:
        """Begin a session; bad settings end it with a reason."""
        assert self._scheduler is not None, "start() comes first"
        loop = asyncio.get_running_loop()

        def post(message: FromEngine) -> None:
            loop.call_soon_threadsafe(send, message)

        scribe = write_down = None
        if self._scribe is not None:
            scribe = SessionScribe(session, self._scribe.for_session(), send)
            write_down = partial(_in_loop, loop, scribe)
        talk = Session(
            session,
            slot,
            config,
            secrets.randbits(48),
            post,
            unit=self._unit,
            write_down=write_down,
        )
        self._scheduler.post(Opening(talk))
        return MiniCpmoSession(self._scheduler, session, slot, send, self._decoder, scribe)

    # ------------------------------------------------------------------ uploaded voices

    def keep_voice(self, voice: str, sound: bytes, tell: TellVoice) -> None:
        """As `engine.base.VoiceTaker`: first on a thread of its own, then when the model rests."""
        assert self._scheduler is not None and self._voices is not None, "start() comes first"
        if self._voices.lacks:
            tell(VoiceReport(voice, "unsupported", self._voices.lacks))
            return
        scheduler, loop = self._scheduler, asyncio.get_running_loop()

        def told(report: VoiceReport) -> None:
            loop.call_soon_threadsafe(tell, report)

        def prepared(made: PreparedVoice) -> None:
            scheduler.post(KeepPrepared(made, told))

        def failed(voice: str, reason: str) -> None:
            told(VoiceReport(voice, "failed", reason))

        if self._studio is None:
            self._studio = VoiceStudio(scheduler.runner.model.voices)
        self._studio.prepare(voice, sound, prepared, failed)

    def drop_voice(self, voice: str) -> None:
        assert self._scheduler is not None, "start() comes first"
        self._scheduler.post(WithdrawVoice(voice))

    def default_voice(self, voice: str) -> None:
        assert self._scheduler is not None, "start() comes first"
        self._scheduler.post(PreferVoice(voice))

    def pending_ms(self) -> float:
        """The most sound of a session that waits for its unit; raises `EngineError` if broken."""
        if self._scheduler is None:
            return 0.0
        if self._scheduler.is_broken:
            raise EngineError("a thread of the engine ended with an error, see its log")
        return self._scheduler.pending_ms()

    async def close(self) -> None:
        self._decoder.close()
        if self._studio is not None:
            await asyncio.to_thread(self._studio.close)
        if self._scheduler is not None:
            await asyncio.to_thread(self._scheduler.stop)
        if self._scribe is not None:
            await self._scribe.close()


def _in_loop(loop: asyncio.AbstractEventLoop, scribe: SessionScribe, speech: Unwritten) -> None:
    loop.call_soon_threadsafe(scribe.take, speech)
