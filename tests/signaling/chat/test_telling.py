"""Answers to chat requests, held against the openai package's types."""

from __future__ import annotations

import base64
import io
import json
import random
import wave
from typing import Any

from openai.types.chat import ChatCompletion, ChatCompletionChunk

from signaling.chat.answer import CallPiece, ChatPiece, ChatUsage, Ended, Sounding, Wording
from signaling.chat.rendering import CompletionHead
from signaling.chat.stops import StopCutter
from signaling.chat.telling import ChunkTeller, Gathered, SpokenAs
from signaling.chat.wav import wav_head

HEAD = CompletionHead("chatcmpl-1", 1_700_000_000, "omnicall")
DONE = Ended("stop", ChatUsage(3, 4))


def told(teller: ChunkTeller, *pieces: ChatPiece) -> list[ChatCompletionChunk]:
    """The events, validated; the end mark must be the last."""
    stream = teller.begin() + b"".join(map(teller.tell, pieces))
    events = stream.decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    return [
        ChatCompletionChunk.model_validate(json.loads(event.removeprefix("data: ")), strict=True)
        for event in events[:-2]
    ]


def deltas(chunks: list[ChatCompletionChunk]) -> list[dict[str, Any]]:
    return [c.choices[0].delta.model_dump(exclude_none=True) for c in chunks if c.choices]


def test_written_answer_is_told_in_pieces() -> None:
    teller = ChunkTeller(HEAD, None, tells_usage=True)
    chunks = told(teller, Wording(" Hel"), Wording("lo."), DONE)
    assert deltas(chunks) == [
        {"role": "assistant", "content": ""},
        {"content": "Hel"},
        {"content": "lo."},
        {},
    ]
    assert chunks[-2].choices[0].finish_reason == "stop"
    usage = chunks[-1].usage
    assert chunks[-1].choices == [] and usage is not None and usage.total_tokens == 7


def test_sound_can_be_decoded_piece_by_piece_or_joined() -> None:
    pcm = random.Random(1).randbytes(2 * 1001)
    pieces = [pcm[:7], pcm[7:900], pcm[900:]]
    speech = SpokenAs("audio_1", 1_700_003_600, is_wav=True)
    teller = ChunkTeller(HEAD, speech)
    chunks = told(teller, Wording("Hi"), *map(Sounding, pieces), DONE)
    audio = [d["audio"] for d in deltas(chunks) if "audio" in d]
    assert audio[0] == {"id": "audio_1", "transcript": "Hi"}
    assert audio[-1] == {"expires_at": 1_700_003_600}
    data = [each["data"] for each in audio if "data" in each]
    assert all(not text.endswith("=") for text in data[:-1])
    assert base64.b64decode("".join(data)) == wav_head() + pcm
    assert b"".join(map(base64.b64decode, data)) == wav_head() + pcm


def test_calls_are_told_by_their_index() -> None:
    chunks = told(
        ChunkTeller(HEAD, None),
        CallPiece("call_1", "look", '{"a"', False),
        CallPiece("call_2", "hear", "{}", True),
        CallPiece("call_1", "look", ":1}", True),
        Ended("tool_calls", ChatUsage()),
    )
    calls = [d["tool_calls"][0] for d in deltas(chunks) if "tool_calls" in d]
    assert [call["index"] for call in calls] == [0, 1, 0]
    assert calls[0]["id"] == "call_1" and calls[0]["function"]["name"] == "look"
    assert "id" not in calls[2]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def whole(*pieces: ChatPiece, speech: SpokenAs | None = None, sound: bytes = b"") -> ChatCompletion:
    gathered = Gathered()
    for piece in pieces:
        gathered.push(piece)
    rendered = json.loads(gathered.render(HEAD, speech, sound))
    return ChatCompletion.model_validate(rendered, strict=True)


def test_gathered_answers_are_of_the_right_type() -> None:
    answer = whole(Wording(" Hello"), Wording(" you."), DONE)
    assert answer.choices[0].message.content == "Hello you."
    assert answer.usage is not None and answer.usage.prompt_tokens == 3

    called = whole(CallPiece("c", "look", "{", False), CallPiece("c", "look", "}", True), DONE)
    [call] = called.choices[0].message.tool_calls or []
    assert call.type == "function" and call.function.arguments == "{}"
    assert called.choices[0].message.content is None

    speech = SpokenAs("audio_1", 1_700_003_600, is_wav=False)
    spoken = whole(Wording("Hi"), Sounding(b"\0\0"), DONE, speech=speech, sound=b"file")
    audio = spoken.choices[0].message.audio
    assert audio is not None and base64.b64decode(audio.data) == b"file"
    assert (audio.transcript, spoken.choices[0].message.content) == ("Hi", None)


def test_stop_texts_are_found_across_pieces() -> None:
    for cut in range(1, 12):
        text = "one, two STOP three"
        cutter = StopCutter(("STOP", "never"))
        passed = "".join(cutter.push(text[at : at + cut]) for at in range(0, len(text), cut))
        assert passed + cutter.flush() == "one, two " and cutter.is_over


def test_what_only_began_like_a_stop_text_is_told() -> None:
    cutter = StopCutter(("STOP",))
    assert [cutter.push("a ST"), cutter.push("ONE ST"), cutter.flush()] == ["a ", "STONE ", "ST"]
    assert not cutter.is_over


def test_wav_head_is_read_by_others() -> None:
    with wave.open(io.BytesIO(wav_head(4) + b"\1\0\2\0")) as opened:
        assert (opened.getframerate(), opened.getnchannels(), opened.getnframes()) == (24_000, 1, 2)
        assert opened.readframes(2) == b"\1\0\2\0"
