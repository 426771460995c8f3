"""A call over a WebSocket: events as they are, sound as base64 of PCM16 at 24 kHz in them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from typing import Any

import aiohttp
import numpy as np

from omnicall.client.address import NEW, RESUME, WORDS, Address
from omnicall.client.carrier import Callbacks, Event, finds_turns
from omnicall.client.errors import CallOver, Declined, NoConnection
from omnicall.client.sound import RATE, Pcm, Unsaid

CONNECT_TIMEOUT_S = 15.0
HEARTBEAT_S = 20.0
MAX_MESSAGE_BYTES = 16 * 1024 * 1024
PIECE_S = 0.1
FORMAT = {"format": {"type": "audio/pcm", "rate": RATE}}


class WebSocketCarrier:
    """Says what `voice` has in real time; what it hears it passes on as fast as it comes."""

    def __init__(self, address: Address, model: str, voice: Unsaid, listener: Callbacks) -> None:
        self._address = address
        self._model = model
        self._voice = voice
        self._listener = listener
        self._socket: aiohttp.ClientWebSocketResponse | None = None
        self._playing = _Playing()
        self.call_id = ""
        self.token = ""
        self.audio_settings: dict[str, Any] = {"input": FORMAT, "output": FORMAT}
        self.tail_s = 0.0
        self._finds_turns = True
        """Silence is sent, too, so that the server finds where speech ends."""

    async def open(self, session: Event, token: str = "") -> bool:
        del session
        headers = self._address.headers | {RESUME: token or NEW}
        query = {"model": self._model, "extensions": "1"}
        url = self._address.path("v1", "realtime")
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                self._socket = await self._address.http.ws_connect(
                    url,
                    params=query,
                    headers=headers,
                    heartbeat=HEARTBEAT_S,
                    max_msg_size=MAX_MESSAGE_BYTES,
                )
        except aiohttp.WSServerHandshakeError as error:
            words = WORDS.get(error.status, f"The server answered {error.status}.")
            raise Declined(words, status=error.status) from error
        except TimeoutError as error:
            raise NoConnection(f"{self._address.origin} did not answer in time.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NoConnection(f"{self._address.origin} cannot be reached: {error}") from error
        # aiohttp gives the answer to the handshake no public name.
        self.token = self._socket._response.headers.get(RESUME, "")
        return False

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            speaking = group.create_task(self._speak())
            end = await self._listen()
            speaking.cancel()
        raise end

    async def send(self, event: Event) -> None:
        if self._socket is None or self._socket.closed:
            raise CallOver("lost", "The connection is closed.")
        try:
            await self._socket.send_str(json.dumps(event))
        except (aiohttp.ClientError, OSError) as error:
            raise CallOver("lost", f"The connection was lost: {error}") from error

    async def add_item(self, item: Event) -> None:
        await self.send({"type": "conversation.item.create", "item": item})

    async def interrupt(self) -> None:
        await self.send({"type": "response.cancel"})
        await self._truncate()

    async def _truncate(self) -> None:
        # Only this side knows how much of what it was given has been played.
        if (cut := self._playing.cut()) is not None:
            item_id, heard_ms = cut
            await self.send(
                {
                    "type": "conversation.item.truncate",
                    "item_id": item_id,
                    "content_index": 0,
                    "audio_end_ms": heard_ms,
                }
            )

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()

    async def drop(self) -> None:
        await self.close()

    async def _listen(self) -> CallOver:
        assert self._socket is not None, "run() before open()"
        async for message in self._socket:
            if message.type is not aiohttp.WSMsgType.TEXT:
                continue
            event = json.loads(message.data)
            kind = event.get("type")
            if kind == "response.output_audio.delta":
                self._hear(event)
            if kind in ("session.created", "session.updated"):
                self._finds_turns = finds_turns(event["session"])
            if kind == "input_audio_buffer.speech_started":
                await self._truncate()
            self._listener.event(event)
            if kind == "session.ended":
                return CallOver(str(event.get("reason")), str(event.get("message")))
        if self._socket.close_code == aiohttp.WSCloseCode.OK:
            return CallOver("hangup", "The call was hung up.")
        error = self._socket.exception()
        why = f"closed with {self._socket.close_code}" if error is None else str(error)
        return CallOver("lost", f"The connection was lost: {why}.")

    def _hear(self, event: Event) -> None:
        try:
            data = base64.b64decode(event["delta"], validate=True)
            pcm: Pcm = np.frombuffer(data, "<i2").astype(np.int16, copy=False)
        except (KeyError, binascii.Error, ValueError):
            return
        self._playing.add(str(event.get("item_id", "")), len(pcm))
        self._listener.sound(pcm)

    async def _speak(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += PIECE_S
            await asyncio.sleep(max(0.0, due - loop.time()))
            if not (self._finds_turns or self._voice.waiting_s):
                continue
            piece = self._voice.take(int(PIECE_S * RATE))
            audio = base64.b64encode(piece.astype("<i2").tobytes()).decode()
            try:
                await self.send({"type": "input_audio_buffer.append", "audio": audio})
            except CallOver:
                # The listening side tells why.
                return


class _Playing:
    """How much of an item has been heard by somebody who plays it as it comes."""

    def __init__(self) -> None:
        self._item_id = ""
        self._begun = 0.0
        self._samples = 0

    def add(self, item_id: str, samples: int) -> None:
        now = asyncio.get_running_loop().time()
        if item_id != self._item_id:
            self._item_id, self._begun, self._samples = item_id, now, 0
        self._samples += samples

    def cut(self) -> tuple[str, int] | None:
        """The item and its heard milliseconds; None where it has been played to its end."""
        heard_s = asyncio.get_running_loop().time() - self._begun
        if not self._item_id or heard_s >= self._samples / RATE:
            return None
        item_id, self._item_id = self._item_id, ""
        return item_id, int(heard_s * 1000)
