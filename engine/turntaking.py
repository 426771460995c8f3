"""Half duplex and turn-based mode: whole messages go in, replies come out in chunks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass

from torch import Tensor

from engine.mouth import Mouth
from engine.prompts import (
    VOICE_PROMPTS,
    Message,
    Part,
    Picture,
    PromptError,
    Sound,
    check_instructions,
)
from engine.runner import Runner
from engine.session import Session, SessionFailed
from engine.speaker import NO_SOUND
from engine.speech_streams import Pcm
from engine.timing import Stages, Timer, timed, totals
from engine.turn_rows import ChosenTurns
from engine.turnbased import CHUNK_TOKENS, ReplyChunk, TurnSession
from engine.usermessage import Asked, encode_turn
from engine.voicelane import Spoken, VoiceLane
from engine.window import ContextFull

MAX_WAITING_TURNS = 4
ROOM_FOR_REPLY = 3 * CHUNK_TOKENS
"""Positions that a reply needs beside its tokens."""
DEFAULT_SYSTEM = "You are a helpful assistant."


@dataclass(eq=False)
class _Utterance:
    """A chunk of a reply that is being spoken."""

    slot: int
    mind: _Mind
    chunk: ReplyChunk
    generation: int
    kv_tokens: int


class _Mind:
    def __init__(self, session: Session, mouth: Mouth) -> None:
        self.session = session
        self.mouth = mouth
        self.asked: deque[Asked] = deque(maxlen=MAX_WAITING_TURNS)
        self.taking: Generator[None, None, None] | None = None
        """The system message or the turn that is being read, batch by batch."""
        self.speaking: deque[_Utterance] = deque()
        self.stages: Stages = []
        self.images = 0
        self.started = 0.0


class TurnTaking:
    """Drives the sessions of a runner that take turns; an `engine.step.Mode`."""

    def __init__(self, runner: Runner, lane: VoiceLane, max_context: int) -> None:
        self._runner = runner
        self._lane = lane
        self._max_context = max_context
        self._minds: dict[int, _Mind] = {}
        self._last_read = -1
        self._chosen = ChosenTurns([])
        """Between `choose` and `fed`."""

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
        mind = self._minds[session.slot] = _Mind(session, Mouth(self._runner, self._lane, session))
        mind.taking = self._system(session)
        # The first piece now, so that what does not fit is refused at once.
        if next(mind.taking, self) is self:
            mind.taking = None

    def configure(self, session: Session) -> None:
        """Take new settings from the next reply on; raises `ValueError` for bad ones."""
        session.reply_settings()
        context = self._runner.turns.sessions[session.slot].context
        context.policy = session.config.context_policy

    def close(self, slot: int) -> None:
        self._minds.pop(slot, None)

    def ask(self, session: Session, asked: Asked) -> None:
        """Queue a turn of the user; the oldest goes where too many wait."""
        waiting = self._minds[session.slot].asked
        if len(waiting) == MAX_WAITING_TURNS:
            session.warn("overloaded", "too many turns wait for an answer; one was dropped")
        waiting.append(asked)

    def interrupt(self, session: Session) -> None:
        """Break the reply off; the conversation keeps what of it was heard."""
        mind = self._minds[session.slot]
        # A reply is thought to its end long before it is heard to its end. What a message that is
        # being read follows stays as it is.
        if self._runner.turns.sessions[session.slot].has_reply and mind.taking is None:
            self._runner.turns.cancel(session.slot, session.output.heard_tokens)
        mind.mouth.hush()

    def start(self) -> bool:
        """Read on in one waiting turn; whether there was one."""
        return self._take_turns()

    def choose(self) -> dict[int, int]:
        """Decide one token for every reply under way; the ids to feed, by slot."""
        running = [slot for slot in self._minds if self._may_go_on(slot)]
        self._chosen = self._runner.turns.choose(running)
        return self._chosen.feeding

    def fed(self, states: Mapping[int, Tensor], timer: Timer) -> bool:
        """What was chosen is in the caches, with `states` [C] by slot; whether anything was."""
        chosen, self._chosen = self._chosen, ChosenTurns([])
        for slot in chosen.slots:
            self._minds[slot].stages.append(("decode", timer))
        if chosen.slots:
            self._say(self._runner.turns.fed(chosen, states))
        return bool(chosen.slots)

    def _may_go_on(self, slot: int) -> bool:
        replying = self._runner.turns.sessions[slot].is_replying
        return replying and not self._minds[slot].session.output.is_full

    # ------------------------------------------------------------------ in

    def _system(self, session: Session) -> Generator[None, None, None]:
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
        check_instructions(len(prompt), self._max_context)
        yield from self._runner.turns.add_slowly(
            session.slot, prompt.weave([], sounds), protect=True
        )

    def _take_turns(self) -> bool:
        """Read a piece of one session's turn: a step stays short however many ask at once."""
        reading = [slot for slot, mind in self._minds.items() if self._has_to_read(mind)]
        if not reading:
            return False
        slot = min(reading, key=lambda slot: (slot <= self._last_read, slot))
        self._last_read = slot
        mind = self._minds[slot]
        if mind.taking is None:
            mind.taking = self._take(mind, mind.asked.popleft())
        self._go_on(mind, mind.taking)
        return True

    def _has_to_read(self, mind: _Mind) -> bool:
        if mind.session.is_over or mind.session.forced_listen:
            return False
        if mind.taking is not None:
            return True
        is_replying = self._runner.turns.sessions[mind.session.slot].is_replying
        return bool(mind.asked) and not is_replying and not mind.speaking

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
        except Exception as error:
            raise SessionFailed(mind.session, error) from error
        mind.taking = None

    def _take(self, mind: _Mind, asked: Asked) -> Generator[None, None, None]:
        """Encode a turn, with a yield between batches; then open the reply."""
        session, runner = mind.session, self._runner
        mind.started, mind.stages = time.monotonic(), []
        with timed(runner.model.device) as encode:
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
        with timed(runner.model.device) as prefill:
            pieces = prompt.weave(encoded.images, encoded.sounds)
            yield from runner.turns.add_slowly(session.slot, pieces)
            runner.turns.open_replies({session.slot: settings})
        mind.stages += [("encode", encode), ("prefill", prefill)]
        mind.mouth.hush()
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
        for slot, chunk in chunks.items():
            mind = self._minds[slot]
            kv_tokens = self._runner.turns.sessions[slot].length
            utterance = _Utterance(slot, mind, chunk, mind.mouth.generation, kv_tokens)
            mind.speaking.append(utterance)
            mind.session.warn_context(chunk.warning)
            if not mind.session.speaks:
                self._tell(utterance, NO_SOUND, [])
                continue
            mind.mouth.say(utterance, chunk.ids, chunk.hidden, is_unit=False, ends=chunk.is_last)

    def spoken(self, spoken: Spoken) -> None:
        """The voice lane has made sound of a chunk."""
        utterance: _Utterance = spoken.say.owner
        if self._minds.get(utterance.slot) is utterance.mind:
            self._tell(utterance, spoken.pcm, spoken.stages)

    def _tell(self, utterance: _Utterance, pcm: Pcm, stages: Stages) -> None:
        mind, chunk = utterance.mind, utterance.chunk
        mind.speaking.remove(utterance)
        session, output = mind.session, mind.session.output
        mind.stages += stages
        if utterance.generation != mind.mouth.generation or session.is_over:
            return
        output.say(chunk.text, pcm, tokens=len(chunk.ids), last=chunk.is_last)
        if not chunk.is_last:
            return
        output.finish(
            "incomplete" if chunk.by_limit else "completed", input_tokens=utterance.kv_tokens
        )
        total_ms = (time.monotonic() - mind.started) * 1000
        session.unit_done(
            speaks=True,
            stages_ms=totals(mind.stages) | {"turn": round(total_ms, 2)},
            kv_tokens=utterance.kv_tokens,
        )
