"""What is typed in full duplex: read between two units, and answered from the next one on."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence

from engine.ipc.protocol import CreateResponse, Modality
from engine.minicpmo.llm.context_window import ContextFull
from engine.minicpmo.llm.duplex_state import UNIT_END_IDS
from engine.minicpmo.llm.duplex_unit import UnitResult
from engine.minicpmo.llm.prompts import Prompt
from engine.minicpmo.llm.rows import LONG_ROW
from engine.minicpmo.modes.turn_encoding import PlannedMessages, encode_turn, plan_turn
from engine.minicpmo.modes.unit_start import AskedTurn, DuplexEntry
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.item_cutting import cut_item
from engine.minicpmo.session.item_decoding import DecodedItem
from engine.minicpmo.session.session import Session
from engine.minicpmo.speech.pipeline import NO_SOUND

MAX_ASKED = 4
PORTION = LONG_ROW - UNIT_END_IDS
"""Positions of messages that are read at once, in one piece; units pass between two of these. A
longer message is read as several."""


class TypedTurns:
    """Used by the model's thread; keeps nothing of a session."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._most = runner.max_context // 2

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
            name = _instructions_of(message.request)
            session.given.add(DecodedItem(session.id, name, "system", (message.instructions,)))
        unread = frozenset(item.item for item in (*entry.typed_items, *session.given.items))
        entry.asked.append(AskedTurn(message.request, unread))

    def read(self, entry: DuplexEntry) -> Iterator[None]:
        """Read some of what was typed, with a yield between two pieces.

        Begins where no turn is under way, and goes on there; between two units if the entry is amid
        a message.
        """
        items = self._portion(entry)
        entry.typed_items = items
        try:
            yield from self._read(entry, items)
        except ContextFull:
            waiting = [*items, *entry.session.given.take_items()]
            self._unread(entry, waiting, "context_full", "the model cannot remember more")
        except ValueError as error:
            self._unread(entry, items, "bad_message", str(error))
        finally:
            entry.is_amid_message, entry.typed_items = False, ()

    def _read(
        self, entry: DuplexEntry, items: Sequence[DecodedItem]
    ) -> Generator[None, None, None]:
        runner, slot = self._runner, entry.session.slot
        planned, prompt = self._plan(items)
        if prompt is None:
            return
        images, sounds = yield from encode_turn(runner, planned, in_blocks=True)
        pieces = prompt.weave(images, sounds)
        runner.duplex.make_room_to_read(slot, len(prompt))
        entry.is_amid_message = True
        yield from runner.duplex.read_slowly(slot, pieces, prompt.media)

    def _plan(self, items: Sequence[DecodedItem]) -> tuple[PlannedMessages, Prompt | None]:
        planned = plan_turn(self._runner, items)
        if not planned.messages:
            return planned, None
        return planned, self._runner.model.prompts.between_units(planned.messages)

    def _portion(self, entry: DuplexEntry) -> list[DecodedItem]:
        """Take the oldest messages, as many as are read at once, of the newest ones that fit."""
        given, most = entry.session.given, self._room(entry)
        sizes = self._sizes(entry, most)
        left_out = 0
        while sum(sizes) > most:
            sizes.pop(0)
            left_out += 1
        if left_out:
            given.take_items(left_out)
            told = f"only the newest of the messages are read: {left_out} are left out"
            entry.session.warn("context_shortened", told)
        count, total = 0, 0
        while count < len(sizes) and (count == 0 or total + sizes[count] <= PORTION):
            total += sizes[count]
            count += 1
        items = given.take_items(count)
        if total > PORTION and (cut := self._cut(items[0], total)) is not None:
            items = [cut[0]]
            given.put_back(cut[1])
            left = total - self._size(cut[0])
            if left > 2 * PORTION:
                # Measured when little is left: measuring each rest would take the square of them.
                entry.sizes[cut[1]] = left
        return items

    def _cut(self, item: DecodedItem, size: int) -> tuple[DecodedItem, DecodedItem] | None:
        chars = _chars(item)

        def fits(part: DecodedItem) -> bool:
            is_long = chars > 0 and size * _chars(part) > 2 * PORTION * chars
            return not is_long and self._size(part) <= PORTION

        return cut_item(item, fits)

    def _size(self, item: DecodedItem) -> int:
        """Positions of a message; raises `ValueError` for one that cannot be read."""
        prompt = self._plan([item])[1]
        return 0 if prompt is None else len(prompt)

    def _sizes(self, entry: DuplexEntry, most: int) -> list[int]:
        """Positions of each message that waits; those that cannot be read are refused."""
        given, sizes = entry.session.given, []
        for item in list(given.items):
            if item not in given.items:
                # The instructions of a response that was just refused.
                continue
            code, told, size = "", "", 0
            try:
                size = entry.sizes[item] if item in entry.sizes else self._size(item)
                entry.sizes[item] = size
            except ValueError as error:
                code, told = "bad_message", str(error)
            if size > most:
                code = "context_length_exceeded"
                told = f"the message takes {size} positions of the model's, and may take {most} "
                told += "in full duplex: send shorter ones"
            if code:
                given.forget(item.item)
                self._unread(entry, [item], code, told)
            else:
                sizes.append(size)
        return sizes

    def _room(self, entry: DuplexEntry) -> int:
        """Most positions of messages, so that the next unit does not make the model forget them."""
        marks, protected = entry.state.window.marks, entry.state.window.protected
        return self._most if marks is None else max(0, min(self._most, marks.low - protected))

    def _unread(
        self, entry: DuplexEntry, items: Sequence[DecodedItem], code: str, reason: str
    ) -> None:
        """Tell why nothing comes of what was typed, and of what was asked for behind it."""
        names = {item.item for item in items}
        behind = [asked for asked in entry.asked if asked.behind & names]
        for asked in behind:
            entry.asked.remove(asked)
            _refuse(entry.session, asked, code, reason)
        if not behind:
            entry.session.warn(code, reason)

    def keep_time(self, entry: DuplexEntry) -> None:
        """Let units pass in silence for an answer to somebody of whom nothing is heard."""
        is_due = bool(entry.asked) and not (entry.has_to_read or entry.session.forced_listen)
        if is_due or entry.answering is not None:
            entry.session.audio_input.fill()

    def begin(self, entry: DuplexEntry) -> None:
        """Have the unit that starts begin the oldest turn that is asked for, where one may."""
        is_free = entry.may_begin_turn and not (entry.speaking or entry.has_to_read)
        if entry.asked and is_free:
            entry.answering = entry.asked.popleft()
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
        turns = list(entry.asked)
        if entry.answering is not None and not entry.answering.is_told:
            turns.insert(0, entry.answering)
        entry.asked.clear()
        entry.answering = None
        for asked in turns:
            _refuse(entry.session, asked, code, reason)


def _chars(item: DecodedItem) -> int:
    """The length of a message of words alone; 0: it has something else, too."""
    words = [part for part in item.parts if isinstance(part, str)]
    return sum(map(len, words)) if len(words) == len(item.parts) else 0


def _refuse(session: Session, asked: AskedTurn, code: str, reason: str) -> None:
    """Tell that nothing comes of a response; what it alone was to be told is not kept."""
    session.given.forget(_instructions_of(asked.request))
    session.refuse(asked.request, code, reason)


def _instructions_of(request: str) -> str:
    return f"instructions-{request}"


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
