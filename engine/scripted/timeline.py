"""What comes at which second of the caller's sound: cues, and what the user is heard to say."""

from __future__ import annotations

from engine.base import Send
from engine.ipc.protocol import INPUT_HZ, InputTranscript, SpeechStarted, SpeechStopped
from engine.scripted.script import Cue, Script


class Timeline:
    """Owns the place in a script's cues; counts in samples of 16 kHz."""

    def __init__(self, script: Script) -> None:
        self._cues = sorted(script.cue, key=lambda cue: cue.at)
        self._round = round(script.repeat_s * INPUT_HZ)
        self._begun = 0
        """Where the present round began."""
        self._next = 0

    def due(self, position: int) -> list[tuple[int, Cue]]:
        """The cues up to `position`, each with its own, once."""
        found: list[tuple[int, Cue]] = []
        while True:
            while self._next < len(self._cues):
                cue = self._cues[self._next]
                at = self._begun + round(cue.at * INPUT_HZ)
                if at > position:
                    return found
                found.append((at, cue))
                self._next += 1
            if not (self._round and self._cues) or position < self._begun + self._round:
                return found
            self._begun += self._round
            self._next = 0


class HeardSpeech:
    """Something that the script takes the user to say, word by word. Owned by a session."""

    def __init__(
        self, session: str, send: Send, number: int, cue: Cue, start: int, *, transcribe: bool
    ) -> None:
        self._session = session
        self._send = send
        self._number = number
        self._words = cue.heard.split(" ")
        self._start = start
        self._end = start + round(cue.heard_s * INPUT_HZ)
        self._transcribe = transcribe
        self._told = 0
        send(SpeechStarted(session, number, start))

    def go_on(self, position: int) -> bool:
        """Tell the words up to `position`; returns whether more follows."""
        if position >= self._end:
            self.stop(self._end)
            return False
        share = (position - self._start) / (self._end - self._start)
        count = int(share * len(self._words))
        if count > self._told and self._transcribe:
            self._told = count
            text = " ".join(self._words[:count])
            self._send(InputTranscript(self._session, self._number, text, False))
        return True

    def stop(self, position: int) -> None:
        """End it, with all its words."""
        self._send(SpeechStopped(self._session, self._number, min(position, self._end)))
        if self._transcribe:
            text = " ".join(self._words)
            self._send(InputTranscript(self._session, self._number, text, True))
