"""Chat requests: their slots, their engines, and what can be asked there. Front.

They go straight from here to an engine, in a turn-based session that lasts for one answer: no media
worker, whose loop carries the calls' sound, has a part in them.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from engine.ipc import protocol as p
from engine.ipc.engine_client import EngineFull, EngineGone, EngineSessionLink
from server.config import ChatConfig
from server.control import EngineAddress
from server.engine_links import EngineLinks
from server.front.broker import Broker
from server.front.chat_line import ChatLine, server_failed
from server.front.chat_queue import ChatQueue
from signaling.audio.speech_request import ReadingOrder
from signaling.audio.transcription import Transcribed, TranscriptionOrder
from signaling.chat.messages import OrderedItem
from signaling.chat.models import MODEL, unknown_model
from signaling.chat.request import ChatOrder
from signaling.errors import NoFreeSlot, ProtocolError
from signaling.session.core import UPLOADED_VOICE
from signaling.session.items import FunctionCall, FunctionCallOutput

FOREIGN_VOICES = frozenset(
    (
        *("alloy", "ash", "ballad", "cedar", "coral", "echo", "fable", "marin", "nova", "onyx"),
        *("sage", "shimmer", "verse"),
    )
)
"""OpenAI's names, which SDKs fill in: the default voice speaks, and that is told."""

Welcomes = Callable[[], list[p.Welcome]]


class ChatDesk:
    """Implements `ChatService` and `AudioService` of `signaling.http`. Keep `run` alive."""

    def __init__(
        self,
        broker: Broker,
        config: ChatConfig,
        welcomes: Welcomes,
        on_free: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
        *,
        name: str = "front",
    ) -> None:
        """`name`: what engines know this front by; no two have the same."""
        self._name = name
        self.queue = ChatQueue(broker, config, on_free, clock)
        self.served_total = 0
        self._broker = broker
        self._config = config
        self._welcomes = welcomes
        self._links: EngineLinks | None = None
        self._lines: set[ChatLine] = set()
        self._is_draining = False

    async def run(self) -> None:
        """Hold the links to engines until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            links = self._links = EngineLinks(self._name, tasks)
            try:
                await asyncio.Event().wait()
            finally:
                self._links = None
                links.close()

    def drain(self) -> None:
        """Take no more requests, and tell those under way that they end."""
        self._is_draining = True
        for line in self._lines:
            line.gone("the server is stopping")

    def engine_down(self, endpoint: str, reason: str) -> None:
        if self._links is not None:
            self._links.lost(endpoint, reason)

    def models(self) -> tuple[str, ...]:
        """The names under which a model answers now."""
        kinds = (name for welcome in self._welcomes()[:1] for name in _names_of(welcome))
        return tuple(dict.fromkeys((MODEL, *kinds, *self._config.models)))

    @asynccontextmanager
    async def answer(
        self, order: ChatOrder, callers: tuple[str, ...]
    ) -> AsyncIterator[tuple[ChatLine, tuple[str, ...]]]:
        """Have it answered: the answer as it comes, and the members that the engine ignores.

        Raises ProtocolError for what cannot be asked here, NoFreeSlot where there is no room.
        """
        welcome = self._welcome_for(order.model)
        config, ignored = configure(order, welcome)
        async with self._at_engine(config, callers, one_call=order.tools.one_at_most) as (
            line,
            link,
        ):
            await line.ask(link, order.items, config.modalities[0])
            yield line, ignored

    @asynccontextmanager
    async def speak(
        self, order: ReadingOrder, callers: tuple[str, ...]
    ) -> AsyncIterator[tuple[ChatLine, tuple[str, ...]]]:
        """Have a text said; as `answer`."""
        welcome = self._welcome_for(order.model)
        if not welcome.says_texts:
            raise _not_supported("This model answers, it does not read texts aloud.")
        voice, ignored = _voice(order.voice, welcome, "voice")
        if order.speed != 1 and "speed" not in welcome.honours:
            ignored.append("speed")
        config = p.SessionConfig(
            mode="turn_based",
            voice=voice,
            speed=order.speed,
            turn_detection=p.TurnDetection(create_response=False),
        )
        async with self._at_engine(config, callers) as (line, link):
            line.say(link, order.text)
            yield line, tuple(ignored)

    async def transcribe(
        self, order: TranscriptionOrder, callers: tuple[str, ...]
    ) -> tuple[Transcribed, str]:
        """Have a recording written down; raises as `answer`."""
        welcome = self._welcome_for(order.model)
        if not welcome.transcribes_files:
            raise _not_supported("This model does not write down recordings.")
        if order.language and welcome.languages and order.language not in welcome.languages:
            known = ", ".join(welcome.languages)
            raise ProtocolError(
                f"language: {order.language!r} is not understood here; {known} is.",
                code="unsupported_value",
                param="language",
            )
        config = p.SessionConfig(mode="turn_based")
        async with self._at_engine(config, callers) as (line, link):
            heard = await line.transcribe(link, order.file)
        return heard, order.language or next(iter(welcome.languages), "")

    def _welcome_for(self, model: str) -> p.Welcome:
        """What the engine that is to serve a request can do; raises ProtocolError, NoFreeSlot."""
        if self._is_draining:
            raise NoFreeSlot(None, "The server is stopping.")
        if self._config.slots == 0:
            raise _not_supported("Chats are not served here.")
        if model not in self.models():
            raise unknown_model(model)
        welcome = next(iter(self._welcomes()), None)
        if welcome is None:
            raise NoFreeSlot(2.0, "The engine is starting.")
        if self._broker.chat_slots == 0:
            raise _not_supported("The engine has room for its calls only.")
        return welcome

    @asynccontextmanager
    async def _at_engine(
        self, config: p.SessionConfig, callers: tuple[str, ...], *, one_call: bool = False
    ) -> AsyncIterator[tuple[ChatLine, EngineSessionLink]]:
        """A session for one request, closed however it ends."""
        async with self.queue.place(callers) as (chat_id, address):
            line = ChatLine(chat_id, one_call=one_call)
            link = await self._open(chat_id, address, config, line)
            self._lines.add(line)
            try:
                async with asyncio.timeout(self._config.max_duration_s):
                    yield line, link
                self.served_total += 1
            finally:
                self._lines.discard(line)
                await link.close()

    async def _open(
        self, chat_id: str, address: EngineAddress, config: p.SessionConfig, line: ChatLine
    ) -> EngineSessionLink:
        if self._links is None:
            raise NoFreeSlot(2.0, "The server is starting or stopping.")
        try:
            client = await self._links.get(address)
            return await client.open(chat_id, config, on_message=line.take, on_gone=line.gone)
        except EngineFull as error:
            raise NoFreeSlot(2.0, f"The engine is full: {error}.") from None
        except EngineGone as error:
            raise server_failed(f"The engine is gone: {error}.", "engine_unavailable") from None
        except ValueError as error:
            raise ProtocolError(f"The engine refuses: {error}.") from None


def configure(order: ChatOrder, welcome: p.Welcome) -> tuple[p.SessionConfig, tuple[str, ...]]:
    """The session that the order asks of an engine, and what the engine takes no notice of.

    Raises ProtocolError for what it cannot do.
    """
    _check_tools(order, welcome)
    voice, ignored = _voice(order.voice, welcome, "audio.voice")
    sampling = msgspec.structs.asdict(order.sampling)
    unheard = {name for name, value in sampling.items() if value is not None}
    told = {"max_output_tokens": "max_completion_tokens"}
    ignored += [told.get(name, name) for name in sorted(unheard - set(welcome.honours))]
    wish = order.tools
    config = p.SessionConfig(
        mode="turn_based",
        instructions=order.instructions,
        voice=voice,
        modalities=("text",) if order.spoken_as is None else ("audio",),
        turn_detection=p.TurnDetection(create_response=False),
        sampling=p.Sampling(**sampling),
        context_policy="end",
        tools=tuple(
            p.FunctionTool(function.name, function.description or "", function.schema())
            for function in wish.functions
        ),
        tool_choice=wish.choice,
        tool_name=wish.name,
    )
    return config, tuple(ignored)


def _check_tools(order: ChatOrder, welcome: p.Welcome) -> None:
    if "turn_based" in welcome.tool_modes:
        return
    used = next(filter(_is_of_tools, order.items), None)
    param = "tools" if order.tools.may_call else None if used is None else used.where
    if param is not None:
        raise ProtocolError(
            f"{param}: this model calls no functions.", code="unsupported_value", param=param
        )


def _is_of_tools(ordered: OrderedItem) -> bool:
    return isinstance(ordered.item, FunctionCall | FunctionCallOutput)


def _voice(name: str, welcome: p.Welcome, where: str) -> tuple[str, list[str]]:
    """The engine's name of a voice, empty for its default; and what is ignored then."""
    if name in ("", "default", *welcome.voices):
        return name if name != "default" else "", []
    if welcome.takes_voices and name.startswith(UPLOADED_VOICE):
        return name, []
    if name in FOREIGN_VOICES:
        return "", [where]
    known = ", ".join(welcome.voices[:20]) or "none"
    raise ProtocolError(
        f"{where}: there is no voice {name[:64]!r}; there are: {known}.",
        code="unknown_voice",
        param=where,
    )


def _not_supported(message: str) -> ProtocolError:
    return ProtocolError(message, code="not_supported", status=404)


def _names_of(welcome: p.Welcome) -> tuple[str, ...]:
    label = re.sub(r"[^a-z0-9.]+", "-", welcome.label.lower()).strip("-")
    return (welcome.kind, label)
