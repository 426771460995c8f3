"""The CPU demo engine: everything that is shared by its sessions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from engine.base import Progress, Send
from engine.builtin.answerer import CascadeAnswerer, Responder
from engine.builtin.interfaces import Parts
from engine.builtin.recogniser import RecogniserPool
from engine.builtin.rules import Clock, RuleResponder, system_clock
from engine.builtin.session import CascadeSession
from engine.builtin.speech_models import find_models
from engine.builtin.speech_parts import SpeechParts
from engine.builtin.text_reader import find_reader
from engine.config import BuiltinConfig, ChatEndpoint
from engine.files.decoder import FileDecoder
from engine.ipc.protocol import VERSION, ContextKind, Mode, SessionConfig, Welcome

if TYPE_CHECKING:
    from engine.builtin.chat import ChatResponder

ENGLISH = ("en-us", "en-gb", "en-gb-scotland", "en-gb-x-rp", "en-029", "en-us-nyc")
VARIANTS = ("en-us+f3", "en-us+m3", "en-gb+f3")
FOREIGN = ("cmn", "de", "es", "fr-fr", "ja")
"""They pronounce what a chat endpoint answers in these languages; none is understood."""

MODES: tuple[Mode, ...] = ("full_duplex", "half_duplex", "turn_based")
APPENDS: tuple[ContextKind, ...] = ("instructions", "thinking", "commentary")
HONOURS = (
    "mode",
    "voice",
    "speed",
    "modalities",
    "turn_detection",
    "transcribe",
    "options",
    "after",
)
HONOURED_BY_MODEL = (
    "instructions",
    "retention",
    "temperature",
    "top_p",
    "seed",
    "greedy",
    "max_output_tokens",
    "tools",
    "tool_choice",
    "tool_name",
)

RULES_DESCRIPTION = (
    "A demo that needs no GPU and no model weights: it understands about a dozen spoken English "
    "commands in quiet surroundings, tells simple facts about the camera picture and answers in "
    "a robotic voice. It is no neural model and holds no conversation."
)
NEURAL_RULES_DESCRIPTION = (
    "A demo that needs no GPU: it hears and speaks with small neural models, but answers by rules, "
    "about a dozen commands and simple facts about the camera picture. It holds no conversation."
)
CHAT_DESCRIPTION = (
    "A language model answers, heard through a simple recogniser for clear English and spoken by "
    "a robotic voice. Typed text works best."
)
NEURAL_CHAT_DESCRIPTION = (
    "A language model answers, heard and spoken by small neural models on the CPU."
)


def chat_responder(config: ChatEndpoint) -> ChatResponder:
    """Its HTTP client is half of the engine's imports: loaded where it is used only."""
    from engine.builtin.chat import ChatResponder

    return ChatResponder(config)


class BuiltinEngine:
    """Owns the recogniser processes, the synthesiser and the threads that look at pictures."""

    def __init__(self, config: BuiltinConfig, slots: int, clock: Clock = system_clock) -> None:
        self.slots = slots
        self._config = config
        self._clock = clock
        self._speech = SpeechParts(config, find_models(config))
        self._chat = chat_responder(config.chat) if config.chat.url else None
        self._decoder = FileDecoder()
        self._reader = find_reader(config)
        self._eyes = ThreadPoolExecutor(1, thread_name_prefix="eyes")
        self._reading = ThreadPoolExecutor(1, thread_name_prefix="reading")

    @property
    def recognisers(self) -> RecogniserPool:
        return self._speech.recognisers

    @property
    def _honours(self) -> tuple[str, ...]:
        return HONOURS if self._chat is None else (*HONOURS, *HONOURED_BY_MODEL)

    @property
    def _description(self) -> str:
        if self._speech.kind == "neural":
            return NEURAL_RULES_DESCRIPTION if self._chat is None else NEURAL_CHAT_DESCRIPTION
        return RULES_DESCRIPTION if self._chat is None else CHAT_DESCRIPTION

    def welcome(self, slots: int) -> Welcome:
        return Welcome(
            version=VERSION,
            kind="builtin",
            label="Built-in demo engine",
            description=self._description,
            slots=slots,
            modes=MODES,
            languages=self._speech.languages,
            voices=self._voices(),
            video=True,
            transcribes=True,
            tool_modes=() if self._chat is None else MODES,
            appends=("commentary",) if self._chat is None else APPENDS,
            answers_out_of_band=self._chat is not None,
            transcribes_files=True,
            says_texts=True,
            speech=self._speech.kind,
            options=("timezone",),
            honours=self._honours,
        )

    async def start(self, progress: Progress) -> None:
        """Load everything; raise `EngineError` with what is missing. Call it on the thread that
        runs the engine to its end: the recogniser processes die with it."""
        try:
            await self._speech.start(progress)
            if self._chat is not None:
                await self._chat.start()
        except BaseException:
            await self.close()
            raise

    def open(self, session: str, slot: int, config: SessionConfig, send: Send) -> CascadeSession:
        is_neural = self._speech.kind == "neural"
        responder: Responder = self._chat or RuleResponder(self._clock, is_neural=is_neural)
        parts = Parts(
            recogniser=self._speech.recogniser(commands=self._chat is None),
            answerer=CascadeAnswerer(responder, self._speech.synthesiser, self._speech.languages),
            eyes=self._eyes,
            decoder=self._decoder,
            has_voice=self._speech.synthesiser.has_voice,
            has_model=self._chat is not None,
            honours=frozenset(self._honours),
            reader=self._reader,
            reading=self._reading,
        )
        return CascadeSession(session, config, send, parts)

    def pending_ms(self) -> float:
        """Sound is taken as it comes, so none ever waits."""
        return 0.0

    async def close(self) -> None:
        await self._speech.close()
        if self._chat is not None:
            await self._chat.close()
        self._decoder.close()
        for thread in (self._eyes, self._reading):
            thread.shutdown(wait=False, cancel_futures=True)

    def _voices(self) -> tuple[str, ...]:
        synthesiser = self._speech.synthesiser
        known = (name for name in ENGLISH + VARIANTS + FOREIGN if synthesiser.has_voice(name))
        return tuple(dict.fromkeys((synthesiser.voice, *synthesiser.neural_voices, *known)))
