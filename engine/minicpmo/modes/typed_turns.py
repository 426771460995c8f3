"""What is typed in full duplex: read between two units, and answered from the next one on."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from engine.ipc.protocol import CreateResponse, Modality
from engine.minicpmo.llm.context_window import ContextFull
from engine.minicpmo.llm.duplex_unit import UnitResult
from engine.minicpmo.llm.prompts import PromptTooLong
from engine.minicpmo.modes.turn_encoding import encode_turn, plan_turn
from engine.minicpmo.modes.unit_start import AskedTurn, DuplexEntry
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.item_decoding import DecodedItem
from engine.minicpmo.session.session import Session
from engine.minicpmo.speech.pipeline import NO_SOUND

MAX_ASKED = 4


class TypedTurns:
    """Used by the model's thread; keeps nothing of a session."""

    def __init__(self, runner: Runner, max_context: int) -> None:
        self._runner = runner
        self._most = max_context // 2

    def ask(self, entry: DuplexEntry, message: CreateResponse) -> None:
        """Have the model take a turn once neither it nor the user is speaking.

        What it is told for that stays in the conversation.
        """
        session = entry.session
        if len(entry.asked) == MAX_ASKED:
            session.refuse(message.request, "overloaded", "too many responses are asked for")
            return
        for name in _unheeded(session, message):
            told = f"{name}: in full duplex that of the session holds for every response"
            session.warn_once("unused_setting", told)
        if message.instructions:
            name = f"instructions-{message.request}"
            session.given.add(DecodedItem(session.id, name, "system", (message.instructions,)))
        entry.asked.append(message.request)

    def read(self, entry: DuplexEntry) -> Iterator[None]:
        """Read what was typed, piece by piece, between two units."""
        try:
            yield from self._read(entry, entry.session.given.take_items())
        except ContextFull:
            self._unread(entry, "context_full", "the model cannot remember more")
        except PromptTooLong as error:
            self._unread(entry, "context_length_exceeded", str(error))
        except ValueError as error:
            self._unread(entry, "bad_message", str(error))

    def _read(
        self, entry: DuplexEntry, items: Sequence[DecodedItem]
    ) -> Generator[None, None, None]:
        runner, slot = self._runner, entry.session.slot
        planned = plan_turn(runner, items)
        if not planned.messages:
            return
        prompt = runner.model.prompts.between_units(planned.messages)
        if len(prompt) > self._most:
            told = f"the messages take {len(prompt)} positions of the model's, and may take"
            raise PromptTooLong(f"{told} {self._most} in full duplex: send shorter ones")
        runner.duplex.make_room_to_read(slot, len(prompt))
        images, sounds = yield from encode_turn(runner, planned, in_blocks=True)
        yield from runner.duplex.read_slowly(slot, prompt.weave(images, sounds), prompt.media)

    def _unread(self, entry: DuplexEntry, code: str, reason: str) -> None:
        """Tell why nothing comes of what was typed."""
        requests = list(entry.asked)
        entry.asked.clear()
        for request in requests:
            entry.session.refuse(request, code, reason)
        if not requests:
            entry.session.warn(code, reason)

    def keep_time(self, entry: DuplexEntry) -> None:
        """Let units pass in silence for an answer to somebody of whom nothing is heard."""
        is_due = bool(entry.asked) and not entry.session.forced_listen
        if is_due or entry.answering is not None:
            entry.session.audio_input.fill()

    def begin(self, entry: DuplexEntry) -> None:
        """Have the unit that starts begin the oldest turn that is asked for, where one may."""
        if entry.asked and entry.may_begin_turn and not entry.speaking:
            entry.answering = AskedTurn(entry.asked.popleft())
            entry.state.speak()

    def passed(self, entry: DuplexEntry, result: UnitResult) -> None:
        """Take what a unit came to, when its speech has been requested."""
        answering = entry.answering
        if answering is None:
            return
        if result.is_turn_start:
            answering.is_told = True
        if entry.state.turn_open:
            return
        entry.answering = None
        if answering.is_told:
            return
        if result.is_cut:
            reason = "the user spoke, or the client cut it"
            entry.session.refuse(answering.request, "interrupted", reason)
        else:
            _say_nothing(entry.session, answering.request)

    def refuse(self, entry: DuplexEntry, code: str, reason: str) -> None:
        """Tell the client that nothing comes of the responses that have not begun."""
        requests = list(entry.asked)
        if entry.answering is not None and not entry.answering.is_told:
            requests.insert(0, entry.answering.request)
        entry.asked.clear()
        entry.answering = None
        for request in requests:
            entry.session.refuse(request, code, reason)


def _say_nothing(session: Session, request: str) -> None:
    """Answer with no words: the model has ended its turn before the first one."""
    modality: Modality = "audio" if session.speaks else "text"
    session.output.begin("request", modality=modality, request=request)
    session.output.say("", NO_SOUND, last=True)
    session.output.finish("completed")


def _unheeded(session: Session, message: CreateResponse) -> Iterator[str]:
    """The settings of one response that cannot be set for one."""
    if message.modalities and set(message.modalities) != set(session.config.modalities):
        yield "response.output_modalities"
    if message.max_output_tokens is not None:
        yield "response.max_output_tokens"
    if message.tools is not None:
        yield "response.tools"
    if message.tool_choice is not None:
        yield "response.tool_choice"
