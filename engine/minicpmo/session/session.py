"""One conversation of the native engine, outside the tensors. Owned by the scheduler's thread."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast
from weakref import WeakSet

import torch
from torch import Tensor

from engine.audio_output import AudioOutput
from engine.ingest.messages import ListeningNeeds
from engine.ipc.protocol import (
    COMMIT_EMPTY,
    INPUT_HZ,
    MIN_COMMIT_MS,
    FromEngine,
    ImageIn,
    InputTranscript,
    Modality,
    RequestRefused,
    SessionConfig,
    SessionEnded,
    SessionWarning,
    SpeechCommitted,
    SpeechStarted,
    SpeechStopped,
    UnitDone,
    utterance_item,
)
from engine.ipc.session_config import unhonoured
from engine.minicpmo.llm.context_window import ContextWarning, WindowSettings
from engine.minicpmo.llm.duplex_state import DuplexSettings
from engine.minicpmo.llm.sampler import DuplexSampling, TurnSampling
from engine.minicpmo.llm.turn_state import CHUNK_TOKENS, ReplySettings
from engine.minicpmo.models.code2wav import VoiceBase
from engine.minicpmo.models.config import CODE_HZ, UnitSpec
from engine.minicpmo.session.audio_input import AudioInput, pcm_of
from engine.minicpmo.session.item_decoding import DecodedItem
from engine.minicpmo.session.turn_history import Given, ShownPicture, SpokenTurn
from engine.scribe import Unwritten

NOT_TRANSCRIBED = "the model hears speech without writing it down"
MAX_ITEMS = 64
MAX_ITEM_BYTES = 256 * 1024 * 1024
"""Of a session's decoded pictures and sound, until the model has read them."""
MAX_COMMITTED_SAMPLES = 120 * INPUT_HZ
DEFAULT_REPLY_TOKENS = 256
DEFAULT_CALL_TOKENS = 512
"""Of a reply that may call functions, whose arguments are part of it."""
COMMITS_FROM = 1 << 31
"""What is committed by hand has numbers above it, what the detector finds below."""

OPTIONS = {
    "force_listen_count": int,
    "listen_bias": float,
    "window": str,
    "thinking": bool,
    "language": str,
    "prompt_voice": str,
}
"""Options that this engine knows, beside the settings that every engine has."""

HONOURS = (
    "mode",
    "instructions",
    "voice",
    "modalities",
    "turn_detection",
    "max_image_slices",
    "context_policy",
    "retention",
    "options",
    "after",
    "temperature",
    "top_p",
    "top_k",
    "repetition_penalty",
    "length_penalty",
    "max_output_tokens",
    "greedy",
    "seed",
)
"""The settings that have an effect."""

# Pictures are only read; a copy of each would cost the model's thread more than all its sound.
warnings.filterwarnings("ignore", "The given buffer is not writable")


class SessionFailed(Exception):
    """What was done for one session alone failed; the others are not touched."""

    def __init__(self, session: Session, error: Exception) -> None:
        super().__init__(f"session {session.id}: {error}")
        self.session = session
        self.error = error


class SessionVoice:
    """The voice of a session: how it sounds, and what the language model hears of it."""

    def __init__(self, base: VoiceBase | None, embeddings: Tensor | None) -> None:
        self.base = base
        self.embeddings = embeddings


class Session:
    """What was asked and said; which thoughts run in the slot is for the modes to know."""

    def __init__(
        self,
        session: str,
        slot: int,
        config: SessionConfig,
        seed: int,
        send: Callable[[FromEngine], None],
        *,
        unit: UnitSpec,
        write_down: Callable[[Unwritten], None] | None = None,
    ) -> None:
        """`write_down` sees to the transcript of what is said; None: nobody does."""
        self.id = session
        self._unit = unit
        self.slot = slot
        self.config = config
        self.seed = config.sampling.seed if config.sampling.seed is not None else seed
        self.send = send
        self.output = AudioOutput(session, send, codes_hz=CODE_HZ)
        self._write_down = write_down
        self.audio_input = AudioInput(
            session, config.turn_detection, self._tell_speech, self._said, unit=unit
        )
        self.picture: Tensor | None = None
        """[height, width, 3] uint8, the newest; None while the camera is off."""
        self.is_picture_new = False
        self.items: deque[DecodedItem] = deque(maxlen=MAX_ITEMS)
        self._in_memory: WeakSet[DecodedItem] = WeakSet()
        """Also those whose turn is being read."""
        """Typed items that no turn has taken yet."""
        self.committed: Tensor | None = None
        """What the user said [N] that no response has taken yet."""
        self._committed_names: list[str] = []
        self._commits = 0
        self._announced = 0
        """The newest utterance whose beginning was told."""
        self.forced_listen = False
        """The client wants no answers for now."""
        self._is_interrupted = False
        """The user spoke over the answer: the unit that is due only listens."""
        self.units = 0
        self.is_over = False
        self.voice = SessionVoice(None, None)
        self._needs = (False, 0, 0)
        """What the ingest process was told last: see `ListeningNeeds`."""
        self._told: set[str] = set()
        """Settings that change nothing, of which the client knows."""
        self._warn_unknown()

    @property
    def speaks(self) -> bool:
        return self.can_speak(self.config.modalities)

    def can_speak(self, modalities: tuple[Modality, ...]) -> bool:
        """Return whether what has these modalities has sound."""
        return "audio" in modalities and self.voice.base is not None

    def option(self, name: str, default: Any) -> Any:
        """An option of the right type, else the default."""
        value = self.config.options.get(name, default)
        kind = OPTIONS[name]
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        return value if isinstance(value, kind) else default

    def reconfigure(self, config: SessionConfig) -> bool:
        """Take new settings; return whether the model has to read what stands before all else
        anew."""
        before, self.config = self.config, config
        was_duplex, is_duplex = (c.mode == "full_duplex" for c in (before, config))
        anew = was_duplex != is_duplex or config.instructions != before.instructions
        # In turns the tools are part of the system message.
        anew = anew or (not is_duplex and config.tools != before.tools)
        if config.mode != before.mode:
            # Sound that waits for a unit would wait forever.
            self.audio_input.clear()
        self.audio_input.configure(config.turn_detection)
        self._warn_unknown()
        return anew

    def see(self, image: ImageIn) -> None:
        """Keep the newest picture; an empty one says that the camera is off."""
        if not image.rgb:
            self.picture = None
            return
        if len(image.rgb) != image.width * image.height * 3:
            self.warn("bad_picture", f"a picture of {len(image.rgb)} bytes does not fit its size")
            return
        flat = torch.frombuffer(image.rgb, dtype=torch.uint8)
        self.picture = flat.view(image.height, image.width, 3)
        self.is_picture_new = True

    def take_picture(self) -> Tensor | None:
        """Return the newest picture, once."""
        picture = self.picture if self.is_picture_new else None
        self.is_picture_new = False
        return picture

    def add_item(self, item: DecodedItem) -> None:
        """Keep an item for the next turn; of its files only what there is memory for."""
        size = item.num_bytes
        if size and sum(kept.num_bytes for kept in self._in_memory) + size > MAX_ITEM_BYTES:
            self.warn(
                "too_much_media",
                "too many pictures and sounds wait for an answer: of this message only the words "
                "count",
            )
            item = item.words()
        self._in_memory.add(item)
        if len(self.items) == MAX_ITEMS:
            told = f"more than {MAX_ITEMS} messages wait for an answer: the oldest is left out"
            self.warn("too_many_items", told)
        self.items.append(item)

    def commit(self, request: str = "") -> None:
        """Make one turn of the user of all that was said since the last commit (push to talk)."""
        sound, ended = self.audio_input.commit()
        if len(sound) * 1000 < MIN_COMMIT_MS * INPUT_HZ:
            told = f"there is less than {MIN_COMMIT_MS} ms of sound since the last commit"
            self.refuse(request, COMMIT_EMPTY, told)
            return
        if ended and ended == self._announced:
            # The detector has told of it as of any turn.
            self.keep_speech(sound, ended)
            return
        self._commits += 1
        number = COMMITS_FROM + self._commits
        self.keep_speech(sound, number)
        self.send(SpeechCommitted(self.id, number))
        self._write(number, pcm_of(sound))

    def keep_speech(self, sound: Tensor, utterance: int) -> None:
        """Keep sound [N] until a response is asked for; of very much the oldest goes."""
        self._committed_names.append(utterance_item(utterance))
        kept = sound if self.committed is None else torch.cat([self.committed, sound])
        self.committed = kept[-MAX_COMMITTED_SAMPLES:]

    def take_given(self) -> list[Given]:
        """Return all that the user gave since the last response, once: what is seen, what was
        written and what was said."""
        given: list[Given] = []
        if (picture := self.take_picture()) is not None:
            given.append(ShownPicture(picture, self.config.max_image_slices))
        given += self.items
        self.items.clear()
        names, self._committed_names = tuple(self._committed_names), []
        sound, self.committed = self.committed, None
        if sound is not None and len(sound):
            given.append(SpokenTurn(names, sound))
        return given

    def place_item(self, item: DecodedItem) -> bool:
        """Put an item behind one that no turn has taken yet; return whether it is there."""
        places = [at for at, kept in enumerate(self.items, 1) if kept.item == item.after]
        if not places:
            return False
        kept = list(self.items)
        kept.insert(places[0], item)
        self.items = deque(kept, maxlen=MAX_ITEMS)
        self._in_memory.add(item)
        return True

    def forget_item(self, item_id: str) -> bool:
        """Drop a typed item that no turn has taken yet; return whether there was one."""
        kept = [item for item in self.items if item.item != item_id]
        was_there = len(kept) < len(self.items)
        self.items = deque(kept, maxlen=MAX_ITEMS)
        return was_there

    @property
    def is_interrupted(self) -> bool:
        """The unit that is due only listens."""
        return self._is_interrupted

    def interrupt(self) -> None:
        """Make a listen of the next unit."""
        self._is_interrupted = True

    def take_forced_listen(self) -> bool:
        """Return whether the unit that starts may only listen."""
        interrupted, self._is_interrupted = self._is_interrupted, False
        return interrupted or self.forced_listen

    # ------------------------------------------------------------------ settings

    def duplex_settings(self) -> DuplexSettings:
        """The session's settings for full duplex; raises `ValueError` by name."""
        wanted = self.config.sampling
        sampling = replace(
            DuplexSampling(greedy=wanted.greedy, listen_bias=self.option("listen_bias", 0.0)),
            **self._chosen_sampling(),
        )
        settings = DuplexSettings(
            sampling=sampling,
            max_tokens=self._unit.max_tokens,
            max_chars=self._unit.max_chars,
            context_policy=self.config.context_policy,
            retention=self.config.retention,
            window=WindowSettings(self.option("window", "off")),
        )
        return replace(
            settings,
            force_listen_count=self.option("force_listen_count", settings.force_listen_count),
        )

    def _chosen_sampling(self) -> dict[str, Any]:
        """Return the client's values of the parameters that all modes have."""
        wanted = self.config.sampling
        chosen = {
            "temperature": wanted.temperature,
            "top_k": wanted.top_k,
            "top_p": wanted.top_p,
            "repetition_penalty": wanted.repetition_penalty,
            "length_penalty": wanted.length_penalty,
        }
        return {name: value for name, value in chosen.items() if value is not None}

    def reply_settings(
        self,
        modalities: tuple[Modality, ...] = (),
        *,
        aside: int = 0,
        max_tokens: int | None = None,
        may_call: bool = False,
        call_opening: tuple[int, ...] = (),
        says: tuple[int, ...] = (),
    ) -> ReplySettings:
        """The session's settings for a reply in half duplex and turn-based mode.

        `modalities` unless empty, `max_tokens` unless None: of this reply. `aside`: positions of
        what holds for it only. `may_call`, `call_opening`, `says`: see `ReplySettings`.
        Raises `ValueError` by name.
        """
        wanted = self.config.sampling
        sampling = replace(
            TurnSampling(greedy=wanted.greedy),
            **self._chosen_sampling(),
        )
        speaks = self.can_speak(modalities or self.config.modalities)
        return ReplySettings(
            sampling=sampling,
            max_new_tokens=len(says) + 1
            if says
            else max_tokens
            or wanted.max_output_tokens
            or (DEFAULT_CALL_TOKENS if may_call else DEFAULT_REPLY_TOKENS),
            chunk_tokens=CHUNK_TOKENS if speaks else 1,
            speech=speaks,
            thinking=self.option("thinking", False) and not says,
            skip_special=True,
            aside=aside,
            may_call=may_call,
            call_opening=call_opening,
            says=says,
        )

    # ------------------------------------------------------------------ to the client

    def warn(self, code: str, message: str, used: int = 0, limit: int = 0) -> None:
        self.send(SessionWarning(self.id, code, message, used, limit))

    def refuse(self, request: str, code: str, reason: str) -> None:
        """Say that what was asked for comes to nothing."""
        self.send(RequestRefused(self.id, request, code, reason))

    def warn_context(self, warning: ContextWarning | None) -> None:
        if warning is not None:
            share = 100 * warning.used // max(1, warning.limit)
            what = "older parts will be forgotten"
            if self.config.context_policy == "end":
                what = "the call will end"
            self.warn(
                "context_near_limit",
                f"{share} % of what the model can remember is used; beyond it {what}",
                warning.used,
                warning.limit,
            )

    def _said(self, utterance: int, pcm: bytes) -> None:
        """See to the words of an utterance of which the client was told."""
        if self.config.mode != "turn_based" or utterance == self._announced:
            self._write(utterance, pcm)

    def _write(self, utterance: int, pcm: bytes) -> None:
        if self._write_down is not None and self.config.transcribe:
            self._write_down(Unwritten(utterance, pcm, self.config.transcribe_language))
            return
        self.send(
            InputTranscript(self.id, utterance, "", True, NOT_TRANSCRIBED, code="not_transcribed")
        )

    def tell_needs(self, *, over: bool) -> None:
        """Tell the ingest process, where sound comes by one, what it needs to know."""
        heard = self.audio_input
        if not heard.is_ingested:
            return
        end, size = (heard.unit_end, heard.unit_samples) if heard.is_placed else (0, 0)
        told = over, end, size
        if told != self._needs:
            self._needs = told
            # Only a host behind an ingest process gets it, and that sends it on.
            self.send(cast(Any, ListeningNeeds(self.id, over, end, size)))

    def _tell_speech(self, message: FromEngine) -> None:
        """Pass on what was heard. Where the client commits turns, no detected ones are told.

        One that was told to have begun ends for the client in any mode.
        """
        if isinstance(message, SpeechStarted | SpeechStopped):
            is_by_hand = self.config.mode == "turn_based"
            if isinstance(message, SpeechStarted) and not is_by_hand:
                self._announced = message.utterance
            if is_by_hand and message.utterance != self._announced:
                return
        self.send(message)

    def unit_done(self, *, speaks: bool, stages_ms: dict[str, float], kv_tokens: int) -> None:
        """Tell the figures of a unit or a turn."""
        self.units += 1
        self.send(
            UnitDone(
                self.id,
                self.units,
                "speak" if speaks else "listen",
                stages_ms,
                kv_tokens,
                self.audio_input.take_dropped_ms(),
            )
        )

    def end(self, message: str) -> None:
        """End the session: its context is full and must not slide."""
        if not self.is_over:
            self.is_over = True
            self.output.finish("incomplete", message)
            self.send(SessionEnded(self.id, "context_limit", message))

    def _warn_unknown(self) -> None:
        for name in unhonoured(self.config, HONOURS):
            if name not in self._told:
                self._told.add(name)
                self.warn("unused_setting", f"{name}: has no effect with this model")
        for name in self.config.options:
            if name not in OPTIONS and f"options.{name}" not in self._told:
                self._told.add(f"options.{name}")
                known = ", ".join(OPTIONS)
                self.warn("unknown_option", f"engine option {name!r} is not one of {known}")
