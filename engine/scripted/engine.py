"""The scripted engine: says what a file tells it to say, in time, as a model would."""

from __future__ import annotations

from engine.base import Progress, Send
from engine.ipc.protocol import VERSION, Mode, SessionConfig, Welcome
from engine.scripted.script import load
from engine.scripted.session import HONOURS, ScriptedSession
from engine.scripted.voice import ScriptVoice

MODES: tuple[Mode, ...] = ("full_duplex", "half_duplex", "turn_based")


class ScriptedEngine:
    """Owns the script and its voice; the sessions own their places in it."""

    def __init__(self, script: str, slots: int) -> None:
        """Raises `EngineError` for a script that cannot be played."""
        self.slots = slots
        self._script = load(script)
        self._voice = ScriptVoice(self._script)

    def welcome(self, slots: int) -> Welcome:
        script = self._script
        return Welcome(
            version=VERSION,
            kind="scripted",
            label=script.title,
            description=script.description,
            slots=slots,
            modes=MODES,
            languages=(),
            voices=(),
            video=script.video,
            unit_ms=script.unit_ms,
            transcribes=True,
            context_tokens=script.context.limit,
            tool_modes=MODES if any(action.calls for action in script.actions) else (),
            appends=("instructions", "thinking", "commentary"),
            delegates=any(cue.delegate for cue in script.cue),
            answers_out_of_band=any(answer.to == "aside" for answer in script.answer),
            honours=HONOURS,
        )

    async def start(self, progress: Progress) -> None:
        """Speak all of the script once; raises `EngineError` if its voice is missing."""
        try:
            texts = dict.fromkeys(action.say for action in self._script.actions)
            await self._voice.start(texts, progress)
        except BaseException:
            await self.close()
            raise

    def open(self, session: str, slot: int, config: SessionConfig, send: Send) -> ScriptedSession:
        return ScriptedSession(session, config, send, self._script, self._voice)

    def pending_ms(self) -> float:
        """Sound is taken as it comes, so none ever waits."""
        return 0.0

    async def close(self) -> None:
        await self._voice.close()
