"""What a user gives to a session, on its way to the engine: sound, pictures and files.

Counts the sound, so that neither a pause nor a mute is a gap in it.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from engine.ipc import protocol as p
from server.control import AddItem
from server.worker.absence import Absence
from server.worker.commands import SessionCommands, engine_unavailable
from server.worker.conversation import Conversation
from server.worker.engine_settings import mode_of
from server.worker.engine_way import EngineWay
from server.worker.pause import Pause
from server.worker.recording import CallRecording

REST_S = 6.0
"""Of a mute: long enough to answer what was said before, and for a word of the model's own."""


class MutedRest:
    """Owns whether a muted user gives the engine no more silence; call `look` once a second.

    Each second of silence takes some of what such a model can remember. While it answers, it needs
    the seconds to speak in.
    """

    def __init__(
        self,
        conversation: Conversation,
        commands: SessionCommands,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._conversation = conversation
        self._commands = commands
        self._clock = clock
        self._since: float | None = None

    @property
    def is_on(self) -> bool:
        """Whether no silence is given; not any more from the moment of unmuting."""
        is_due = self._since is not None and self._clock() - self._since >= REST_S
        return self._commands.is_muted and is_due

    def look(self) -> None:
        """Notice whether the user is muted and nothing is being said."""
        abilities = self._conversation.abilities
        in_units = abilities is not None and abilities.hears_in_units
        is_full = mode_of(self._conversation.settings) == "full_duplex"
        may_rest = in_units and is_full and self._commands.is_muted
        if not may_rest or self._conversation.responses.is_answering:
            self._since = None
        elif self._since is None:
            self._since = self._clock()


class UserInput:
    """Owns how far the user's sound has come; call `look` once a second."""

    def __init__(
        self,
        conversation: Conversation,
        commands: SessionCommands,
        way: EngineWay,
        pause: Pause,
        absence: Absence,
    ) -> None:
        self._conversation = conversation
        self._commands = commands
        self._way = way
        self._pause = pause
        self._absence = absence
        self._rest = MutedRest(conversation, commands)
        self._skipped = 0
        """By how many samples the sound's own count is ahead of what was taken: those of pauses.
        Behind it, where another connection counts anew."""
        self._came, self._taken = 0, 0
        """Where what came last ends, by its own count, and by that of what was taken."""
        self._is_piece_lost = False
        self.recording: CallRecording | None = None
        """What keeps the user's sound and pictures, if anything does."""
        self.goes_on_muted = False
        """Whether a mute never makes the engine rest: the timeline of a Live session goes on."""

    @property
    def is_resting(self) -> bool:
        """Whether nothing is taken: in a pause, or while the client is away."""
        return self._pause.is_on or self._absence.is_on

    @property
    def takes_sound(self) -> bool:
        """Whether the engine hears anything: also not where a mute has made it rest."""
        return not self.is_resting and (self.goes_on_muted or not self._rest.is_on)

    def look(self) -> None:
        """Notice whether the engine may rest."""
        self._rest.look()

    def hear(self, pts: int, pcm: bytes) -> None:
        """Pass the user's sound on: 16 kHz, `pts` counts its samples, from 0 on each connection."""
        samples = len(pcm) // 2
        if pts < self._came:
            self._skipped = pts - self._taken
        self._came = pts + samples
        if not self.takes_sound:
            self._skipped += samples
            return
        pts -= self._skipped
        self._taken = pts + samples
        self._conversation.input_pts = pts
        if self._commands.is_muted:
            pcm = bytes(len(pcm))
        if self.recording is not None:
            self.recording.hear(pts, pcm)
        played = self._conversation.responses.speaker.take_played()
        self._way.send(p.AudioIn(self._conversation.session_id, pts, pcm, played))

    def see(self, width: int, height: int, rgb: bytes) -> None:
        """Pass on a picture of the camera or of what is shared; without pixels: it went off."""
        if not self.is_resting:
            if self.recording is not None:
                self.recording.see(width, height, rgb)
            session_id, pts = self._conversation.session_id, self._conversation.input_pts
            self._way.send(p.ImageIn(session_id, pts, width, height, rgb))

    def pass_piece(self, piece: p.ItemPiece) -> None:
        """Hand the engine a piece of an item; a lost one is told when the item is complete."""
        is_lost = not self._way.send(piece)
        self._is_piece_lost = is_lost or (self._is_piece_lost and not piece.first)

    def place_item(self, message: AddItem) -> None:
        """Put an uploaded item into the conversation; raises `ProtocolError`."""
        if self._is_piece_lost and not message.last.first:
            raise engine_unavailable()
        self._commands.place_item(message.item, message.previous_item_id, message.last)
