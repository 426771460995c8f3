"""The text model that takes the tasks of full-duplex sessions; one per engine process."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from msgspec.structs import replace

from engine.base import Engine, EngineError, Send
from engine.builtin.chat import ChatResponder
from engine.builtin.picture_facts import Camera
from engine.config import DelegateConfig
from engine.delegate.session import DelegatingSession
from engine.ipc.protocol import SessionConfig, Welcome

RULE = (
    "What you do not know or cannot do yourself somebody else does for you. To ask them say: "
    '"{words}", in your own sentence, and what it is about. You are told what they found.'
)
TEXT_HONOURS = ("instructions", "tools", "tool_choice", "tool_name")


class Delegate:
    """Opens the sessions of an engine with a text model behind them. Implements
    `engine.host.SessionMaker`; owns the connections to the endpoint.
    """

    def __init__(self, config: DelegateConfig, engine: Engine) -> None:
        self._config = config
        self._engine = engine
        self._chat = ChatResponder(config.chat)
        self._eyes = ThreadPoolExecutor(1, thread_name_prefix="delegate-eyes")
        self._rule: str | None = None

    async def start(self) -> None:
        """Raises `EngineError` for an engine whose sessions cannot hand anything over."""
        welcome = self._engine.welcome(self._engine.slots)
        where = "delegate.chat.url"
        if "full_duplex" in welcome.tool_modes:
            told = "calls functions in full duplex itself"
            raise EngineError(f"{where}: the engine {welcome.kind} {told}: leave it out")
        if "full_duplex" not in welcome.modes or "commentary" not in welcome.appends:
            told = "cannot say what it is told in full duplex"
            raise EngineError(f"{where}: the engine {welcome.kind} {told}: leave it out")
        if "instructions" in welcome.honours:
            words = self._config.when_said
            self._rule = RULE.format(words=words[0]) if words else ""
        await self._chat.start()

    def welcome(self, slots: int) -> Welcome:
        """What the engine is and can do, with the text model's help."""
        welcome = self._engine.welcome(slots)
        honours = dict.fromkeys([*welcome.honours, *TEXT_HONOURS])
        return replace(
            welcome,
            tool_modes=("full_duplex", *welcome.tool_modes),
            honours=tuple(honours),
            delegates=False,
        )

    def open(self, session: str, slot: int, config: SessionConfig, send: Send) -> DelegatingSession:
        """Raises `EngineError` if `config` cannot be served."""
        camera = Camera(self._eyes)
        opened = DelegatingSession(
            session, config, send, self._chat, camera, self._config.when_said, self._rule
        )
        opened.begin(self._engine.open(session, slot, opened.inner_config(), opened.hear))
        return opened

    async def close(self) -> None:
        self._eyes.shutdown(wait=False, cancel_futures=True)
        await self._chat.close()
