"""What a session is told, as its mode and its memory are to take it."""

from __future__ import annotations

from typing import Literal

import torch

from engine.ingest.messages import SoundHeard
from engine.ipc.protocol import (
    ROOT,
    AppendContext,
    AudioIn,
    CancelResponse,
    ClearAudio,
    CommitAudio,
    ContextAppended,
    CreateResponse,
    DeleteItem,
    ForceListen,
    FunctionCallIn,
    FunctionOutputIn,
    Heard,
    ImageIn,
    UpdateSession,
)
from engine.minicpmo.modes.modes import Modes
from engine.minicpmo.modes.turn_encoding import PendingTurn
from engine.minicpmo.serving.sessions import Sessions
from engine.minicpmo.session.item_decoding import (
    DecodedItem,
    FunctionCalled,
    FunctionReturned,
    ModelMessage,
)
from engine.minicpmo.session.session import Session

BEFORE = {"instructions": "", "thinking": "You know this; say it only when it is wanted:\n"}
"""What stands before words that are appended."""


class SessionMessages:
    """Used by the model's thread; keeps nothing of a session."""

    def __init__(self, sessions: Sessions, modes: Modes, *, calls_functions: bool) -> None:
        """`calls_functions`: whether the model has the tokens to."""
        self._sessions = sessions
        self._modes = modes
        self._calls_functions = calls_functions
        self._appended = 0

    def take(self, session: Session, message: ModelMessage, came: float) -> None:
        match message:
            case AudioIn():
                self._hear(session, message, came)
            case SoundHeard():
                self._take_sound(session, message)
            case ImageIn():
                session.given.see(message)
                if session.config.mode == "full_duplex":
                    self._modes.duplex.saw(session)
            case Heard():
                session.output.heard(message)
            case DecodedItem():
                self._add(session, message)
            case UpdateSession():
                self._sessions.switch(session, message)
            case DeleteItem():
                is_unread = session.given.forget(message.item)
                if not is_unread and not self._modes.turns.delete(session, message.item):
                    told = "the model has already read this item, or its beginning"
                    session.warn("item_kept", told)
            case _:
                self._command(session, message)

    def _command(
        self,
        session: Session,
        message: CommitAudio
        | ClearAudio
        | CreateResponse
        | CancelResponse
        | ForceListen
        | AppendContext
        | FunctionCallIn
        | FunctionOutputIn,
    ) -> None:
        match message:
            case CommitAudio() | CreateResponse():
                self._respond(session, message)
            case ClearAudio():
                session.audio_input.clear()
            case CancelResponse():
                # The request does not mean a response that has begun since.
                if message.epoch >= session.output.epoch:
                    self._modes.silence(session, by_client=True)
            case ForceListen():
                session.forced_listen = message.on
                if message.on and session.output.is_speaking:
                    self._modes.silence(session, by_client=False)
            case AppendContext():
                self._append(session, message)
            case FunctionCallIn() | FunctionOutputIn():
                self._function(session, message)

    def _function(self, session: Session, message: FunctionCallIn | FunctionOutputIn) -> None:
        """Keep a call or what it gave back for the next turn."""
        if session.config.mode == "full_duplex" or not self._calls_functions:
            session.warn("tools_unsupported", "functions are called where turns are taken only")
            return
        role: Literal["user", "assistant"]
        part: FunctionCalled | FunctionReturned
        if isinstance(message, FunctionCallIn):
            role, part = "assistant", FunctionCalled(message.name, message.arguments)
        else:
            role, part = "user", FunctionReturned(message.output)
        item = DecodedItem(session.id, message.item, role, (part,), message.after)
        self._add(session, item)

    def _add(self, session: Session, item: DecodedItem) -> None:
        """Keep an item for the next turn, or put it among what the model has read."""
        if not item.after or session.given.place(item):
            if not item.after:
                session.given.add(item)
        elif not self._modes.turns.insert(session, item):
            if item.after != ROOT:
                told = f"there is no item {item.after!r}; {item.item!r} goes to the end"
                if session.config.mode == "full_duplex":
                    told = f"nothing goes between units that are over; {item.item!r} comes next"
                session.warn("unknown_place", told)
            session.given.add(item)

    def _append(self, session: Session, message: AppendContext) -> None:
        """Tell the model something beside the turns."""
        if session.config.mode == "full_duplex":
            self._modes.duplex.append(session, message)
        elif message.kind == "commentary":
            self._modes.turns.say(session, message)
        else:
            self._appended += 1
            text = BEFORE[message.kind] + message.text
            session.given.add(
                DecodedItem(session.id, f"append-{self._appended}", "system", (text,))
            )
            at = session.audio_input.position
            session.send(ContextAppended(session.id, message.request, at, at))

    def _hear(self, session: Session, message: AudioIn, came: float) -> None:
        is_duplex = session.config.mode == "full_duplex"
        if is_duplex:
            self._modes.duplex.hears(session, len(message.pcm) // 2, came)
        over = self._modes.is_answering(session)
        self._follow(
            session,
            session.audio_input.push(
                message.pts,
                message.pcm,
                for_units=is_duplex,
                over=over,
                arrived=came,
                played=message.played,
            ),
        )

    def _take_sound(self, session: Session, message: SoundHeard) -> None:
        """Take sound in which the ingest process has heard."""
        is_duplex = session.config.mode == "full_duplex"
        if is_duplex and message.pcm:
            self._modes.duplex.hears(session, len(message.pcm) // 2, message.arrived)
        self._follow(session, session.audio_input.take(message, for_units=is_duplex))

    def _follow(self, session: Session, events: list[str | torch.Tensor]) -> None:
        mode = session.config.mode
        for event in events:
            if mode == "turn_based":
                # The client says where a turn ends and when an answer is cut.
                continue
            if event == "cut":
                self._modes.speaks_over(session)
            elif isinstance(event, torch.Tensor) and mode == "half_duplex":
                self._said(session, event)

    def _said(self, session: Session, sound: torch.Tensor) -> None:
        """Keep an utterance [N] that ended in half duplex, and ask for a reply to it."""
        session.audio_input.clear()
        session.given.keep_speech(sound, session.audio_input.utterances)
        if session.config.turn_detection.create_response:
            self._ask(session, PendingTurn(utterance=session.audio_input.utterances))

    def _respond(self, session: Session, message: CommitAudio | CreateResponse) -> None:
        is_duplex = session.config.mode == "full_duplex"
        if isinstance(message, CommitAudio):
            if is_duplex:
                told = "in full duplex the model hears all that is said; change the mode to commit"
                session.refuse(message.request, "mode", told)
            else:
                session.commit(message.request)
            return
        if message.is_out_of_band:
            told = "every response here is part of the conversation"
            session.refuse(message.request, "out_of_band_unsupported", told)
            return
        if is_duplex:
            self._modes.duplex.ask(session, message)
            return
        if session.output.is_speaking and not self._modes.turns.waits_for_outputs(session.slot):
            self._modes.silence(session, by_client=False)
        self._ask(
            session,
            PendingTurn(
                instructions=message.instructions,
                modalities=message.modalities,
                request=message.request,
                max_output_tokens=message.max_output_tokens,
                tools=message.tools,
                tool_choice=message.tool_choice,
                tool_name=message.tool_name,
            ),
        )

    def _ask(self, session: Session, asked: PendingTurn) -> None:
        """Have all that the user gave since the last response answered."""
        asked.given = session.given.take(session.config.max_image_slices)
        self._modes.turns.ask(session, asked)
