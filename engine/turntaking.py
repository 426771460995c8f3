"""Half duplex and turn-based mode: whole messages go in, replies come out in chunks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator

import numpy as np
import torch
from torch import Tensor

from engine.prompts import VOICE_PROMPTS, Message, Part, Picture, PromptError, Sound
from engine.runner import Runner
from engine.sampling import Draws
from engine.session import Session
from engine.speech_codes import Speak
from engine.turnbased import CHUNK_TOKENS, ReplyChunk, TurnSession
from engine.usermessage import Asked, encode_turn
from engine.window import ContextFull

SPEECH_SEED = 0x5EED
NO_SOUND = np.zeros(0, np.int16)
MAX_WAITING_TURNS = 4
ROOM_FOR_REPLY = 3 * CHUNK_TOKENS
"""Positions that a reply needs beside its tokens."""
DEFAULT_SYSTEM = "You are a helpful assistant."


class _Mind:
    def __init__(self, session: Session) -> None:
        self.session = session
        self.draws = Draws(session.seed ^ SPEECH_SEED)
        self.asked: deque[Asked] = deque(maxlen=MAX_WAITING_TURNS)
        self.taking: Generator[None, None, None] | None = None
        """The turn that is being read, batch by batch."""
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
        """Read on in one waiting turn of each session, decide one token for every reply."""
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
            if mind.session.is_over or mind.session.forced_listen:
                continue
            if mind.taking is None:
                if not mind.asked or self._runner.turns.sessions[slot].is_replying:
                    continue
                mind.taking = self._take(mind, mind.asked.popleft())
            took = True
            self._go_on(mind, mind.taking)
        return took

    def _go_on(self, mind: _Mind, taking: Generator[None, None, None]) -> None:
        try:
            next(taking)
            return
        except StopIteration:
            pass
        except ContextFull:
            mind.session.end("the model cannot remember more")
        except (PromptError, ValueError) as error:
            mind.session.warn("bad_message", str(error))
        mind.taking = None

    def _take(self, mind: _Mind, asked: Asked) -> Generator[None, None, None]:
        """Encode a turn, with a yield between batches; then open the reply."""
        session, runner = mind.session, self._runner
        mind.started = time.perf_counter()
        encoded = yield from encode_turn(runner, session, asked)
        message = encoded.message
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
        settings = session.reply_settings()
        self._check_room(talk, len(prompt), settings.max_new_tokens)
        mind.images += sum(isinstance(part, Picture) for part in message.parts)
        with runner.timed("prefill"):
            runner.turns.add({session.slot: prompt.weave(encoded.images, encoded.sounds)})
            runner.turns.open_replies({session.slot: settings})
        runner.hush(session.slot)
        session.output.begin(
            "speech" if asked.utterance else "request",
            utterance=asked.utterance,
            modality="audio" if session.speaks else "text",
        )

    def _check_room(self, talk: TurnSession, message: int, reply: int) -> None:
        """Raise `PromptError` if the message would not fit even into an empty conversation."""
        room = self._max_context - talk.window.protected - reply - ROOM_FOR_REPLY
        if message > room:
            raise PromptError(
                f"the message takes {message} of the model's positions, {room} are free for one: "
                "send a shorter one"
            )

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
