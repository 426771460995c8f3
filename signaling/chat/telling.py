"""An answer on its way to the client: chunk by chunk, or gathered. Front. Nothing here waits."""

import base64

from signaling.chat import rendering
from signaling.chat.answer import CallPiece, ChatPiece, ChatUsage, Ended, Sounding, Wording
from signaling.chat.rendering import (
    Base64Groups,
    CompletionHead,
    SpeechObject,
    ToolCallObject,
    chunk,
)
from signaling.chat.stops import StopCutter
from signaling.chat.wav import wav_head


class Words:
    """The words of an answer: without white space in front, up to a stop text."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._cutter = StopCutter(stops)
        self.text = ""

    @property
    def is_over(self) -> bool:
        """A stop text came."""
        return self._cutter.is_over

    def push(self, text: str) -> str:
        """Return what of it is to be told now."""
        return self._tell(self._cutter.push(text))

    def flush(self) -> str:
        return self._tell(self._cutter.flush())

    def _tell(self, text: str) -> str:
        told = text if self.text else text.lstrip()
        self.text += told
        return told


class SpokenAs:
    """How the sound of an answer is told: its name and its container."""

    def __init__(self, audio_id: str, expires_at: int, *, is_wav: bool) -> None:
        self.id = audio_id
        self.expires_at = expires_at
        self.is_wav = is_wav


class ChunkTeller:
    """Makes the events of a stream of what comes."""

    def __init__(
        self,
        head: CompletionHead,
        speech: SpokenAs | None,
        stops: tuple[str, ...] = (),
        *,
        tells_usage: bool = False,
    ) -> None:
        self.words = Words(stops)
        self._head = head
        self._speech = speech
        self._tells_usage = tells_usage
        self._groups = Base64Groups()
        self._calls: dict[str, int] = {}
        self._has_begun_speech = False
        self._has_sound = False

    def begin(self) -> bytes:
        """The first event."""
        content = {} if self._speech is not None else {"content": ""}
        return chunk(self._head, {"role": "assistant", **content, "refusal": None})

    def tell(self, piece: ChatPiece) -> bytes:
        """The events for a piece; may be none."""
        match piece:
            case Wording(text=text):
                return self._word(self.words.push(text))
            case Sounding(pcm=pcm):
                return self._sound(pcm)
            case CallPiece():
                is_first = piece.call_id not in self._calls
                index = self._calls.setdefault(piece.call_id, len(self._calls))
                return chunk(self._head, rendering.call_delta(piece, index, is_first=is_first))
            case Ended():
                return self._end(piece)

    def _word(self, text: str) -> bytes:
        if not text:
            return b""
        if self._speech is None:
            return chunk(self._head, {"content": text})
        return self._speak({"transcript": text})

    def _sound(self, pcm: bytes) -> bytes:
        assert self._speech is not None, "written answers have no sound"
        if self._speech.is_wav and not self._has_sound:
            pcm = wav_head() + pcm
        self._has_sound = True
        data = self._groups.push(pcm)
        return self._speak({"data": data}) if data else b""

    def _speak(self, audio: dict[str, str | int]) -> bytes:
        assert self._speech is not None
        if not self._has_begun_speech:
            self._has_begun_speech = True
            audio = {"id": self._speech.id, **audio}
        return chunk(self._head, {"audio": audio})

    def _end(self, ended: Ended) -> bytes:
        told = self._word(self.words.flush())
        if self._speech is not None and self._has_begun_speech:
            if rest := self._groups.flush():
                told += self._speak({"data": rest})
            told += self._speak({"expires_at": self._speech.expires_at})
        told += chunk(self._head, {}, ended.reason)
        if self._tells_usage:
            told += rendering.usage_chunk(self._head, ended.usage)
        return told + rendering.END


class Gathered:
    """Gathers an answer that is told whole."""

    def __init__(self, stops: tuple[str, ...] = ()) -> None:
        self.words = Words(stops)
        self.pcm = bytearray()
        self._calls: dict[str, tuple[str, str]] = {}
        self._ended = Ended("stop", ChatUsage())

    def push(self, piece: ChatPiece) -> None:
        match piece:
            case Wording(text=text):
                self.words.push(text)
            case Sounding(pcm=pcm):
                self.pcm += pcm
            case CallPiece(call_id=call_id, name=name, arguments=arguments):
                _, before = self._calls.get(call_id, ("", ""))
                self._calls[call_id] = (name, before + arguments)
            case Ended():
                self.words.flush()
                self._ended = piece

    def render(self, head: CompletionHead, speech: SpokenAs | None, sound: bytes) -> bytes:
        """The answer as one object; `sound` is the file that the client asked for.

        Megabytes of it take long: not for an event loop.
        """
        spoken = None
        if speech is not None and (self.pcm or self.words.text):
            data = base64.b64encode(sound).decode()
            spoken = SpeechObject(speech.id, data, speech.expires_at, self.words.text)
        calls = [
            ToolCallObject(call_id, {"name": name, "arguments": arguments})
            for call_id, (name, arguments) in self._calls.items()
        ]
        ended = self._ended
        return rendering.completion(head, self.words.text, spoken, calls, ended.reason, ended.usage)
