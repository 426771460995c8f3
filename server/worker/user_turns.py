"""What the user says: utterances that become items, and their transcripts."""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.ipc import protocol as p
from server.worker.items import Items
from signaling.session import events as ev
from signaling.session.ids import new_id
from signaling.session.items import MessageItem, ShownPart

MAX_UTTERANCES = 64


class UserSpeech:
    """A stretch of the user's speech and the item it became."""

    def __init__(self, number: int, item_id: str, start_pts: int) -> None:
        self.number = number
        self.item_id = item_id
        self.start_pts = start_pts
        self.end_pts = start_pts
        self.partial = ""
        self.is_committed = False


class UserTurns:
    """Owns the newest utterances of a conversation and puts their items into it."""

    def __init__(
        self,
        items: Items,
        emit: Callable[[ev.SessionEvent], None],
        clock: Callable[[], float] = time.monotonic,
        tells_words: Callable[[], bool] = lambda: True,
    ) -> None:
        """`tells_words`: whether what is said is told in words."""
        self.count = 0
        """Turns that were committed."""
        self.is_speaking = False
        self.stopped_at: float | None = None
        """When the last utterance was known to be over; until its answer is heard."""
        self._items = items
        self._emit = emit
        self._clock = clock
        self._tells_words = tells_words
        self._utterances: dict[int, UserSpeech] = {}

    def hear(
        self,
        message: p.SpeechStarted | p.SpeechStopped | p.SpeechCommitted | p.InputTranscript,
    ) -> None:
        match message:
            case p.SpeechStarted():
                self.is_speaking = True
                utterance = self._utterance(message.utterance, message.pts)
                start_ms = input_ms(message.pts)
                self._emit(ev.UserStartedSpeaking(item_id=utterance.item_id, start_ms=start_ms))
            case p.SpeechStopped():
                self.is_speaking = False
                utterance = self._utterance(message.utterance, message.pts)
                utterance.end_pts = message.pts
                self.stopped_at = self._clock()
                end_ms = input_ms(message.pts)
                self._emit(ev.UserStoppedSpeaking(item_id=utterance.item_id, end_ms=end_ms))
                self._commit(utterance)
            case p.SpeechCommitted():
                self._commit(self._utterance(message.utterance))
            case p.InputTranscript():
                self._transcript(message)

    def time_out(self, now_ms: int, silent_ms: int) -> None:
        """Put a turn of silence into the conversation."""
        item_id, after = new_id("item"), self._items.last_id
        start_ms = max(0, now_ms - silent_ms)
        self._emit(ev.UserTimedOut(item_id=item_id, start_ms=start_ms, end_ms=now_ms))
        self.count += 1
        self._emit(ev.TurnCommitted(item_id=item_id, after=after))
        item = MessageItem(id=item_id, role="user", parts=(ShownPart("audio", ""),))
        self._items.put(item)
        self._emit(ev.ItemPlaced(item=item, after=after))

    def _utterance(self, number: int, pts: int = 0) -> UserSpeech:
        utterance = self._utterances.get(number)
        if utterance is None:
            utterance = self._utterances[number] = UserSpeech(number, new_id("item"), pts)
            if len(self._utterances) > MAX_UTTERANCES:
                del self._utterances[next(iter(self._utterances))]
        return utterance

    def _commit(self, utterance: UserSpeech) -> None:
        if utterance.is_committed:
            return
        utterance.is_committed = True
        self.count += 1
        after = self._items.last_id
        self._emit(ev.TurnCommitted(item_id=utterance.item_id, after=after))
        item = _spoken(utterance, None)
        self._items.put(item, name=p.utterance_item(utterance.number))
        self._emit(ev.ItemPlaced(item=item, after=after))

    def _transcript(self, message: p.InputTranscript) -> None:
        utterance = self._utterance(message.utterance)
        item_id, start_ms = utterance.item_id, input_ms(utterance.start_pts)
        if not message.final:
            # Only what grows can be told; a rewritten partial waits for the final.
            if message.text.startswith(utterance.partial):
                text = message.text[len(utterance.partial) :]
                utterance.partial = message.text
                if text and self._tells_words():
                    self._emit(ev.TranscriptGrew(item_id=item_id, text=text, start_ms=start_ms))
            return
        self._commit(utterance)
        if not self._tells_words():
            return
        if message.error:
            failed = ev.TranscriptFailed(item_id=item_id, code=message.code, message=message.error)
            self._emit(failed)
            return
        if item_id in self._items:
            self._items.put(_spoken(utterance, message.text))
        end_ms = max(start_ms, input_ms(utterance.end_pts))
        self._emit(
            ev.TranscriptCompleted(
                item_id=item_id,
                text=message.text,
                grown=utterance.partial,
                start_ms=start_ms,
                end_ms=end_ms,
            )
        )


def input_ms(pts: int) -> int:
    """A position in the input as clients count it."""
    return pts * 1000 // p.INPUT_HZ


def _spoken(utterance: UserSpeech, transcript: str | None) -> MessageItem:
    part = ShownPart("audio", transcript)
    return MessageItem(id=utterance.item_id, role="user", parts=(part,))
