"""Half duplex and turn-based mode: whole messages go in, replies come out in chunks."""

from __future__ import annotations

import io
import time
from collections import deque
from dataclasses import dataclass, field

import av
import numpy as np
import torch
from torch import Tensor

from engine.prompts import VOICE_PROMPTS, Message, Part, Picture, PromptError, Sound
from engine.protocol import ImagePart, ItemIn, TextPart
from engine.runner import Runner, Seen
from engine.sampling import Draws
from engine.session import Session
from engine.speech_codes import Speak
from engine.turnbased import ReplyChunk, TurnSession
from engine.window import ContextFull

MIN_SOUND_SAMPLES = 16_560
"""A shorter message is filled up with silence on the left, as the model was trained."""
SPEECH_SEED = 0x5EED
NO_SOUND = np.zeros(0, np.int16)
MAX_WAITING_TURNS = 4
TURN_SLICES = 9
"""Most slices of a picture in a typed message."""
DEFAULT_SYSTEM = "You are a helpful assistant."


@dataclass
class Asked:
    """A turn of the user that wants an answer."""

    sound: Tensor | None = None
    """[N], 16 kHz."""
    utterance: int = 0
    items: list[ItemIn] = field(default_factory=list)
    picture: Tensor | None = None
    answer: bool = True


class _Mind:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.draws = Draws(session.seed ^ SPEECH_SEED)
        self.asked: deque[Asked] = deque(maxlen=MAX_WAITING_TURNS)
        self.images = 0
        self.started = 0.0


class TurnTaking:
    """Drives the sessions of a runner that take turns. `advance` does one step for all."""

    def __init__(self, runner: Runner, max_context: int) -> None:
        self._runner = runner
        self._max_context = max_context
        self._minds: dict[int, _Mind] = {}

    def open(self, session: Session) -> None:
        """Begin a conversation in the session's slot; raises `ValueError` for bad settings."""
        session.reply_settings()
        talk = TurnSession(
            self._runner.model.tokens,
            session.seed,
            self._max_context,
            context_policy=session.config.context_policy,
        )
        self._runner.turns.open(session.slot, talk)
        self._minds[session.slot] = _Mind(session)
        self._system(session)

    def configure(self, session: Session) -> None:
        """Take new settings from the next reply on; raises `ValueError` for bad ones."""
        session.reply_settings()
        context = self._runner.turns.sessions[session.slot].context
        context.policy = session.config.context_policy

    def close(self, slot: int) -> None:
        self._minds.pop(slot, None)

    def has(self, slot: int) -> bool:
        return slot in self._minds

    def ask(self, session: Session, asked: Asked) -> None:
        """Queue a turn of the user."""
        self._minds[session.slot].asked.append(asked)

    def interrupt(self, session: Session) -> None:
        """Break the reply off; the conversation keeps what of it was heard."""
        if self._runner.turns.sessions[session.slot].is_replying:
            self._runner.turns.cancel(session.slot, session.output.heard_tokens)
        self._runner.hush(session.slot)

    def advance(self) -> bool:
        """Take one waiting turn of each session, decide one token for every reply under way."""
        took = self._take_turns()
        running = [slot for slot in self._minds if self._may_go_on(slot)]
        if running:
            with self._runner.timed("decode"):
                chunks = self._runner.turns.step(running)
            self._say(chunks)
        return took or bool(running)

    def _may_go_on(self, slot: int) -> bool:
        replying = self._runner.turns.sessions[slot].is_replying
        return replying and not self._minds[slot].session.output.is_full

    # ------------------------------------------------------------------ in

    def _system(self, session: Session) -> None:
        text = session.config.instructions or DEFAULT_SYSTEM
        parts: list[Part] = [text]
        sounds: list[Tensor] = []
        if session.voice.embeddings is not None and session.speaks:
            language = session.option("language", "en")
            before, after = VOICE_PROMPTS.get(
                ("audio_assistant", language), VOICE_PROMPTS["audio_assistant", "en"]
            )
            sounds = [session.voice.embeddings]
            parts = [before, Sound(len(sounds[0])), session.config.instructions or after]
        prompt = self._runner.model.prompts.half_duplex(Message("system", tuple(parts)))
        self._runner.turns.add({session.slot: prompt.weave([], sounds)}, protect=True)

    def _take_turns(self) -> bool:
        took = False
        for slot, mind in tuple(self._minds.items()):
            if not mind.asked or mind.session.is_over or mind.session.forced_listen:
                continue
            if self._runner.turns.sessions[slot].is_replying:
                continue
            took = True
            try:
                self._take(mind, mind.asked.popleft())
            except ContextFull:
                mind.session.end("the model cannot remember more")
            except (PromptError, ValueError) as error:
                mind.session.warn("bad_message", str(error))
        return took

    def _take(self, mind: _Mind, asked: Asked) -> None:
        session, runner = mind.session, self._runner
        mind.started = time.perf_counter()
        message, images, sounds = self._message(session, asked)
        if not message.parts:
            session.warn("empty_message", "there is nothing to answer yet")
            return
        talk = runner.turns.sessions[session.slot]
        prompt = runner.model.prompts.half_duplex(
            message,
            answered=talk.has_replied,
            image_ids=session.config.mode == "turn_based",
            first_image=mind.images,
        )
        mind.images += sum(isinstance(part, Picture) for part in message.parts)
        with runner.timed("prefill"):
            runner.turns.add({session.slot: prompt.weave(images, sounds)})
            runner.turns.open_replies({session.slot: session.reply_settings()})
        runner.hush(session.slot)
        session.output.begin(
            "speech" if asked.utterance else "request",
            utterance=asked.utterance,
            modality="audio" if session.speaks else "text",
        )

    def _message(
        self, session: Session, asked: Asked
    ) -> tuple[Message, list[Tensor], list[Tensor]]:
        """The user's message with the embeddings of its pictures and sounds, in order."""
        pictures: list[tuple[Tensor, int]] = []
        order: list[str | int] = []
        if asked.picture is not None:
            order.append(len(pictures))
            pictures.append((asked.picture, session.config.max_image_slices))
        for item in asked.items:
            for part in item.parts:
                if isinstance(part, TextPart):
                    order.append(part.text)
                elif isinstance(part, ImagePart):
                    order.append(len(pictures))
                    pictures.append((decode_picture(part.data), TURN_SLICES))
        seen: list[Seen] = self._runner.look(pictures)
        parts: list[Part] = [
            piece if isinstance(piece, str) else Picture(seen[piece].columns, seen[piece].rows)
            for piece in order
        ]
        images = [image for piece in seen for image in piece.images]
        sounds: list[Tensor] = []
        if asked.sound is not None and len(asked.sound):
            lacking = max(0, MIN_SOUND_SAMPLES - len(asked.sound))
            whole = torch.nn.functional.pad(asked.sound, (lacking, 0))
            sounds = self._runner.hear_whole([whole], in_blocks=False)
            parts.append(Sound(len(sounds[0])))
        return Message("user", tuple(parts)), images, sounds

    # ------------------------------------------------------------------ out

    def _say(self, chunks: dict[int, ReplyChunk]) -> None:
        if not chunks:
            return
        speaking = [slot for slot in chunks if self._minds[slot].session.speaks]
        sounds = self._runner.say_group([self._speak(slot, chunks[slot]) for slot in speaking])
        pcm = dict(zip(speaking, sounds, strict=True))
        times: dict[str, float] | None = None
        for slot, chunk in chunks.items():
            mind = self._minds[slot]
            session = mind.session
            session.output.say(
                chunk.text, pcm.get(slot, NO_SOUND), tokens=len(chunk.ids), last=chunk.is_last
            )
            session.warn_context(chunk.warning)
            if not chunk.is_last:
                continue
            kv_tokens = self._runner.turns.sessions[slot].length
            session.output.finish(
                "incomplete" if chunk.by_limit else "completed", input_tokens=kv_tokens
            )
            times = self._runner.take_times() if times is None else times
            total_ms = (time.perf_counter() - mind.started) * 1000
            session.unit_done(
                speaks=True,
                stages_ms=times | {"turn": round(total_ms, 2)},
                kv_tokens=kv_tokens,
            )

    def _speak(self, slot: int, chunk: ReplyChunk) -> Speak:
        model = self._runner.model
        width = model.config.llm.hidden_size
        hidden = (
            torch.stack(chunk.hidden) if chunk.hidden else torch.zeros(0, width, dtype=model.dtype)
        )
        ids = torch.tensor(chunk.ids, dtype=torch.long)
        return Speak(
            slot,
            ids.to(model.device),
            hidden.to(model.device),
            self._minds[slot].draws,
            ends=chunk.is_last,
        )


def decode_picture(data: bytes) -> Tensor:
    """A JPEG, PNG or WebP file as [height, width, 3] uint8; raises `ValueError`."""
    try:
        with av.open(io.BytesIO(data), mode="r") as container:
            frame = next(container.decode(video=0))
    except (av.error.FFmpegError, StopIteration, IndexError) as error:
        raise ValueError(f"the picture cannot be read: {error}") from None
    rgb: np.ndarray = frame.to_ndarray(format="rgb24")
    return torch.from_numpy(np.ascontiguousarray(rgb))
