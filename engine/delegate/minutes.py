"""What was said in a session, as a text model is told it."""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from engine.builtin.history import History, Item
from engine.ipc import protocol as p

MAX_ANSWERS = 4
"""Newest answers that can still be cut to what was heard."""
MAX_OPEN = 8
"""Utterances whose words are waited for, and as many whose words may come yet."""
HANDED_OVER = (
    "(The assistant who talks to the user said: {said!r} Do or find out what that is about, and "
    "answer the user.)"
)
NOTHING_SAID = "(The assistant who talks to the user hands over to you: answer the user.)"


class Minutes:
    """Owns the history of one session, and the places of what is not written down yet."""

    def __init__(self) -> None:
        self._history = History()
        self._answers: OrderedDict[int, tuple[Item, list[tuple[int, str]]]] = OrderedDict()
        self._open: OrderedDict[int, Item] = OrderedDict()
        """What the user said, by utterance, whose words are waited for."""
        self._late: OrderedDict[int, Item] = OrderedDict()
        """The same, for whose words nobody waits any more."""
        self._is_settled = asyncio.Event()
        self._is_settled.set()

    # ------------------------------------------------------------------ what the user says

    def speech_began(self, utterance: int) -> None:
        """Keep the place of what the user says, whose words come later."""
        item = Item(p.utterance_item(utterance), "user", "")
        self._open[utterance] = item
        self._history.add(item)
        while len(self._open) > MAX_OPEN:
            self._give_up(next(iter(self._open)))
        self._is_settled.clear()

    def written_down(self, message: p.InputTranscript) -> None:
        if not message.final:
            return
        item = self._open.pop(message.utterance, None) or self._late.pop(message.utterance, None)
        if item is None:
            item = Item(p.utterance_item(message.utterance), "user", "")
            self._history.add(item)
        item.text = message.text
        if not self._open:
            self._is_settled.set()

    async def settled(self, patience_s: float) -> None:
        """Wait for the words of what was said, so long at most; they may come yet."""
        try:
            async with asyncio.timeout(patience_s):
                await self._is_settled.wait()
        except TimeoutError:
            for utterance in tuple(self._open):
                self._give_up(utterance)
            self._is_settled.set()

    def _give_up(self, utterance: int) -> None:
        """Wait no more for the words of an utterance; its place is kept."""
        self._late[utterance] = self._open.pop(utterance)
        while len(self._late) > MAX_OPEN:
            self._late.popitem(last=False)

    # ------------------------------------------------------------------ what is said and written

    def said(self, epoch: int, pts: int, text: str) -> None:
        """Add words of an answer, due at sample `pts` of its sound."""
        if epoch not in self._answers:
            item = Item(p.response_item(epoch), "assistant", "")
            self._answers[epoch] = (item, [])
            self._history.add(item)
            while len(self._answers) > MAX_ANSWERS:
                self._answers.popitem(last=False)
        item, words = self._answers[epoch]
        words.append((pts, text))
        item.text += text

    def words_of(self, epoch: int) -> str:
        """Return what an answer has said so far."""
        return self._answers[epoch][0].text if epoch in self._answers else ""

    def heard(self, message: p.Heard) -> None:
        """Take back what of a cut answer was not heard."""
        if message.interrupted and message.epoch in self._answers:
            item, words = self._answers[message.epoch]
            heard = [text for pts, text in words if message.samples and pts <= message.samples]
            item.text = "".join(heard)

    def written(self, message: p.ItemIn) -> None:
        texts = [part.text for part in message.parts if isinstance(part, p.TextPart)]
        self._history.add(Item(message.item, message.role, "\n".join(texts)), message.after)

    def called(self, item: str, call_id: str, name: str, arguments: str, after: str = "") -> None:
        self._history.add(Item(item, "call", arguments, call_id=call_id, name=name), after)

    def gave_back(self, message: p.FunctionOutputIn) -> bool:
        """Add what a function gave back; return whether there is its call."""
        if not self._history.has_call(message.call_id):
            return False
        item = Item(message.item, "output", message.output, call_id=message.call_id)
        self._history.add(item, message.after)
        return True

    def appended(self, name: str, text: str) -> None:
        """Add a rule, or something that is known."""
        self._history.add(Item(name, "system", text))

    def delete(self, item: str) -> None:
        self._history.delete(item)

    # ------------------------------------------------------------------ for the text model

    def task(self) -> History:
        """Return a copy of the conversation that ends in something to be answered."""
        items = list(self._history.items)
        said = ""
        if items and items[-1].role == "assistant":
            # What hands a task over is no answer to it.
            said = items.pop().text.strip()
        is_open = bool(items) and (
            items[-1].role == "output" or (items[-1].role == "user" and items[-1].text != "")
        )
        history = History()
        for item in items:
            history.add(
                Item(item.ident, item.role, item.text, call_id=item.call_id, name=item.name)
            )
        if not is_open:
            asked = HANDED_OVER.format(said=said) if said else NOTHING_SAID
            history.add(Item("task", "user", asked))
        return history
