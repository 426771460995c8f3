"""Half duplex and turn-based mode: whole messages go in, replies come out in chunks."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator

from engine.gpu.timing import Timer
from engine.ipc.protocol import AppendContext, ContextAppended
from engine.minicpmo.llm.context_window import ContextFull
from engine.minicpmo.llm.functions import offer
from engine.minicpmo.llm.prompts import PromptError, PromptTooLong
from engine.minicpmo.llm.reply import ReplyChunk, ReplySettings
from engine.minicpmo.modes.mode import Mode
from engine.minicpmo.modes.reading_rota import ReadingRota
from engine.minicpmo.modes.reply_speech import ReplyEntry
from engine.minicpmo.modes.turn_encoding import PendingTurn, encode_turn, plan_turn
from engine.minicpmo.modes.turn_reading import TurnReader
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.item_decoding import DecodedItem
from engine.minicpmo.session.session import Session, SessionFailed
from engine.minicpmo.session.settings import reply_settings
from engine.minicpmo.speech.worker import SessionSpeech, SpeechWorker

MAX_WAITING_TURNS = 4
READ = "Please read the text below.\n"
"""What stands before a text that is said, as in the published code."""


class NothingToAnswer(ValueError):
    """A response is asked for, and nothing was said or sent."""


class TurnEntry(ReplyEntry):
    """A session that takes turns, and the turns that wait."""

    def __init__(self, session: Session, speech: SessionSpeech) -> None:
        super().__init__(session, speech)
        self.asked: deque[PendingTurn] = deque(maxlen=MAX_WAITING_TURNS)
        self.taking: Generator[None, None, None] | None = None
        """Reads the system message or a turn, batch by batch."""
        self.reading: PendingTurn | None = None
        """The turn that `taking` reads."""

    def close(self) -> None:
        super().close()
        if self.taking is not None:
            self.taking.close()
        self.taking = self.reading = None
        self.asked.clear()


class HalfDuplex(Mode[TurnEntry, ReplyChunk]):
    """Drives the sessions of a runner that take turns."""

    def __init__(self, runner: Runner, speech: SpeechWorker) -> None:
        super().__init__(runner.turns)
        self._runner = runner
        self._speech = speech
        self._reader = TurnReader(runner)
        self._rota = ReadingRota()

    def open(self, session: Session) -> None:
        """Begin a conversation in the session's slot; raises `ValueError` for bad settings."""
        reply_settings(session.config, speaks=session.speaks)
        self._runner.turns.open(session.slot, self._reader.state(session))
        entry = self._entries[session.slot] = TurnEntry(
            session, SessionSpeech(self._runner, self._speech, session)
        )
        entry.taking = self._reader.system(session)
        # Prefill the first piece now, so that what does not fit is refused at once.
        if next(entry.taking, self) is self:
            entry.taking = None

    def configure(self, session: Session) -> None:
        """Take new settings from the next reply on; raises `ValueError` for bad ones."""
        config = session.config
        reply_settings(config, speaks=session.speaks)
        self._runner.turns.set_policy(session.slot, config.context_policy, config.retention)

    def change_system(self, session: Session) -> None:
        """Have the system message read anew, and the conversation behind it."""
        context = self._entries[session.slot].context
        context.history.is_stale, context.is_unreadable = True, False

    def insert(self, session: Session, item: DecodedItem) -> bool:
        """Put an item among what was read; return whether there is its place."""
        entry = self._entries.get(session.slot)
        return entry is not None and entry.context.history.insert(item)

    def delete(self, session: Session, name: str) -> bool:
        """Take something out of what was read; return whether it was there."""
        entry = self._entries.get(session.slot)
        return entry is not None and entry.context.history.delete(name)

    def refuse_asked(self, session: Session, code: str, reason: str) -> None:
        """Tell the client that nothing comes of what it asked for and has not begun."""
        entry = self._entries[session.slot]
        for asked in (entry.reading, *entry.asked):
            if asked is not None and not asked.utterance:
                session.refuse(asked.request, code, reason)

    def ask(self, session: Session, asked: PendingTurn) -> None:
        """Queue a turn of the user; the oldest goes where too many wait."""
        waiting = self._entries[session.slot].asked
        if len(waiting) == MAX_WAITING_TURNS:
            told = "too many turns wait for an answer; one was dropped"
            _tell_unanswered(session, waiting.popleft(), "overloaded", told)
        waiting.append(asked)

    def say(self, session: Session, message: AppendContext) -> None:
        """Have a text said word for word, when nothing else is."""
        tokens = self._runner.model.tokens
        unsaid = {*tokens.half_duplex_forbidden, *tokens.special_ids}
        ids = tuple(i for i in tokens.encode_literal(message.text) if i not in unsaid)
        if not ids:
            session.refuse(message.request, "empty_message", "there is nothing to say")
            return
        item = DecodedItem(session.id, f"said-{message.request}", "user", (READ, message.text))
        at = session.audio_input.position
        session.send(ContextAppended(session.id, message.request, at, at))
        self.ask(session, PendingTurn([item], says=ids))

    def is_asked(self, slot: int) -> bool:
        """Return whether a turn waits for its reply to begin."""
        entry = self._entries.get(slot)
        return entry is not None and (entry.reading is not None or bool(entry.asked))

    def waits_for_outputs(self, slot: int) -> bool:
        """The newest reply has ended with calls: what it said may be heard to its end."""
        entry = self._entries[slot]
        return entry.has_called and not entry.session.output.is_open

    def withdraw(self, session: Session) -> None:
        """Break off the replies that have not begun, each when its turn has been read.

        The turns stay in the conversation: the user said them, and goes on.
        """
        entry = self._entries[session.slot]
        for asked in (entry.reading, *entry.asked):
            if asked is not None:
                asked.is_withdrawn = True

    def interrupt(self, session: Session) -> None:
        """Break the reply off; the conversation keeps what of it was heard."""
        entry = self._entries[session.slot]
        # A reply is generated long before all of it is heard. The reply before a message that is
        # being read stays as it is.
        if self._runner.turns.sessions[session.slot].has_reply and entry.taking is None:
            self._runner.turns.cancel(session.slot, session.output.heard_tokens)
        entry.speech.cancel()

    def read_on(self) -> bool:
        """Read a piece of one session's turn; return whether there was one."""
        reading = [slot for slot, entry in self._entries.items() if self._has_to_read(entry)]
        if not reading:
            return False
        slot = self._rota.next(reading)
        entry = self._entries[slot]
        if entry.taking is None and entry.asked:
            entry.reading = entry.asked.popleft()
            entry.taking = self._take(entry, entry.reading)
        elif entry.taking is None:
            entry.taking = self._reader.read_anew(entry.context)
        self._go_on(entry, entry.taking)
        return True

    def under_way(self) -> list[int]:
        sessions = self._runner.turns.sessions
        return [
            slot
            for slot, entry in self._entries.items()
            if sessions[slot].needs_decision and not entry.session.output.is_full
        ]

    def _has_to_read(self, entry: TurnEntry) -> bool:
        if entry.session.is_over or entry.session.forced_listen:
            return False
        if entry.taking is not None:
            return True
        if self.waits_for_outputs(entry.session.slot) and entry.session.output.is_speaking:
            # What was said before the calls is played first.
            return False
        is_replying = self._runner.turns.sessions[entry.session.slot].needs_decision
        if is_replying or entry.speaking:
            return False
        if entry.asked and entry.asked[0].says and entry.session.output.is_speaking:
            # Nobody asked for it now: what is being said is heard to its end.
            return False
        # What was heard of the newest answer is known when it is over.
        return bool(entry.asked) or (
            entry.context.history.is_stale
            and not entry.context.is_unreadable
            and not entry.session.output.is_speaking
        )

    def _go_on(self, entry: TurnEntry, taking: Generator[None, None, None]) -> None:
        try:
            next(taking)
            return
        except StopIteration:
            pass
        except ContextFull:
            entry.session.end("the model cannot remember more")
        except NothingToAnswer as error:
            self._refuse(entry, "empty_message", str(error))
        except PromptTooLong as error:
            self._refuse(entry, "context_length_exceeded", str(error))
        except (PromptError, ValueError) as error:
            self._refuse(entry, "bad_message", str(error))
        except Exception as error:
            raise SessionFailed(entry.session, error) from error
        entry.taking = entry.reading = None

    def _refuse(self, entry: TurnEntry, code: str, reason: str) -> None:
        """Tell why a turn gets no answer; whoever asked for a response gets one that failed."""
        entry.session.warn(code, reason)
        asked = entry.reading
        if asked is None or (asked.is_withdrawn and asked.utterance):
            return
        entry.open_output(asked, aloud=entry.session.can_speak(asked.modalities))
        entry.session.output.finish("failed", reason)

    def _take(self, entry: TurnEntry, asked: PendingTurn) -> Generator[None, None, None]:
        """Encode a turn, with a yield between batches; then open the reply."""
        session, runner = entry.session, self._runner
        entry.started, entry.stages = time.monotonic(), []
        was_stale = entry.context.history.is_stale
        if was_stale:
            yield from self._reader.read_anew(entry.context)
        self._reader.settle(entry.context)
        given = [*entry.context.history.turns()[-1].given, *asked.given]
        planned = plan_turn(runner, given)
        if not planned.messages and not asked.instructions:
            raise NothingToAnswer("there is nothing to answer yet")
        prompts, state = runner.model.prompts, runner.turns.sessions[session.slot]
        is_chat = session.config.mode == "turn_based"
        # The system message is read for the first answer.
        cached = 0 if was_stale or not state.has_replied else state.length
        prompt = self._reader.prompt(entry.context, state, planned)
        offered = () if asked.tools is None else offer(asked.tools, behind=bool(asked.instructions))
        aside = prompts.aside(asked.instructions, offered) if asked.instructions or offered else []
        settings = self._settings(entry, asked, len(aside))
        self._reader.check_room(state, len(prompt), settings)
        entry.context.images += len(planned.pictures)
        with Timer(runner.model.device) as encode:
            images, sounds = yield from encode_turn(runner, planned, in_blocks=is_chat)
        with Timer(runner.model.device) as prefill:
            pieces = prompt.weave(images, sounds)
            pieces = [*pieces, aside] if aside else pieces
            yield from runner.turns.add_slowly(session.slot, pieces, media=prompt.media)
            runner.turns.open_replies({session.slot: settings})
        entry.context.history.add(*asked.given)
        made_from = state.input_split(min(cached, state.length))
        entry.stages += [("encode", encode), ("prefill", prefill)]
        entry.begin(asked, made_from, aloud=settings.speech)
        if asked.is_withdrawn:
            session.output.interrupt()
            runner.turns.cancel(session.slot, 0)

    def _settings(self, entry: TurnEntry, asked: PendingTurn, aside: int) -> ReplySettings:
        """How a turn is answered, and which functions it may call; raises `ValueError`."""
        config, model = entry.session.config, self._runner.model
        choice, name = config.tool_choice, config.tool_name
        if asked.tool_choice is not None:
            choice, name = asked.tool_choice, asked.tool_name
        tools = config.tools if asked.tools is None else asked.tools
        may_call = not asked.says and choice != "none" and model.tokens.calls_functions
        can_call = bool(tools) and may_call
        entry.tools = tools if can_call else ()
        must_call = can_call and choice == "required"
        return reply_settings(
            config,
            speaks=entry.session.can_speak(asked.modalities),
            aside=aside,
            max_tokens=asked.max_output_tokens,
            may_call=can_call,
            call_opening=model.prompts.call_opening(name) if must_call else (),
            says=asked.says,
        )

    def finish(self, results: dict[int, ReplyChunk]) -> None:
        for slot, chunk in results.items():
            self._entries[slot].pass_on(chunk, self._runner.turns.sessions[slot].length)


def _tell_unanswered(session: Session, asked: PendingTurn | None, code: str, reason: str) -> None:
    """Say why a turn gets no answer: to a client's request as its answer."""
    if asked is not None and not asked.utterance:
        session.refuse(asked.request, code, reason)
    else:
        session.warn(code, reason)
