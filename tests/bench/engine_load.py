"""Sessions that call the native engine in real time, and what they wait for."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field

import numpy as np

from engine.gpu.kv.fp8 import Fp8KV
from engine.ipc import protocol as p
from engine.minicpmo.llm.context_window import Entry
from engine.minicpmo.llm.duplex_state import DuplexState
from engine.minicpmo.llm.tokenizer import OmniTokenizer
from engine.minicpmo.models.unit import RELEASED_UNIT
from engine.minicpmo.serving.scheduler import Scheduler
from engine.minicpmo.session.item_decoding import DecodedItem
from engine.minicpmo.session.session import Session

UNIT_SAMPLES = RELEASED_UNIT.samples(16_000)

PIECE = 320
TURN_UNITS = 4
WORDS = 5
CAMERA = (640, 480)
PICTURE_LEAD_S = 0.1
"""A picture is there this long before the end of its unit."""
LATE_MS = 1000.0


class Script:
    """Decides for a random model: turns of four units with five words each, then silence."""

    def __init__(self, tokens: OmniTokenizer, sessions: int, speaking: float, seed: int) -> None:
        self._tokens = tokens
        self._word = tokens.encode("a")[0]
        silent = 0 if speaking >= 1 else round(TURN_UNITS * (1 - speaking) / max(speaking, 1e-9))
        self._cycle = TURN_UNITS + silent
        self._is_mute = speaking <= 0
        self._offset = [
            random.Random(seed + slot).randrange(self._cycle) for slot in range(sessions)
        ]
        self._place = [(-1, 0)] * sessions
        self.talks: dict[int, DuplexState] = {}

    def part(self, slot: int, unit: int) -> str:
        """What a slot's unit is: "listen", "first", "middle" or "last" of a turn."""
        place = (unit + self._offset[slot]) % self._cycle
        if self._is_mute or place >= TURN_UNITS:
            return "listen"
        # A session that begins within a turn has its first unit as the turn's.
        return {0: "first", TURN_UNITS - 1: "last"}.get(place, "first" if unit == 0 else "middle")

    def choose(self, slots: list[int]) -> list[int]:
        """For `Replay.force`."""
        chosen = []
        for slot in slots:
            unit = self.talks[slot].units - 1
            at, step = self._place[slot]
            step = step + 1 if at == unit else 0
            self._place[slot] = (unit, step)
            chosen.append(self._id(self.part(slot, unit), step))
        return chosen

    def _id(self, part: str, step: int) -> int:
        tokens = self._tokens
        if part == "listen":
            return tokens.listen
        spoken = [tokens.speak, *[self._word] * WORDS]
        spoken += [tokens.turn_eos] if part == "last" else []
        return spoken[step] if step < len(spoken) else tokens.chunk_eos


@dataclass
class Waits:
    """Milliseconds from the end of a unit's sound, or from a request."""

    listen: list[float] = field(default_factory=list)
    speak: list[float] = field(default_factory=list)
    first_sound: list[float] = field(default_factory=list)
    """Until the first sound of a turn."""
    sound: list[float] = field(default_factory=list)
    """Until the first sound of any unit that speaks."""
    first_text: list[float] = field(default_factory=list)
    """Chat: from the request."""
    stages: dict[str, list[float]] = field(default_factory=dict)
    skipped_ms: int = 0
    failed: list[str] = field(default_factory=list)


class Call:
    """One full-duplex session. Messages to it come on the model's thread."""

    def __init__(self, slot: int, script: Script, waits: Waits, *, camera: bool) -> None:
        self.slot, self.script, self.waits, self.camera = slot, script, waits, camera
        self.name = f"call-{slot}"
        self.came: list[float] = []
        """When each 20 ms of sound were there."""
        self.session: Session | None = None
        self.is_measured = False
        self._posted = 0
        self._done = 0
        self._heard_unit = -1
        self._skipped = 0
        rng = np.random.default_rng(slot)
        self._sound = rng.integers(-20, 20, UNIT_SAMPLES, dtype=np.int16).tobytes()
        self._rgb = rng.integers(0, 255, CAMERA[0] * CAMERA[1] * 3, dtype=np.uint8).tobytes()

    def open(self, config: p.SessionConfig) -> Session:
        self.session = Session(
            self.name, self.slot, config, self.slot, self.take, unit=RELEASED_UNIT
        )
        return self.session

    def tick(self, scheduler: Scheduler) -> None:
        """20 ms more of sound, and a picture shortly before a unit is complete."""
        assert self.session is not None
        start = self._posted % UNIT_SAMPLES
        if self.camera and 0 <= self._until_end() - int(PICTURE_LEAD_S * 16_000) < PIECE:
            picture = p.ImageIn(self.name, self._posted, *CAMERA, self._rgb)
            scheduler.post((self.slot, picture))
        pcm = self._sound[2 * start : 2 * (start + PIECE)]
        self._posted += PIECE
        self.came.append(time.monotonic())
        scheduler.post((self.slot, p.AudioIn(self.name, self._posted - PIECE, pcm)))

    def _until_end(self) -> int:
        """Samples that the engine lacks for the next end of a unit."""
        assert self.session is not None
        return -(self._posted + self.session.audio_input.silence) % UNIT_SAMPLES

    def _waited_ms(self, unit: int, now: float) -> float:
        """Since the last sound of a unit was there."""
        assert self.session is not None
        end = (unit + 1) * UNIT_SAMPLES - self.session.audio_input.silence
        return (now - self.came[max(0, -(-end // PIECE) - 1)]) * 1000

    def take(self, message: p.FromEngine) -> None:
        now = time.monotonic()
        match message:
            case p.AudioOut():
                assert self.session is not None
                heard = message.pts + len(message.pcm) // 2
                self.session.output.heard(p.Heard(self.name, message.epoch, heard))
                self._sounded(now)
            case p.UnitDone():
                self._unit(message, now)
            case p.SessionEnded():
                self.waits.failed.append(f"{message.reason}: {message.message}")

    def _sounded(self, now: float) -> None:
        unit = self._done
        if unit == self._heard_unit or not self.is_measured:
            return
        self._heard_unit = unit
        ms = self._waited_ms(unit + self._skipped, now)
        self.waits.sound.append(ms)
        if self.script.part(self.slot, unit) == "first":
            self.waits.first_sound.append(ms)

    def _unit(self, message: p.UnitDone, now: float) -> None:
        self._skipped += message.dropped_ms // 1000
        ms = self._waited_ms(self._done + self._skipped, now)
        self._done += 1
        if not self.is_measured:
            return
        self.waits.skipped_ms += message.dropped_ms
        (self.waits.speak if message.decision == "speak" else self.waits.listen).append(ms)
        for stage, took in message.stages_ms.items():
            self.waits.stages.setdefault(f"{message.decision} {stage}", []).append(took)


class Chat:
    """One typed conversation that asks again and again, after pauses of random length."""

    def __init__(self, slot: int, prompt: str, waits: Waits, *, pause_s: float) -> None:
        """`pause_s`: the mean."""
        self.slot, self.prompt, self.waits, self.pause_s = slot, prompt, waits, pause_s
        self._random = random.Random(slot)
        self.name = f"chat-{slot}"
        self.is_measured = False
        self._asked: float | None = None
        self._next = 0.0
        self._count = 0
        self._has_text = False

    def open(self, config: p.SessionConfig) -> Session:
        return Session(self.name, self.slot, config, self.slot, self.take, unit=RELEASED_UNIT)

    def tick(self, scheduler: Scheduler) -> None:
        """Ask when the pause is over."""
        now = time.monotonic()
        if self._asked is not None or now < self._next:
            return
        self._count += 1
        self._has_text = False
        self._asked = now
        scheduler.post(
            (self.slot, DecodedItem(self.name, f"i{self._count}", "user", (self.prompt,)))
        )
        scheduler.post((self.slot, p.CreateResponse(self.name)))

    def take(self, message: p.FromEngine) -> None:
        now = time.monotonic()
        match message:
            case p.TextOut() if not self._has_text and self._asked is not None:
                self._has_text = True
                if self.is_measured:
                    self.waits.first_text.append((now - self._asked) * 1000)
            case p.ResponseDone():
                pause_s = self._random.expovariate(1 / self.pause_s)
                self._asked, self._next = None, now + pause_s
            case p.SessionEnded():
                self.waits.failed.append(f"{message.reason}: {message.message}")


class Clock:
    """A thread that lets every caller tick each 20 ms, each from its own phase on."""

    def __init__(self, scheduler: Scheduler, callers: list[Call | Chat], seed: int) -> None:
        self._scheduler = scheduler
        rng = random.Random(seed)
        now = time.monotonic() + 0.2
        self._due = {caller: now + rng.random() for caller in callers}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.worst_lag_ms = 0.0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.is_set():
            now = time.monotonic()
            for caller, due in self._due.items():
                if due <= now:
                    self.worst_lag_ms = max(self.worst_lag_ms, (now - due) * 1000)
                    caller.tick(self._scheduler)
                    self._due[caller] = due + PIECE / 16_000
            time.sleep(max(0.0, min(self._due.values()) - time.monotonic()))


def fill(scheduler: Scheduler, slot: int, positions: int) -> None:
    """Pretend that a session has talked for long; before the scheduler starts."""
    duplex = scheduler.runner.duplex
    talk = duplex.sessions[slot]
    lacking = positions - talk.length
    # Units of the usual length, so that sliding finds units to drop.
    unit, before = 85, talk.length
    for _ in range(max(0, lacking // unit)):
        talk.window.register(Entry(unit))
        talk.length += unit
    kv = duplex.rows.kv
    kv.lengths[slot] = talk.length
    if isinstance(kv, Fp8KV):
        # What is stored has no scale of 0, and the kernels take its logarithm.
        for cells in kv.layers:
            for scales in (cells.key_scales, cells.value_scales):
                scales[slot, before : talk.length] = 1.0
