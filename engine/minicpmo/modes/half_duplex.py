"""Half duplex and turn-based mode: whole messages go in, replies come out in chunks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import Tensor

from engine.gpu.timing import Stages, Timer, timed, totals
from engine.ipc.protocol import Modality
from engine.minicpmo.llm.batch import Chosen
from engine.minicpmo.llm.context_window import ContextFull
from engine.minicpmo.llm.prompts import (
    VOICE_PROMPTS,
    PromptError,
    PromptMessage,
    PromptPart,
    PromptSound,
    check_instructions,
)
from engine.minicpmo.llm.turn_state import CHUNK_TOKENS, ReplyChunk, ReplySettings, TurnState
from engine.minicpmo.modes.turn_encoding import PendingTurn, encode_turn, plan_turn
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.session import Session, SessionFailed
from engine.minicpmo.speech.code2wav import Pcm
from engine.minicpmo.speech.pipeline import NO_SOUND
from engine.minicpmo.speech.worker import SessionSpeech, SpeechChunk, SpeechWorker

MAX_WAITING_TURNS = 4
PIECES_IN_A_ROW = 16
"""Of one message, before another one that waits has its turn: a long text has eight."""
ROOM_FOR_REPLY = 3 * CHUNK_TOKENS
"""Positions that a reply needs beside its tokens."""
DEFAULT_SYSTEM = "You are a helpful assistant."


class NothingToAnswer(ValueError):
    """A response is asked for, and nothing was said or sent."""


@dataclass(eq=False)
class _TurnUtterance:
    """A chunk of a reply that is being spoken."""

    slot: int
    mind: TurnEntry
    chunk: ReplyChunk
    generation: int
    kv_tokens: int


class TurnEntry:
    def __init__(self, session: Session, speech: SessionSpeech) -> None:
        self.session = session
        self.speech = speech
        self.asked: deque[PendingTurn] = deque(maxlen=MAX_WAITING_TURNS)
        self.taking: Generator[None, None, None] | None = None
        """The system message or the turn that is being read, batch by batch."""
        self.reading: PendingTurn | None = None
        """The turn among these."""
        self.is_aloud = False
        """The newest reply is spoken."""
        self.speaking: deque[_TurnUtterance] = deque()
        self.stages: Stages = []
        self.images = 0
        self.started = 0.0


class HalfDuplex:
    """Drives the sessions of a runner that take turns; an `engine.minicpmo.step.Mode`."""

    def __init__(self, runner: Runner, speech: SpeechWorker, max_context: int) -> None:
        self._runner = runner
        self._speech = speech
        self._max_context = max_context
        self._minds: dict[int, TurnEntry] = {}
        self._last_read = -1
        self._pieces_in_a_row = 0
        self._chosen: Chosen[ReplyChunk] = Chosen()
        """Between `choose` and `fed`."""

    def open(self, session: Session) -> None:
        """Begin a conversation in the session's slot; raises `ValueError` for bad settings."""
        session.reply_settings()
        talk = TurnState(
            self._runner.model.tokens,
            session.seed,
            self._max_context,
            context_policy=session.config.context_policy,
        )
        self._runner.turns.open(session.slot, talk)
        mind = self._minds[session.slot] = TurnEntry(
            session, SessionSpeech(self._runner, self._speech, session)
        )
        mind.taking = self._system(session)
        # The first piece now, so that what does not fit is refused at once.
        if next(mind.taking, self) is self:
            mind.taking = None

    def configure(self, session: Session) -> None:
        """Take new settings from the next reply on; raises `ValueError` for bad ones."""
        session.reply_settings()
        self._runner.turns.set_policy(session.slot, session.config.context_policy)

    def close(self, slot: int) -> None:
        """End the conversation; what it was reading and saying is given up at once.

        All of it knows its mind: left alone, the tensors would wait for the garbage collector.
        """
        mind = self._minds.pop(slot, None)
        if mind is None:
            return
        if mind.taking is not None:
            mind.taking.close()
        mind.taking = mind.reading = None
        mind.asked.clear()
        mind.speaking.clear()

    def refuse_asked(self, session: Session, code: str, reason: str) -> None:
        """Tell the client that nothing comes of what it asked for and has not begun."""
        mind = self._minds[session.slot]
        for asked in (mind.reading, *mind.asked):
            if asked is not None and not asked.utterance:
                session.refuse(asked.request, code, reason)

    def ask(self, session: Session, asked: PendingTurn) -> None:
        """Queue a turn of the user; the oldest goes where too many wait."""
        waiting = self._minds[session.slot].asked
        if len(waiting) == MAX_WAITING_TURNS:
            told = "too many turns wait for an answer; one was dropped"
            _tell_unanswered(session, waiting.popleft(), "overloaded", told)
        waiting.append(asked)

    def is_asked(self, slot: int) -> bool:
        """Whether a turn waits for its reply to begin."""
        mind = self._minds.get(slot)
        return mind is not None and (mind.reading is not None or bool(mind.asked))

    def withdraw(self, session: Session) -> None:
        """Break off the replies that have not begun, each when its turn has been read.

        The turns stay in the conversation: the user said them, and goes on.
        """
        mind = self._minds[session.slot]
        for asked in (mind.reading, *mind.asked):
            if asked is not None:
                asked.is_withdrawn = True

    def interrupt(self, session: Session) -> None:
        """Break the reply off; the conversation keeps what of it was heard."""
        mind = self._minds[session.slot]
        # A reply is thought to its end long before it is heard to its end. What a message that is
        # being read follows stays as it is.
        if self._runner.turns.sessions[session.slot].has_reply and mind.taking is None:
            self._runner.turns.cancel(session.slot, session.output.heard_tokens)
        mind.speech.cancel()

    def read_on(self) -> bool:
        """Read a piece of one session's turn; whether there was one."""
        reading = [slot for slot, mind in self._minds.items() if self._has_to_read(mind)]
        if not reading:
            return False
        slot = self._next_reader(reading)
        mind = self._minds[slot]
        if mind.taking is None:
            mind.reading = mind.asked.popleft()
            mind.taking = self._take(mind, mind.reading)
        self._go_on(mind, mind.taking)
        return True

    def _next_reader(self, reading: list[int]) -> int:
        """The slot that read last, for some pieces: half of two messages would help nobody."""
        self._pieces_in_a_row += 1
        if self._last_read not in reading or self._pieces_in_a_row > PIECES_IN_A_ROW:
            self._last_read = min(reading, key=lambda slot: (slot <= self._last_read, slot))
            self._pieces_in_a_row = 1
        return self._last_read

    def choose(self) -> dict[int, int]:
        """Decide one token for every reply under way; the ids to feed, by slot."""
        running = [slot for slot in self._minds if self._may_go_on(slot)]
        self._chosen = self._runner.turns.choose(running)
        return self._chosen.feeding

    def fed(self, states: Mapping[int, Tensor], timer: Timer) -> bool:
        """What was chosen is in the caches, with `states` [C] by slot; whether anything was."""
        chosen, self._chosen = self._chosen, Chosen[ReplyChunk]()
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
        parts: list[PromptPart] = [text]
        sounds: list[Tensor] = []
        if session.voice.embeddings is not None and session.speaks:
            language = session.option("language", "en")
            before, after = VOICE_PROMPTS.get(language, VOICE_PROMPTS["en"])
            sounds = [session.voice.embeddings]
            parts = [before, PromptSound(len(sounds[0])), session.config.instructions or after]
        prompt = self._runner.model.prompts.half_duplex(PromptMessage("system", tuple(parts)))
        check_instructions(len(prompt), self._max_context)
        yield from self._runner.turns.add_slowly(
            session.slot, prompt.weave([], sounds), protect=True
        )

    def _has_to_read(self, mind: TurnEntry) -> bool:
        if mind.session.is_over or mind.session.forced_listen:
            return False
        if mind.taking is not None:
            return True
        is_replying = self._runner.turns.sessions[mind.session.slot].is_replying
        return bool(mind.asked) and not is_replying and not mind.speaking

    def _go_on(self, mind: TurnEntry, taking: Generator[None, None, None]) -> None:
        try:
            next(taking)
            return
        except StopIteration:
            pass
        except ContextFull:
            mind.session.end("the model cannot remember more")
        except NothingToAnswer as error:
            self._refuse(mind, "empty_message", str(error))
        except (PromptError, ValueError) as error:
            self._refuse(mind, "bad_message", str(error))
        except Exception as error:
            raise SessionFailed(mind.session, error) from error
        mind.taking = mind.reading = None

    def _refuse(self, mind: TurnEntry, code: str, reason: str) -> None:
        """Tell why a turn gets no answer; whoever asked for a response gets one that failed."""
        mind.session.warn(code, reason)
        asked = mind.reading
        if asked is None or (asked.is_withdrawn and asked.utterance):
            return
        aloud = mind.session.reply_settings(asked.modalities).speech
        self._open_output(mind.session, asked, "audio" if aloud else "text")
        mind.session.output.finish("failed", reason)

    def _take(self, mind: TurnEntry, asked: PendingTurn) -> Generator[None, None, None]:
        """Encode a turn, with a yield between batches; then open the reply."""
        session, runner = mind.session, self._runner
        mind.started, mind.stages = time.monotonic(), []
        planned = plan_turn(runner, session, asked)
        if not planned.parts and not asked.instructions:
            raise NothingToAnswer("there is nothing to answer yet")
        prompts, talk = runner.model.prompts, runner.turns.sessions[session.slot]
        is_chat = session.config.mode == "turn_based"
        prompt = prompts.half_duplex(
            planned.message,
            answered=talk.has_replied,
            image_ids=is_chat,
            first_image=mind.images,
        )
        aside = prompts.aside(asked.instructions) if asked.instructions else []
        settings = session.reply_settings(asked.modalities, aside=len(aside))
        self._check_room(talk, len(prompt), settings)
        mind.images += len(planned.pictures)
        with timed(runner.model.device) as encode:
            images, sounds = yield from encode_turn(runner, planned, in_blocks=is_chat)
        with timed(runner.model.device) as prefill:
            pieces = prompt.weave(images, sounds)
            yield from runner.turns.add_slowly(session.slot, [*pieces, aside] if aside else pieces)
            runner.turns.open_replies({session.slot: settings})
        mind.stages += [("encode", encode), ("prefill", prefill)]
        self._begin_reply(mind, asked, settings)

    def _begin_reply(self, mind: TurnEntry, asked: PendingTurn, settings: ReplySettings) -> None:
        session = mind.session
        mind.is_aloud = settings.speech
        mind.speech.cancel()
        self._open_output(session, asked, "audio" if mind.is_aloud else "text")
        if asked.is_withdrawn:
            session.output.interrupt()
            self._runner.turns.cancel(session.slot, 0)

    def _open_output(self, session: Session, asked: PendingTurn, modality: Modality) -> None:
        trigger: Literal["speech", "request"] = "speech" if asked.utterance else "request"
        session.output.begin(
            trigger, utterance=asked.utterance, modality=modality, request=asked.request
        )

    def _check_room(self, talk: TurnState, message: int, settings: ReplySettings) -> None:
        """Raise `PromptError` if the message would not fit even into an empty conversation."""
        room = self._max_context - talk.window.protected - settings.max_new_tokens - ROOM_FOR_REPLY
        if settings.aside and settings.aside > room - message:
            raise PromptError(
                f"the message takes {message} of the model's positions and the instructions of "
                f"its response {settings.aside}, {room} are free for both: send shorter ones"
            )
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
            utterance = _TurnUtterance(slot, mind, chunk, mind.speech.generation, kv_tokens)
            mind.speaking.append(utterance)
            mind.session.warn_context(chunk.warning)
            if not mind.is_aloud:
                self._tell(utterance, NO_SOUND, [])
                continue
            on_chunk = partial(self._spoken, utterance)
            mind.speech.say(chunk.ids, chunk.hidden, on_chunk, is_unit=False, ends=chunk.is_last)

    def _spoken(self, utterance: _TurnUtterance, chunk: SpeechChunk) -> None:
        """Send the sound of a chunk."""
        if self._minds.get(utterance.slot) is utterance.mind:
            self._tell(utterance, chunk.pcm, chunk.stages)

    def _tell(self, utterance: _TurnUtterance, pcm: Pcm, stages: Stages) -> None:
        mind, chunk = utterance.mind, utterance.chunk
        mind.speaking.remove(utterance)
        session, output = mind.session, mind.session.output
        mind.stages += stages
        if utterance.generation != mind.speech.generation or session.is_over:
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


def _tell_unanswered(session: Session, asked: PendingTurn | None, code: str, reason: str) -> None:
    """Say why a turn gets no answer: to a client's request as its answer."""
    if asked is not None and not asked.utterance:
        session.refuse(asked.request, code, reason)
    else:
        session.warn(code, reason)
