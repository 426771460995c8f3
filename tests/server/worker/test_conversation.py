"""Conversations: the order of events that SDKs rely on, and what was really heard.

Guarded (`webrtc-landscape.md` 4.3): a spoken turn from its first event to its last; barge-in before
and after all was generated; transcripts in step with playout; failures, and text without sound;
reports to the engine; late sound of an epoch that was cut.
"""

from __future__ import annotations

from typing import Any

import pytest

from engine.ipc import protocol as p
from media.playout import FADE_SAMPLES
from server.worker.user_turns import MAX_UTTERANCES
from signaling.session.core import Abilities
from tests.server.worker.talk import SESSION, Talk, samples, sound

SPEECH_EVENTS = [
    "input_audio_buffer.speech_started",
    "input_audio_buffer.speech_stopped",
    "input_audio_buffer.committed",
    "conversation.item.added",
    "conversation.item.done",
    "conversation.item.input_audio_transcription.completed",
]
BEGIN_EVENTS = [
    "response.created",
    "rate_limits.updated",
    "response.output_item.added",
    "conversation.item.added",
    "response.content_part.added",
]
CLOSING_EVENTS = [
    "response.output_audio.done",
    "response.output_audio_transcript.done",
    "response.content_part.done",
    "response.output_item.done",
    "conversation.item.done",
    "response.done",
]
DELTA = "response.output_audio_transcript.delta"


def speak(talk: Talk, utterance: int = 1, text: str = "hello server") -> None:
    """The user says something; the engine recognises it."""
    talk.hear(
        p.SpeechStarted(SESSION, utterance, 16_000),
        p.SpeechStopped(SESSION, utterance, 40_000),
        p.InputTranscript(SESSION, utterance, text, True),
    )


# ---------------------------------------------------------------- a spoken turn


def test_spoken_turn_has_every_event_in_the_order_that_sdks_rely_on() -> None:
    talk = Talk()
    speak(talk)
    assert talk.types == SPEECH_EVENTS
    talk.answer(1, {0: "Good ", 60: "day."}, 100)
    talk.play(140)
    assert talk.types[len(SPEECH_EVENTS) :] == [
        *BEGIN_EVENTS,
        "output_audio_buffer.started",
        DELTA,
        DELTA,
        *CLOSING_EVENTS,
        "output_audio_buffer.stopped",
    ]


def test_ids_tie_the_events_of_a_turn_together() -> None:
    talk = Talk()
    speak(talk)
    talk.answer(1, {0: "Good day."}, 40)
    talk.play(80)
    committed = talk.one("input_audio_buffer.committed")
    user_id = committed["item_id"]
    assert committed["previous_item_id"] is None
    assert talk.one("input_audio_buffer.speech_started")["item_id"] == user_id
    assert talk.one("input_audio_buffer.speech_stopped")["item_id"] == user_id
    added = talk.of("conversation.item.added")
    assert [item["item"]["id"] for item in added][0] == user_id
    assert added[1]["previous_item_id"] == user_id
    response_id = talk.one("response.created")["response"]["id"]
    item_id = added[1]["item"]["id"]
    assert item_id != user_id
    for event in talk.events:
        assert event.get("response_id", response_id) == response_id
        if event["type"].startswith("response.") and "item_id" in event:
            assert event["item_id"] == item_id
    done = talk.one("response.done")["response"]
    assert done["id"] == response_id and done["output"][0]["id"] == item_id


def test_positions_of_speech_are_milliseconds_of_the_uplink() -> None:
    talk = Talk()
    speak(talk)
    assert talk.one("input_audio_buffer.speech_started")["audio_start_ms"] == 1000
    assert talk.one("input_audio_buffer.speech_stopped")["audio_end_ms"] == 2500
    usage = talk.one("conversation.item.input_audio_transcription.completed")["usage"]
    assert usage == {"type": "duration", "seconds": 1.5}


def test_user_item_gets_its_transcript() -> None:
    talk = Talk()
    speak(talk, text="hello server")
    item_id = talk.one("input_audio_buffer.committed")["item_id"]
    talk.ask({"type": "conversation.item.retrieve", "item_id": item_id})
    item = talk.one("conversation.item.retrieved")["item"]
    assert item["content"] == [{"type": "input_audio", "transcript": "hello server"}]
    assert (item["role"], item["status"]) == ("user", "completed")


def test_a_committed_turn_is_there_before_its_words() -> None:
    talk = Talk()
    talk.hear(p.SpeechCommitted(SESSION, 7))
    item_id = talk.one("input_audio_buffer.committed")["item_id"]
    assert talk.one("conversation.item.added")["item"]["id"] == item_id
    talk.hear(p.InputTranscript(SESSION, 7, "hello server", True))
    told = talk.one("conversation.item.input_audio_transcription.completed")
    assert (told["item_id"], told["transcript"]) == (item_id, "hello server")
    assert talk.types.count("input_audio_buffer.committed") == 1


def test_usage_tells_the_kinds_that_were_counted_and_none_that_were_not() -> None:
    talk = Talk()
    read, made = p.TokenSplit(text=40, image=64, cached=32), p.TokenSplit(text=7, audio=0)
    counted = p.ResponseDone(
        SESSION,
        1,
        "completed",
        input_tokens=104,
        output_tokens=7,
        input_split=read,
        output_split=made,
    )
    talk.hear(p.ResponseStarted(SESSION, 1, "request", modality="text"), counted)
    talk.play(20)
    usage = talk.one("response.done")["response"]["usage"]
    assert usage["input_token_details"] == {
        "text_tokens": 40,
        "image_tokens": 64,
        "cached_tokens": 32,
    }
    assert usage["output_token_details"] == {"text_tokens": 7, "audio_tokens": 0}
    assert usage["total_tokens"] == 111


def test_no_usage_is_told_where_nothing_was_counted() -> None:
    talk = Talk()
    talk.hear(
        p.ResponseStarted(SESSION, 1, "request", modality="text"),
        p.ResponseDone(SESSION, 1, "completed"),
    )
    talk.play(20)
    assert talk.one("response.done")["response"]["usage"] is None


def test_finished_answer_is_completed_with_what_was_said() -> None:
    talk = Talk()
    talk.answer(1, {0: "Good ", 20: "day."}, 40)
    talk.play(80)
    response = talk.one("response.done")["response"]
    assert response["status"] == "completed" and response["status_details"] is None
    assert response["usage"] == {"total_tokens": 18, "input_tokens": 11, "output_tokens": 7}
    item = response["output"][0]
    assert item["status"] == "completed"
    assert item["content"] == [{"type": "output_audio", "transcript": "Good day."}]
    assert talk.one("response.output_audio_transcript.done")["transcript"] == "Good day."
    assert talk.conversation.responses.active is None


def test_transcript_is_paced_by_playout_and_not_by_generation() -> None:
    talk = Talk()
    talk.answer(1, {0: "one ", 40: "two ", 200: "three"}, 300)
    assert talk.of(DELTA) == []

    def heard() -> str:
        return "".join(event["delta"] for event in talk.of(DELTA))

    talk.play(20)
    assert heard() == "one "
    talk.play(20)
    assert heard() == "one two "
    talk.play(140)
    assert heard() == "one two "
    talk.play(20)
    assert heard() == "one two three"


def test_words_due_after_the_last_sample_are_not_lost() -> None:
    talk = Talk()
    talk.answer(1, {0: "one ", 5000: "late"}, 40)
    talk.play(80)
    assert talk.one("response.output_audio_transcript.done")["transcript"] == "one late"


def test_answer_is_over_when_played_and_not_when_generated() -> None:
    talk = Talk()
    talk.answer(1, {0: "one"}, 200)
    talk.play(160)
    assert "response.done" not in talk.types and talk.conversation.responses.active is not None
    talk.play(60)
    assert talk.types[-2:] == ["response.done", "output_audio_buffer.stopped"]


def test_underrun_does_not_end_an_answer() -> None:
    talk = Talk()
    talk.answer(1, {0: "one "}, 40, last=False)
    talk.play(400)
    assert "response.done" not in talk.types
    talk.hear(p.AudioOut(SESSION, 1, samples(40), sound(40), last=True))
    talk.done(1)
    talk.play(80)
    assert talk.types.count("output_audio_buffer.started") == 1
    assert talk.types[-2:] == ["response.done", "output_audio_buffer.stopped"]


def test_answer_without_any_sound_is_completed_without_a_buffer() -> None:
    talk = Talk()
    talk.hear(p.ResponseStarted(SESSION, 1, "speech", 1))
    talk.done(1)
    talk.play(20)
    assert talk.types == BEGIN_EVENTS + CLOSING_EVENTS


def test_newer_answer_finishes_the_one_before() -> None:
    talk = Talk()
    talk.answer(1, {0: "first"}, 40, last=False)
    talk.answer(2, {0: "second"}, 40)
    talk.play(120)
    said = [e["transcript"] for e in talk.of("response.output_audio_transcript.done")]
    assert said == ["first", "second"]
    statuses = [event["response"]["status"] for event in talk.of("response.done")]
    assert statuses == ["completed", "completed"]


# ---------------------------------------------------------------- transcripts of the user


def test_growing_partials_are_deltas_and_a_rewritten_one_waits_for_the_final() -> None:
    talk = Talk()
    talk.hear(p.SpeechStarted(SESSION, 1, 0), p.SpeechStopped(SESSION, 1, 16_000))
    for text in ("what", "what time", "what time", "but time", "but time is"):
        talk.hear(p.InputTranscript(SESSION, 1, text, False))
    talk.hear(p.InputTranscript(SESSION, 1, "what time is it", True))
    deltas = talk.of("conversation.item.input_audio_transcription.delta")
    assert [event["delta"] for event in deltas] == ["what", " time"]
    completed = talk.one("conversation.item.input_audio_transcription.completed")
    assert completed["transcript"] == "what time is it"


def test_failed_transcription_says_why() -> None:
    talk = Talk()
    talk.hear(
        p.SpeechStarted(SESSION, 1, 0),
        p.SpeechStopped(SESSION, 1, 16_000),
        p.InputTranscript(SESSION, 1, "", True, "the recogniser crashed"),
    )
    error = talk.one("conversation.item.input_audio_transcription.failed")["error"]
    assert error["message"] == "the recogniser crashed"
    assert "conversation.item.input_audio_transcription.completed" not in talk.types


def test_turn_is_committed_once() -> None:
    talk = Talk()
    speak(talk)
    talk.hear(p.InputTranscript(SESSION, 1, "again", True), p.SpeechStopped(SESSION, 1, 50_000))
    assert talk.types.count("input_audio_buffer.committed") == 1
    assert talk.conversation.turns.count == 1


def test_transcript_without_speech_events_still_makes_a_turn() -> None:
    """Push to talk: nothing was detected, the client committed."""
    talk = Talk()
    talk.hear(p.InputTranscript(SESSION, 1, "pushed", True))
    assert talk.types == SPEECH_EVENTS[2:]


def test_old_utterances_are_forgotten() -> None:
    talk = Talk()
    for n in range(1, MAX_UTTERANCES * 2):
        speak(talk, n)
    assert talk.conversation.turns.count == MAX_UTTERANCES * 2 - 1
    assert len({e["item_id"] for e in talk.of("input_audio_buffer.committed")}) == (
        MAX_UTTERANCES * 2 - 1
    )


# ---------------------------------------------------------------- barge-in


def interrupt(talk: Talk, epoch: int, utterance: int = 2) -> None:
    """The user speaks over the answer."""
    talk.hear(
        p.SpeechStarted(SESSION, utterance, 80_000),
        p.Interrupt(SESSION, epoch),
        p.ResponseDone(SESSION, epoch, "cancelled", "turn_detected"),
    )


CUT_EVENTS = [
    "input_audio_buffer.speech_started",
    "output_audio_buffer.cleared",
    "conversation.item.truncated",
    *CLOSING_EVENTS,
]


@pytest.mark.parametrize("generated", [True, False], ids=["all generated", "still generating"])
def test_barge_in_cuts_the_answer_at_what_was_heard(generated: bool) -> None:
    talk = Talk()
    talk.answer(1, {0: "one ", 60: "two ", 400: "never heard"}, 1000, last=generated)
    talk.play(100)
    talk.take_types()
    interrupt(talk, 1)
    assert talk.types == CUT_EVENTS
    heard_ms = 100 + FADE_SAMPLES * 1000 // p.OUTPUT_HZ
    assert talk.one("conversation.item.truncated")["audio_end_ms"] == heard_ms
    response = talk.one("response.done")["response"]
    assert response["status"] == "cancelled"
    assert response["status_details"] == {"type": "cancelled", "reason": "turn_detected"}
    item = response["output"][0]
    assert item["status"] == "incomplete"
    assert item["content"] == [{"type": "output_audio", "transcript": "one two "}]
    assert talk.sent(p.Heard)[-1] == p.Heard(
        SESSION, 1, samples(100) + FADE_SAMPLES, final=True, interrupted=True
    )


def test_barge_in_silences_at_once() -> None:
    talk = Talk()
    talk.answer(1, {}, 1000)
    talk.play(100)
    interrupt(talk, 1)
    fade, *rest = talk.play(100)
    assert fade is not None and fade[2 * FADE_SAMPLES :].strip(b"\0") == b""
    assert rest == [None] * 4 and talk.playout.waiting_ms == 0


def test_barge_in_before_the_first_sample_clears_no_buffer() -> None:
    talk = Talk()
    talk.answer(1, {0: "never heard"}, 200, last=False)
    talk.take_types()
    interrupt(talk, 1)
    assert talk.types == [event for event in CUT_EVENTS if "cleared" not in event]
    assert talk.one("conversation.item.truncated")["audio_end_ms"] == 0
    assert talk.one("response.output_audio_transcript.done")["transcript"] == ""
    assert talk.play(40) == [None, None]


def test_barge_in_while_thinking_cuts_even_without_sound() -> None:
    talk = Talk()
    talk.hear(p.ResponseStarted(SESSION, 1, "speech", 1))
    talk.take_types()
    interrupt(talk, 1)
    assert talk.one("response.done")["response"]["status"] == "cancelled"
    talk.hear(p.AudioOut(SESSION, 1, 0, sound(100)), p.TextOut(SESSION, 1, 0, "late"))
    assert talk.play(40) == [None, None] and talk.of(DELTA) == []


def test_late_sound_and_words_of_a_cut_answer_are_dropped() -> None:
    talk = Talk()
    talk.answer(1, {0: "one"}, 200, last=False)
    talk.play(40)
    interrupt(talk, 1)
    talk.play(20)
    talk.take_types()
    stale = talk.playout.stale_samples
    talk.hear(
        p.AudioOut(SESSION, 1, samples(200), sound(100)),
        p.TextOut(SESSION, 1, samples(200), "late"),
        p.AudioOut(SESSION, 1, samples(300), sound(100), last=True),
        p.ResponseDone(SESSION, 1, "completed"),
    )
    assert talk.play(60) == [None] * 3
    assert talk.types == [] and talk.playout.stale_samples - stale == samples(200)


def test_late_sound_of_a_cut_answer_does_not_mix_into_the_next() -> None:
    talk = Talk()
    talk.answer(1, {0: "one"}, 200, last=False)
    talk.play(40)
    interrupt(talk, 1)
    talk.play(20)
    talk.hear(p.ResponseStarted(SESSION, 2, "speech", 2))
    talk.hear(p.AudioOut(SESSION, 1, samples(200), sound(100, 1111)))
    talk.hear(p.AudioOut(SESSION, 2, 0, sound(20, 2222), last=True))
    talk.done(2)
    assert talk.play(40) == [sound(20, 2222), None]
    assert talk.of("response.done")[-1]["response"]["status"] == "completed"


def test_interrupt_cuts_every_answer_that_waits() -> None:
    talk = Talk()
    talk.answer(1, {0: "one"}, 200)
    talk.answer(2, {0: "two"}, 200)
    talk.play(40)
    talk.take_types()
    talk.hear(p.Interrupt(SESSION, 2))
    statuses = [event["response"]["status"] for event in talk.of("response.done")]
    assert statuses == ["cancelled", "cancelled"]
    assert talk.types.count("output_audio_buffer.cleared") == 1, "the second was never audible"
    assert talk.play(60)[1:] == [None, None]
    assert talk.conversation.responses.active is None


def test_interrupt_of_an_answer_that_is_over_does_nothing() -> None:
    talk = Talk()
    talk.answer(1, {0: "one"}, 40)
    talk.play(80)
    talk.take_types()
    told = len(talk.to_engine)
    talk.hear(p.Interrupt(SESSION, 1), p.ResponseDone(SESSION, 1, "cancelled", "turn_detected"))
    assert talk.types == [] and len(talk.to_engine) == told


def test_conversation_goes_on_after_a_barge_in() -> None:
    talk = Talk()
    speak(talk)
    talk.answer(1, {0: "one"}, 400)
    talk.play(100)
    interrupt(talk, 1)
    talk.hear(p.SpeechStopped(SESSION, 2, 90_000), p.InputTranscript(SESSION, 2, "stop", True))
    talk.take_types()
    talk.answer(2, {0: "fine"}, 40)
    talk.play(100)
    assert talk.types == [
        *BEGIN_EVENTS,
        "output_audio_buffer.started",
        DELTA,
        *CLOSING_EVENTS,
        "output_audio_buffer.stopped",
    ]
    assert talk.conversation.turns.count == 2


# ---------------------------------------------------------------- reports to the engine


def test_engine_hears_how_far_playout_is_every_fifth_of_a_second_and_at_the_end() -> None:
    talk = Talk()
    talk.answer(1, {}, 500)
    talk.play(600)
    assert talk.sent(p.Heard) == [
        p.Heard(SESSION, 1, samples(200)),
        p.Heard(SESSION, 1, samples(400)),
        p.Heard(SESSION, 1, samples(500), final=True),
    ]


def test_latency_from_the_end_of_speech_to_sound_is_measured_once() -> None:
    talk = Talk()
    speak(talk)
    talk.clock.now += 0.4321
    talk.answer(1, {}, 40)
    talk.play(40)
    assert talk.conversation.latency_ms["speech_stopped_to_audio"] == 432.1
    talk.clock.now += 100
    talk.answer(2, {}, 40)
    talk.play(40)
    assert talk.conversation.latency_ms["speech_stopped_to_audio"] == 432.1


# ---------------------------------------------------------------- other ends


def test_failed_answer_says_why() -> None:
    talk = Talk()
    talk.answer(1, {0: "I was "}, 40, last=False)
    talk.play(20)
    talk.done(1, "failed", "the chat endpoint did not answer")
    talk.play(60)
    response = talk.one("response.done")["response"]
    assert response["status"] == "failed"
    assert response["status_details"]["error"]["message"] == "the chat endpoint did not answer"
    assert response["output"][0]["status"] == "incomplete"
    assert talk.types[-1] == "output_audio_buffer.stopped"


def test_failed_answer_without_sound_is_over_too() -> None:
    talk = Talk()
    talk.hear(p.ResponseStarted(SESSION, 1, "speech", 1))
    talk.done(1, "failed", "broken")
    talk.play(20)
    assert talk.one("response.done")["response"]["status"] == "failed"
    assert talk.conversation.responses.active is None


def test_incomplete_answer_names_the_token_limit() -> None:
    talk = Talk()
    talk.answer(1, {0: "too long"}, 40, last=False)
    talk.done(1, "incomplete", "the longest answer is reached")
    talk.play(80)
    response = talk.one("response.done")["response"]
    assert response["status"] == "incomplete"
    assert response["status_details"] == {"type": "incomplete", "reason": "max_output_tokens"}


def test_text_answer_has_text_events_and_no_sound() -> None:
    talk = Talk(output_modalities=["text"])
    talk.hear(
        p.ResponseStarted(SESSION, 1, "request", modality="text"),
        p.TextOut(SESSION, 1, 0, "Good "),
        p.TextOut(SESSION, 1, 0, "day.", last=True),
    )
    assert talk.types == [*BEGIN_EVENTS, "response.output_text.delta", "response.output_text.delta"]
    talk.done(1)
    talk.play(20)
    assert talk.types[7:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    assert talk.one("response.content_part.added")["part"]["type"] == "text"
    assert talk.one("response.output_text.done")["text"] == "Good day."
    response = talk.one("response.done")["response"]
    assert response["output_modalities"] == ["text"]
    assert response["output"][0]["content"] == [{"type": "output_text", "text": "Good day."}]


def test_text_answer_that_is_cut_truncates_no_sound() -> None:
    talk = Talk()
    talk.hear(
        p.ResponseStarted(SESSION, 1, "request", modality="text"),
        p.TextOut(SESSION, 1, 0, "Good "),
        p.Interrupt(SESSION, 1),
    )
    assert talk.types[6:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "conversation.item.done",
        "response.done",
    ]
    assert talk.one("response.output_text.done")["text"] == "Good "


def test_figures_and_warnings_of_the_engine_are_told() -> None:
    talk = Talk()
    talk.hear(
        p.UnitDone(SESSION, 3, "speak", {"asr": 12.5, "tts": 30.0}, kv_tokens=9),
        p.SessionWarning(SESSION, "context_near_limit", "soon full"),
    )
    assert talk.one("metrics")["metrics"] == {
        "asr_ms": 12.5,
        "tts_ms": 30.0,
        "unit": 3,
        "kv_tokens": 9,
        "ahead_ms": 0,
    }
    warning = talk.one("session.warning")
    assert (warning["code"], warning["message"]) == ("context_near_limit", "Soon full.")
    assert talk.conversation.latency_ms == {"asr": 12.5, "tts": 30.0}


def test_figures_tell_how_much_the_model_can_remember_where_it_is_known() -> None:
    talk = Talk()
    talk.conversation.abilities = Abilities(context_tokens=8192)
    talk.hear(p.UnitDone(SESSION, 1, "listen", {}, kv_tokens=9))
    assert talk.one("metrics")["metrics"]["context_tokens"] == 8192


@pytest.mark.parametrize(
    "message",
    [
        p.TextOut(SESSION, 9, 0, "unknown"),
        p.AudioOut(SESSION, 0, 0, sound(20)),
        p.ResponseDone(SESSION, 9, "completed"),
        p.ResponseDone(SESSION, 9, "cancelled"),
        p.Interrupt(SESSION, 9),
    ],
    ids=lambda message: type(message).__name__,
)
def test_message_about_an_unknown_answer_is_ignored(message: Any) -> None:
    talk = Talk()
    talk.hear(message)
    talk.play(60)
    assert talk.types == [] and talk.sent(p.CancelResponse) == []


def test_event_ids_are_unique() -> None:
    talk = Talk()
    speak(talk)
    talk.answer(1, {0: "a", 20: "b"}, 40)
    talk.play(80)
    ids = [event["event_id"] for event in talk.events]
    assert len(set(ids)) == len(ids)


def test_half_a_sample_of_an_engine_is_left_out() -> None:
    talk = Talk()
    talk.hear(p.ResponseStarted(SESSION, 1, "speech", 1))
    talk.hear(p.AudioOut(SESSION, 1, 0, sound(20) + b"\x07"))
    talk.hear(p.AudioOut(SESSION, 1, samples(20), sound(20), last=True))
    assert [packet == sound(20) for packet in talk.play(40)] == [True, True]
