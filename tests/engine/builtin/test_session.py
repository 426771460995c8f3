"""Turn-taking: epochs, barge-in, flow control, the three modes, cancel, settings, ends.

Scripted recogniser and answerer; real segmentation of recorded speech; no waiting on clocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from engine.builtin.interfaces import Transcript
from engine.ipc.protocol import (
    COMMIT_EMPTY,
    MAX_AHEAD_MS,
    AudioOut,
    CancelResponse,
    ClearAudio,
    CommitAudio,
    CreateResponse,
    DeleteItem,
    ForceListen,
    ImageIn,
    InputTranscript,
    Interrupt,
    ItemIn,
    Mode,
    OverlapTold,
    RequestRefused,
    ResponseDone,
    ResponseStarted,
    Retention,
    SessionConfig,
    SessionEnded,
    SessionWarning,
    SpeechStarted,
    SpeechStopped,
    TextOut,
    TextPart,
    TurnDetection,
    UnitDone,
    UpdateSession,
)
from tests.engine.builtin.rig import (
    SESSION,
    Scene,
    failing,
    hiss,
    noise,
    say,
    settle,
    speech,
    spoken_over,
)

POLITE = TurnDetection(interrupt_response=False)


@asynccontextmanager
async def scene(*arguments: Any, **named: Any) -> AsyncIterator[Scene]:
    it = Scene(*arguments, **named)
    try:
        yield it
    finally:
        await it.close()


def typed(text: str) -> ItemIn:
    return ItemIn(SESSION, "item-1", "user", (TextPart(text),))


async def test_speech_is_announced_transcribed_and_answered_in_order() -> None:
    async with scene(script=[Transcript("what time is it")]) as it:
        await it.hear(say("what_time"))
        done = await it.wait(ResponseDone)
        kinds = [type(message) for message in it.log]
        order = (SpeechStarted, SpeechStopped, InputTranscript, ResponseStarted, TextOut, AudioOut)
        assert [kinds.index(kind) for kind in order] == sorted(kinds.index(kind) for kind in order)
        assert done.status == "completed"
        assert it.all(ResponseStarted) == [ResponseStarted(SESSION, 1, "speech", 1, "audio")]
        assert it.all(InputTranscript)[-1].text == "what time is it"


async def test_last_is_flagged_exactly_once_at_the_end_of_sound_and_text() -> None:
    async with scene(stretches_ms=(500, 700)) as it:
        await it.hear(say("what_time"))
        await it.wait(ResponseDone)
        for messages in (it.all(AudioOut), it.all(TextOut)):
            assert [m.last for m in messages] == [False] * (len(messages) - 1) + [True]
        pts = 0
        for message in it.all(AudioOut):
            assert message.pts == pts
            pts += len(message.pcm) // 2
        assert pts == 24 * 1200


async def test_words_never_come_after_the_sound_they_belong_to() -> None:
    async with scene(stretches_ms=(2_000,)) as it:
        await it.hear(say("what_time"))
        await it.wait(ResponseDone)
        sent = 0
        for message in it.log:
            if isinstance(message, AudioOut):
                sent = message.pts + len(message.pcm) // 2
            elif isinstance(message, TextOut) and message.text:
                assert message.pts >= sent or message.pts == 0


async def test_no_more_than_allowed_is_ahead_of_what_was_heard() -> None:
    async with scene(stretches_ms=(3_000, 3_000, 3_000)) as it:
        await it.hear(say("what_time"))
        await settle(100)

        def sent() -> int:
            return sum(len(message.pcm) // 2 for message in it.all(AudioOut))

        limit = 24 * MAX_AHEAD_MS
        assert limit - 24 * 200 < sent() <= limit
        assert not it.all(ResponseDone)
        it.heard(1, 24_000, final=False)
        await settle()
        assert limit + 24_000 - 24 * 200 < sent() <= limit + 24_000
        it.heard(1, 24 * 4_500, final=False)
        await settle()
        it.heard(1, 24 * 8_000, final=False)
        assert (await it.wait(ResponseDone)).status == "completed"
        assert sent() == 24 * 9_000


async def test_speaking_over_an_answer_cuts_it() -> None:
    async with scene(stretches_ms=(3_000, 3_000)) as it:
        await it.hear(say("tell_story"))
        await it.wait(AudioOut)
        begun = it.pts
        await it.hear(hiss(300))
        onset = it.pts
        await it.hear(speech("what_time"))
        cut = await it.wait(Interrupt)
        assert cut.epoch == 1
        started = it.all(SpeechStarted)[1]
        assert started.pts >= begun
        done = await it.wait(ResponseDone)
        assert (done.status, done.reason) == ("cancelled", "turn_detected")
        index = it.log.index(cut)
        assert not [m for m in it.log[index:] if isinstance(m, AudioOut) and m.epoch == 1]
        assert it.answerer.closed == 1
        assert started.pts - onset < 16 * 400


async def test_an_answer_that_is_spoken_over_waits_within_300_ms_and_ends_within_700() -> None:
    async with scene(stretches_ms=(3_000, 3_000)) as it:
        await it.hear(say("tell_story"))
        await it.wait(AudioOut)
        for start in range(0, len(speech("what_time")), 640):
            await it.hear(speech("what_time")[start : start + 640])
            if not it.all(OverlapTold):
                ducked = it.pts
            if not [told for told in it.all(OverlapTold) if told.loudness == "held"]:
                held = it.pts
            if it.all(Interrupt):
                break
        since = it.all(SpeechStarted)[1].pts
        assert ducked - since <= 16 * 80 and held - since <= 16 * 300
        assert it.pts - since <= 16 * 700
        assert it.all(OverlapTold)[-1].decision == "interruption"


async def test_an_acknowledgement_is_neither_told_nor_answered() -> None:
    async with scene(stretches_ms=(3_000, 3_000)) as it:
        await it.hear(say("tell_story"))
        await it.wait(AudioOut)
        await it.hear(say("stop"))
        await settle()
        told = it.all(OverlapTold)
        assert [one.loudness for one in told] == ["ducked", "held", "full"]
        assert told[-1].decision == "acknowledgement"
        assert len(it.all(SpeechStarted)) == 1 and not it.all(Interrupt)
        assert it.recogniser.utterances[1].is_abandoned
        await it.hear(say("what_time"))
        await it.wait(Interrupt)
        assert it.all(SpeechStarted)[1].utterance == 2


async def test_a_word_that_always_cuts_does_so_as_soon_as_it_is_understood() -> None:
    async with scene(stretches_ms=(3_000, 3_000)) as it:
        await it.hear(say("tell_story"))
        await it.wait(AudioOut)
        await it.hear(hiss(300) + speech("stop")[: 2 * 16 * 520])
        assert not it.all(Interrupt) and len(it.recogniser.utterances) == 2
        it.recogniser.on_partial("nonstop")
        assert not it.all(Interrupt) and len(it.all(SpeechStarted)) == 1
        it.recogniser.on_partial("please stop")
        assert it.all(OverlapTold)[-1].decision == "word" and it.all(Interrupt)
        assert it.all(InputTranscript)[-1].text == "please stop"
        await it.hear(speech("stop")[2 * 16 * 520 :] + hiss(700))
        await it.wait(ResponseStarted, 2)


async def test_a_word_that_always_cuts_does_so_when_it_is_understood_late() -> None:
    async with scene(stretches_ms=(3_000, 3_000)) as it:
        await it.hear(say("tell_story"))
        await it.wait(AudioOut)
        it.recogniser.is_owed = True
        await it.hear(hiss(300) + speech("stop") + hiss(700))
        assert it.all(OverlapTold)[-1].decision == "acknowledgement" and not it.all(Interrupt)
        assert not it.recogniser.utterances[1].is_abandoned
        it.recogniser.on_partial("hop")
        assert not it.all(Interrupt)
        it.recogniser.on_partial("stop")
        assert len(it.all(Interrupt)) == 1 and it.recogniser.utterances[1].is_abandoned
        it.recogniser.on_partial("stop")
        assert len(it.all(Interrupt)) == 1


async def test_words_that_come_far_too_late_cut_nothing() -> None:
    async with scene(stretches_ms=(3_000, 3_000)) as it:
        await it.hear(say("tell_story"))
        await it.wait(AudioOut)
        it.recogniser.is_owed = True
        await it.hear(hiss(300) + speech("stop") + hiss(2_500))
        assert it.recogniser.utterances[1].is_abandoned
        it.recogniser.on_partial("stop")
        assert not it.all(Interrupt)


async def test_a_held_answer_ends_by_the_words_for_it_alone() -> None:
    config = SessionConfig(turn_detection=TurnDetection(overlap="hold", cut_words=("pineapple",)))
    async with scene(config, stretches_ms=(3_000, 3_000)) as it:
        await it.hear(say("tell_story"))
        await it.wait(AudioOut)
        await it.hear(say("what_time"))
        await settle()
        assert len(it.all(SpeechStopped)) == 2 and not it.all(Interrupt)
        assert [one.loudness for one in it.all(OverlapTold)][-1] == "full"
        await it.hear(hiss(300) + speech("what_time"))
        it.recogniser.on_partial("a Pineapple")
        assert it.all(Interrupt)


async def test_with_overlap_cut_any_speech_ends_an_answer_at_once() -> None:
    config = SessionConfig(turn_detection=TurnDetection(overlap="cut"))
    async with scene(config, stretches_ms=(3_000, 3_000)) as it:
        await it.hear(say("tell_story"))
        await it.wait(AudioOut)
        for start in range(0, len(speech("what_time")), 640):
            await it.hear(speech("what_time")[start : start + 640])
            if it.all(Interrupt):
                break
        assert it.pts - it.all(SpeechStarted)[1].pts <= 16 * 120
        assert not it.all(OverlapTold)


async def test_an_answer_that_is_generated_but_still_playing_is_interrupted_too() -> None:
    async with scene() as it:
        await it.hear(say("what_time"))
        await it.wait(ResponseDone)
        it.heard(1, 12_000, final=False)
        await it.hear(say("tell_story"))
        await it.wait(Interrupt)
        assert [done.status for done in it.all(ResponseDone)][:1] == ["completed"]
        assert len([done for done in it.all(ResponseDone) if done.epoch == 1]) == 1


async def test_an_answer_heard_to_its_end_is_not_interrupted() -> None:
    async with scene() as it:
        await it.hear(say("what_time"))
        await it.wait(ResponseDone)
        it.heard(1, 24_000, final=True)
        await it.hear(say("stop"))
        await it.wait(ResponseDone, 2)
        assert it.all(Interrupt) == []


async def test_a_click_does_not_cut_an_answer() -> None:
    async with scene(stretches_ms=(3_000, 3_000)) as it:
        await it.hear(say("tell_story"))
        await it.wait(AudioOut)
        click = speech("what_time")[2 * 16 * 300 : 2 * 16 * 330]
        for _ in range(5):
            await it.hear(hiss(400) + click + hiss(400))
        assert it.all(Interrupt) == []


async def test_what_was_not_heard_of_an_interrupted_answer_is_forgotten() -> None:
    async with scene(stretches_ms=(4_000,)) as it:
        await it.hear(say("what_time"))
        await it.wait(AudioOut)
        await it.hear(say("tell_story"))
        it.heard(1, 24 * 1_500, final=True, interrupted=True)
        await it.wait(ResponseDone, 2)
        texts = [(item.role, item.text) for item in it.answerer.turns[1].conversation.items]
        assert texts[1] == ("assistant", "w00 w01")


async def test_an_answer_cut_before_it_was_noticed_leaves_the_question_open() -> None:
    script = [Transcript("what time"), Transcript("is it")]
    async with scene(script=script, stretches_ms=(4_000,)) as it:
        await it.hear(say("what_time"))
        await it.wait(AudioOut)
        await it.hear(speech("tell_story"))
        it.heard(1, 1_000, final=True, interrupted=True)
        await it.hear(hiss(700))
        await it.wait(ResponseStarted, 2)
        open_items = [item.text for item in it.answerer.turns[0].conversation.items]
        assert open_items[:2] == ["what time", "is it"]


async def test_without_interruption_the_next_answer_waits_for_the_end_of_this_one() -> None:
    config = SessionConfig(mode="half_duplex", turn_detection=POLITE)
    async with scene(config) as it:
        await it.hear(say("what_time"))
        await it.wait(ResponseDone)
        await it.hear(say("stop"))
        await settle()
        assert it.all(Interrupt) == []
        assert len(it.all(InputTranscript)) == 2
        assert len(it.all(ResponseStarted)) == 1
        it.heard(1, 24_000, final=True)
        assert (await it.wait(ResponseStarted, 2)).utterance == 2


async def test_half_duplex_interrupts_if_so_configured() -> None:
    async with scene(SessionConfig(mode="half_duplex")) as it:
        await it.hear(say("what_time"))
        await it.wait(ResponseDone)
        await it.hear(say("tell_story"))
        assert (await it.wait(Interrupt)).epoch == 1


async def test_without_create_response_speech_is_only_transcribed() -> None:
    config = SessionConfig(turn_detection=TurnDetection(create_response=False))
    async with scene(config) as it:
        await it.hear(say("what_time"))
        await it.wait(UnitDone)
        assert it.all(UnitDone)[0].decision == "listen"
        assert it.all(ResponseStarted) == []
        it.session.handle(CreateResponse(SESSION))
        assert (await it.wait(ResponseStarted)).trigger == "request"


async def test_who_goes_on_speaking_is_answered_once() -> None:
    async with scene(script=[Transcript("what time"), Transcript("is it")]) as it:
        it.recogniser.gate.clear()
        await it.hear(say("what_time", after_ms=400))
        await it.hear(speech("stop"))
        it.recogniser.gate.set()
        await it.wait(InputTranscript)
        assert it.all(ResponseStarted) == []
        await it.hear(hiss(700))
        assert (await it.wait(ResponseStarted)).utterance == 2


async def test_noise_after_a_question_does_not_swallow_its_answer() -> None:
    async with scene(script=[Transcript("what time is it"), Transcript("")]) as it:
        it.recogniser.gate.clear()
        await it.hear(say("what_time", after_ms=400))
        await it.hear(speech("stop")[: 2 * 16 * 380])
        it.recogniser.gate.set()
        await it.hear(hiss(700))
        await it.wait(ResponseStarted)
        assert it.answerer.turns[0].transcript is None


async def test_a_wordless_short_sound_is_not_answered() -> None:
    async with scene(script=[Transcript("")]) as it:
        await it.hear(hiss(300) + speech("stop")[: 2 * 16 * 380] + hiss(700))
        await it.wait(UnitDone)
        assert it.all(ResponseStarted) == []


async def test_turn_based_speech_waits_for_commit_and_request() -> None:
    async with scene(SessionConfig(mode="turn_based"), [Transcript("hello")]) as it:
        await it.hear(say("hello") + say("stop"))
        await settle()
        assert it.log == []
        it.session.handle(CommitAudio(SESSION))
        it.session.handle(CreateResponse(SESSION))
        assert (await it.wait(InputTranscript)).text == "hello"
        await it.wait(ResponseDone)
        assert len(it.recogniser.utterances) == 1
        assert it.answerer.turns[0].conversation.items[0].text == "hello"
        assert it.all(SpeechStarted) == []


async def test_committing_nothing_is_told() -> None:
    async with scene(SessionConfig(mode="turn_based")) as it:
        await it.hear(hiss(500))
        it.session.handle(CommitAudio(SESSION))
        transcript = await it.wait(InputTranscript)
        assert (transcript.text, transcript.error) == ("", "no speech was heard")


async def test_cleared_audio_is_forgotten() -> None:
    async with scene(SessionConfig(mode="turn_based")) as it:
        await it.hear(say("hello"))
        it.session.handle(ClearAudio(SESSION))
        assert it.recogniser.utterances[0].is_abandoned
        it.session.handle(CommitAudio(SESSION))
        assert (await it.wait(RequestRefused)).code == COMMIT_EMPTY
        await it.hear(hiss(200))
        it.session.handle(CommitAudio(SESSION))
        assert (await it.wait(InputTranscript)).error


@pytest.mark.parametrize("mode", ["full_duplex", "half_duplex"])
async def test_a_commit_in_mid_speech_ends_the_turn_and_loses_no_words(mode: Mode) -> None:
    async with scene(SessionConfig(mode=mode), [Transcript("hello"), Transcript("stop")]) as it:
        await it.hear(say("hello", after_ms=0))
        it.session.handle(CommitAudio(SESSION))
        assert (await it.wait(InputTranscript)).text == "hello"
        await settle()
        assert len(it.all(SpeechStopped)) == 1 and not it.all(ResponseStarted)
        await it.hear(say("stop"))
        assert (await it.wait(InputTranscript, 2)).text == "stop"
        await it.wait(ResponseStarted)
        assert [words.is_finished for words in it.recogniser.utterances] == [True, True]


@pytest.mark.parametrize("config", [SessionConfig(mode="turn_based"), SessionConfig()])
@pytest.mark.parametrize("ms", [0, 80])
async def test_a_commit_of_next_to_nothing_is_refused(config: SessionConfig, ms: int) -> None:
    async with scene(config) as it:
        await it.hear(hiss(500))
        it.session.handle(CommitAudio(SESSION))
        await it.wait(InputTranscript)
        await it.hear(hiss(ms))
        it.session.handle(CommitAudio(SESSION, "mine"))
        refused = [(refusal.request, refusal.code) for refusal in it.all(RequestRefused)]
        assert refused == [("mine", COMMIT_EMPTY)]
        await settle()
        assert len(it.all(InputTranscript)) == 1


@pytest.mark.parametrize("mode", ["full_duplex", "half_duplex", "turn_based"])
async def test_a_fan_is_no_question_whatever_the_recogniser_makes_of_it(mode: Mode) -> None:
    async with scene(SessionConfig(mode=mode), [Transcript("the"), Transcript("what")]) as it:
        await it.hear(hiss(300) + noise(4_000, -26))
        if mode == "turn_based":
            it.session.handle(CommitAudio(SESSION))
        await it.wait(InputTranscript)
        assert it.all(InputTranscript)[-1] == InputTranscript(
            SESSION, 1, "", True, "no speech was heard"
        )
        assert all(utterance.is_abandoned for utterance in it.recogniser.utterances)
        await settle()
        assert it.all(ResponseStarted) == [] and it.all(SessionWarning) == []
        await it.hear(spoken_over(noise(5_000, -36), "what_time"))
        if mode == "turn_based":
            it.session.handle(CommitAudio(SESSION))
            it.session.handle(CreateResponse(SESSION))
        await it.wait(AudioOut)
        assert it.answerer.turns[0].conversation.items[0].text == "what"


async def test_an_utterance_cut_at_its_longest_and_not_understood_is_told() -> None:
    async with scene(script=[Transcript("")]) as it:
        await it.hear(speech("open")[3_200:-6_400] * 22)
        await it.wait(SessionWarning)
        (warning,) = it.all(SessionWarning)
        assert warning.code == "utterance_too_long"


async def test_typed_text_is_answered_on_request_in_text_only_if_asked() -> None:
    async with scene() as it:
        it.session.handle(typed("hi"))
        it.session.handle(CreateResponse(SESSION, modalities=("text",)))
        await it.wait(ResponseDone)
        assert it.all(ResponseStarted)[0].modality == "text"
        assert it.all(AudioOut) == []
        assert [text.last for text in it.all(TextOut)][-1]
        await it.hear(say("stop"))
        assert it.all(Interrupt) == []


async def test_what_is_typed_behind_speech_stays_there_when_its_words_come_late() -> None:
    async with scene(script=[Transcript("one"), Transcript("three")]) as it:
        it.recogniser.gate.clear()
        await it.hear(say("who"))
        it.session.handle(typed("two"))
        await it.hear(say("who"))
        it.session.handle(typed("four"))
        it.session.handle(CreateResponse(SESSION, request="asked"))
        await settle()
        assert it.answerer.turns == []
        it.recogniser.gate.set()
        await it.wait(ResponseStarted, where=lambda started: started.request == "asked")
        await settle()
        kept = it.answerer.turns[-1].conversation.items
        assert [item.text for item in kept if item.role == "user"] == [
            "one",
            "two",
            "three",
            "four",
        ]


async def test_a_request_supersedes_the_answer_under_way() -> None:
    async with scene(stretches_ms=(5_000,)) as it:
        it.session.handle(CreateResponse(SESSION))
        await it.wait(AudioOut)
        it.session.handle(CreateResponse(SESSION))
        await it.wait(ResponseStarted, 2)
        assert it.all(Interrupt) == [Interrupt(SESSION, 1)]
        assert it.all(ResponseDone)[0].status == "cancelled"


@pytest.mark.parametrize("epoch, cut", [(1, True), (7, True), (0, False)])
async def test_cancel_ends_what_is_not_newer(epoch: int, cut: bool) -> None:
    async with scene(stretches_ms=(5_000,)) as it:
        it.session.handle(CreateResponse(SESSION))
        await it.wait(AudioOut)
        it.session.handle(CancelResponse(SESSION, epoch))
        await settle()
        assert [done.status for done in it.all(ResponseDone)] == (["cancelled"] if cut else [])
        assert it.answerer.closed == int(cut)
        assert it.all(Interrupt) == []


async def test_forced_to_listen_it_transcribes_and_stays_silent() -> None:
    async with scene(stretches_ms=(5_000,)) as it:
        it.session.handle(CreateResponse(SESSION))
        await it.wait(AudioOut)
        it.session.handle(ForceListen(SESSION, True))
        assert it.all(ResponseDone)[0].status == "cancelled"
        assert it.all(Interrupt)
        await it.hear(say("hello"))
        await it.wait(InputTranscript)
        it.session.handle(CreateResponse(SESSION, request="mine"))
        refused = await it.wait(RequestRefused)
        assert (refused.request, refused.code) == ("mine", "listening_only")
        assert len(it.all(ResponseStarted)) == 1
        it.session.handle(ForceListen(SESSION, False))
        it.session.handle(CreateResponse(SESSION))
        await it.wait(ResponseStarted, 2)


async def test_the_mode_changes_in_the_middle_of_an_utterance() -> None:
    async with scene(script=[Transcript("first"), Transcript("second")]) as it:
        await it.hear(hiss(300) + speech("what_time"))
        it.session.handle(UpdateSession(SESSION, SessionConfig(mode="turn_based")))
        assert len(it.all(SpeechStopped)) == 1
        assert (await it.wait(InputTranscript)).text == "first"
        await it.wait(ResponseDone)
        it.heard(1, 24_000, final=True)
        await it.hear(say("hello"))
        assert len(it.all(SpeechStarted)) == 1
        it.session.handle(UpdateSession(SESSION, SessionConfig()))
        assert it.recogniser.utterances[1].is_abandoned
        await it.hear(say("hello"))
        await it.wait(ResponseStarted, 2)


async def test_unknown_settings_are_warned_about_once_and_later() -> None:
    config = SessionConfig(voice="alloy", options={"colour": "red", "timezone": "Mars/Base"})
    async with scene(config) as it:
        assert it.log == []
        it.session.handle(UpdateSession(SESSION, config))
        await settle()
        codes = sorted(warning.code for warning in it.all(SessionWarning))
        assert codes == ["invalid_option", "unknown_option", "unknown_voice"]


@pytest.mark.parametrize(
    "message, code",
    [
        (DeleteItem(SESSION, "nothing"), "unknown_item"),
        (ImageIn(SESSION, 0, 10, 10, b"abc"), "bad_picture"),
    ],
)
async def test_what_makes_no_sense_is_warned_about(message: Any, code: str) -> None:
    async with scene() as it:
        it.session.handle(message)
        assert [warning.code for warning in it.all(SessionWarning)] == [code]


async def test_deleted_items_are_not_answered() -> None:
    async with scene() as it:
        it.session.handle(typed("hi"))
        it.session.handle(DeleteItem(SESSION, "item-1"))
        it.session.handle(CreateResponse(SESSION, modalities=("text",)))
        await it.wait(ResponseDone)
        assert it.answerer.turns[0].conversation.unanswered() == []


async def test_a_failed_answer_is_closed_and_told() -> None:
    async with scene() as it:
        it.answerer.failure = failing("the endpoint is away")
        it.session.handle(CreateResponse(SESSION))
        done = await it.wait(ResponseDone)
        assert (done.status, done.reason) == ("failed", "the endpoint is away")
        assert it.all(AudioOut)[-1].last and it.all(TextOut)[-1].last


async def test_a_recogniser_error_is_told_and_answered() -> None:
    async with scene(script=[Transcript("", error="it stopped")]) as it:
        await it.hear(say("what_time"))
        await it.wait(ResponseDone)
        assert it.all(InputTranscript)[-1].error == "it stopped"


async def test_a_bug_ends_the_session_with_a_reason(caplog: pytest.LogCaptureFixture) -> None:
    async with scene() as it:
        it.answerer.failure = RuntimeError("a bug")
        it.session.handle(CreateResponse(SESSION))
        assert (await it.wait(SessionEnded)).reason == "failed"
        assert "a bug" in caplog.text


async def test_goodbye_ends_the_session_when_it_was_heard() -> None:
    async with scene() as it:
        it.answerer.says_goodbye = True
        it.session.handle(CreateResponse(SESSION))
        await it.wait(ResponseDone)
        assert it.all(SessionEnded) == []
        it.heard(1, 24_000, final=True)
        assert (await it.wait(SessionEnded)).reason == "goodbye"
        before = len(it.log)
        await it.hear(say("hello"))
        assert len(it.log) == before


async def test_goodbye_is_off_when_the_user_goes_on() -> None:
    async with scene() as it:
        it.answerer.says_goodbye = True
        it.session.handle(CreateResponse(SESSION))
        await it.wait(ResponseDone)
        it.answerer.says_goodbye = False
        await it.hear(say("what_time"))
        it.heard(1, 10_000, final=True, interrupted=True)
        await it.wait(ResponseDone, 2)
        assert it.all(SessionEnded) == []


async def test_a_playout_that_gives_up_ends_the_answer() -> None:
    async with scene(stretches_ms=(9_000,)) as it:
        it.session.handle(CreateResponse(SESSION))
        await it.wait(AudioOut)
        it.heard(1, 100, final=True, interrupted=True)
        assert (await it.wait(ResponseDone)).status == "cancelled"


async def test_a_conversation_forgets_as_the_retention_says_also_when_it_changes() -> None:
    async with scene(SessionConfig(retention=Retention(0.5, 10))) as it:
        it.session.handle(CreateResponse(SESSION))
        await it.wait(ResponseDone)
        history = it.answerer.turns[0].conversation

        def remembered(name: str) -> list[str]:
            it.session.handle(ItemIn(SESSION, name, "user", (TextPart("x" * 20),)))
            return [item.ident for item in history.items]

        assert remembered("a")[-1:] == ["a"]
        assert [remembered("b"), remembered("c")] == [["b"], ["b", "c"]]
        it.session.handle(UpdateSession(SESSION, SessionConfig()))
        assert [remembered(name) for name in "def"][-1] == [*"bcdef"]


async def test_partial_transcripts_are_passed_on_unless_unwanted() -> None:
    async with scene() as it:
        await it.hear(hiss(300) + speech("what_time"))
        it.recogniser.on_partial("what")
        assert it.all(InputTranscript) == [InputTranscript(SESSION, 1, "what", False)]
        it.session.handle(UpdateSession(SESSION, SessionConfig(transcribe=False)))
        it.recogniser.on_partial("what time")
        await it.hear(hiss(700))
        await it.wait(ResponseDone)
        assert len(it.all(InputTranscript)) == 1


async def test_a_commit_is_answered_where_no_transcript_is_wanted() -> None:
    config = SessionConfig(mode="turn_based", transcribe=False)
    async with scene(config, [Transcript("hello")]) as it:
        await it.hear(hiss(300) + speech("what_time") + hiss(700))
        it.session.handle(CommitAudio(SESSION))
        told = await it.wait(InputTranscript)
        assert (told.text, told.final, told.code) == ("", True, "not_transcribed")


async def test_of_too_many_requests_the_oldest_are_refused_by_name() -> None:
    async with scene() as it:
        for number in range(40):
            it.session.handle(
                CreateResponse(SESSION, instructions=f"{number}", request=f"{number}")
            )
        refused = it.all(RequestRefused)
        assert {refusal.code for refusal in refused} == {"overloaded"}
        assert [refusal.request for refusal in refused] == [f"{n}" for n in range(24)]
        await it.wait(ResponseDone)
        await settle(200)
        assert it.answerer.turns[-1].instructions == "39"
        assert [begun.request for begun in it.all(ResponseStarted)] == [
            f"{number}" for number in range(24, 40)
        ]


async def test_of_too_many_turns_the_oldest_fails_and_is_told() -> None:
    async with scene(SessionConfig(mode="turn_based")) as it:
        it.recogniser.gate.clear()
        for _ in range(19):
            await it.hear(say("hello"))
            it.session.handle(CommitAudio(SESSION))
            await settle()
        # The first is at the recogniser, 16 wait, two were dropped.
        failed = [t.utterance for t in it.all(InputTranscript) if t.error]
        assert failed == [2, 3]
        assert [utterance.is_abandoned for utterance in it.recogniser.utterances[:4]] == [
            False,
            True,
            True,
            False,
        ]
        assert len(it.all(SessionWarning)) == 1
        it.recogniser.gate.set()
        await it.wait(InputTranscript, 19)


async def test_overload_is_told_and_apologised_for_once_until_it_is_over() -> None:
    crowd = Transcript("", error="too many", is_overload=True)
    async with scene(script=[crowd, crowd, Transcript("hello"), crowd]) as it:
        for number, responses in enumerate((1, 1, 2, 3), 1):
            await it.hear(say("hello"))
            await it.wait(UnitDone, number)
            await settle()
            assert len(it.all(ResponseStarted)) == responses
            for reply in range(1, responses + 1):
                it.heard(reply, 10**6, final=True)
        assert [t.error for t in it.all(InputTranscript)] == [
            "too many",
            "too many",
            "",
            "too many",
        ]
        assert [warning.code for warning in it.all(SessionWarning)] == ["overloaded"] * 2


async def test_lost_input_is_reported_with_the_turn() -> None:
    async with scene() as it:
        await it.hear(hiss(200))
        it.pts += 16 * 150
        await it.hear(say("what_time"))
        assert (await it.wait(UnitDone)).dropped_ms == 150


async def test_stages_are_measured() -> None:
    async with scene() as it:
        await it.hear(say("what_time"))
        unit = await it.wait(UnitDone)
        assert (unit.unit, unit.decision) == (1, "speak")
        assert unit.stages_ms["endpoint"] == 320
        assert unit.stages_ms["first_audio"] >= unit.stages_ms["endpoint"]


MOMENTS: list[Callable[[Scene], Any]] = [
    lambda it: it.hear(b""),
    lambda it: it.hear(hiss(300) + speech("what_time")),
    lambda it: it.hear(say("what_time")),
    lambda it: _until_audio(it),
]


async def _until_audio(it: Scene) -> None:
    await it.hear(say("what_time"))
    await it.wait(AudioOut)


@pytest.mark.parametrize("moment", range(len(MOMENTS)))
async def test_closing_at_any_moment_leaves_no_task_and_says_nothing(moment: int) -> None:
    before = asyncio.all_tasks()
    it = Scene(stretches_ms=(9_000,))
    it.recogniser.gate.clear() if moment == 2 else None
    await MOMENTS[moment](it)
    num_messages = len(it.log)
    await it.close()
    await settle()
    assert asyncio.all_tasks() == before
    assert len(it.log) == num_messages
    await it.close()
