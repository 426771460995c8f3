"""What the model reads of a session that takes turns: system message, turns, all of it anew."""

from __future__ import annotations

from collections.abc import Generator

from torch import Tensor

from engine.minicpmo.llm.functions import offer
from engine.minicpmo.llm.prompts import (
    VOICE_PROMPTS,
    Prompt,
    PromptError,
    PromptMessage,
    PromptPart,
    PromptSound,
    PromptTooLong,
    check_instructions,
)
from engine.minicpmo.llm.reply import CHUNK_TOKENS, ReplySettings
from engine.minicpmo.llm.turn_state import TurnState
from engine.minicpmo.modes.turn_encoding import PlannedMessages, encode_turn, plan_turn
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.session import Session
from engine.minicpmo.session.settings import option
from engine.minicpmo.session.turn_history import ToldAnswer, TurnHistory

ROOM_FOR_REPLY = 3 * CHUNK_TOKENS
"""Positions that a reply needs beside its tokens."""
SHORTENED = "the oldest turns have no room beside what stands before the conversation now"
DEFAULT_SYSTEM = "You are a helpful assistant."


class TurnContext:
    """What was said in one session, as the model reads it."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.history = TurnHistory()
        self.answer: ToldAnswer | None = None
        """The newest, which may still grow or be shortened."""
        self.images = 0
        """Pictures that were read, which have numbers."""
        self.is_unreadable = False
        """The system message is too long: nothing can be read until it changes."""


class TurnReader:
    """Owned by the turns of a runner; its generators yield between pieces of work."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    def state(self, session: Session) -> TurnState:
        return TurnState(
            self._runner.model.tokens,
            session.seed,
            self._runner.max_context,
            context_policy=session.config.context_policy,
            retention=session.config.retention,
        )

    def system(self, session: Session) -> Generator[None, None, None]:
        text = session.config.system_text(DEFAULT_SYSTEM)
        parts: list[PromptPart] = [text]
        sounds: list[Tensor] = []
        if session.voice.embeddings is not None and session.speaks:
            language = option(session.config, "language", "en")
            before, after = VOICE_PROMPTS.get(language, VOICE_PROMPTS["en"])
            sounds = [session.voice.embeddings]
            parts = [before, PromptSound(len(sounds[0])), session.config.system_text(after)]
        if self._runner.model.tokens.calls_functions:
            parts += offer(session.config.tools)
        prompt = self._runner.model.prompts.half_duplex(PromptMessage("system", tuple(parts)))
        check_instructions(len(prompt), self._runner.max_context)
        yield from self._runner.turns.add_slowly(
            session.slot, prompt.weave([], sounds), protect=True, media=prompt.media
        )

    def settle(self, context: TurnContext) -> None:
        """Note the newest answer as it has become: nothing shortens it any more."""
        answer, context.answer = context.answer, None
        if answer is not None:
            state = self._runner.turns.sessions[context.session.slot]
            answer.ids, answer.has_called = state.reply_ids, state.has_called

    def read_anew(self, context: TurnContext) -> Generator[None, None, None]:
        """Read the system message and as much of the conversation as there is room for."""
        session, runner, history = context.session, self._runner, context.history
        self.settle(context)
        history.is_stale = False
        state, before = self.state(session), runner.turns.sessions[session.slot]
        state.draws = before.draws
        runner.turns.close(session.slot)
        runner.turns.open(session.slot, state)
        context.images = 0
        try:
            yield from self.system(session)
        except PromptError:
            context.history.is_stale = context.is_unreadable = True
            raise
        context.is_unreadable = False
        room = min(state.window.marks.low, self._runner.max_context * 3 // 4) - state.length
        fitting: list[tuple[PlannedMessages, ToldAnswer]] = []
        *turns, _ = history.turns()
        for turn in reversed(turns):
            yield
            planned = plan_turn(runner, turn.given)
            assert turn.answer is not None
            room -= len(self.prompt(context, state, planned)) + len(turn.answer.ids)
            if room < 0:
                break
            fitting.insert(0, (planned, turn.answer))
        if len(fitting) < len(turns):
            history.keep(len(fitting))
            session.warn("context_shortened", SHORTENED)
        for planned, answer in fitting:
            yield from self._read_turn(context, planned, answer)

    def _read_turn(
        self, context: TurnContext, planned: PlannedMessages, answer: ToldAnswer
    ) -> Generator[None, None, None]:
        """Read a turn that was answered earlier."""
        runner, slot = self._runner, context.session.slot
        prompt = self.prompt(context, runner.turns.sessions[slot], planned)
        is_chat = context.session.config.mode == "turn_based"
        images, sounds = yield from encode_turn(runner, planned, in_blocks=is_chat)
        context.images += len(planned.pictures)
        pieces = prompt.weave(images, sounds)
        yield from runner.turns.add_slowly(slot, pieces, media=prompt.media)
        yield from runner.turns.add_reply(slot, answer.ids, has_called=answer.has_called)

    def prompt(self, context: TurnContext, state: TurnState, planned: PlannedMessages) -> Prompt:
        """What stands between two answers, as the model reads it now."""
        return self._runner.model.prompts.turn(
            planned.messages or [PromptMessage("user", ())],
            answered=state.has_replied,
            called=state.has_called,
            image_ids=context.session.config.mode == "turn_based",
            first_image=context.images,
        )

    def check_room(self, state: TurnState, message: int, settings: ReplySettings) -> None:
        """Raise `PromptTooLong` if the message would not fit even into an empty conversation."""
        taken = state.window.protected + settings.max_new_tokens + ROOM_FOR_REPLY
        room = max(0, self._runner.max_context - taken)
        if settings.aside and settings.aside > room - message:
            raise PromptTooLong(
                f"the message takes {message} of the model's positions and the instructions of "
                f"its response {settings.aside}, {room} are free for both: send shorter ones"
            )
        if message > room:
            raise PromptTooLong(
                f"the message takes {message} of the model's positions, {room} are free for one: "
                "send a shorter one"
            )
