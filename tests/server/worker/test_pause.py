"""Hush, mute, pause and resume: what the engine gets, what the client is told, and when."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from engine.ipc import protocol as p
from server.worker.pause import WARNED_S, Pause
from server.worker.recall import MAX_CHARS, OPENING, recalled
from server.worker.user_input import REST_S, MutedRest
from signaling.session.core import Abilities
from signaling.session.items import (
    FunctionCallItem,
    FunctionOutputItem,
    Item,
    MessageItem,
    ShownPart,
)
from tests.server.worker.talk import SESSION, Talk
from tests.server.worker.test_session import Call
from tests.signaling.offers import CHROMIUM_OFFER

UNITS = Abilities(hears_in_units=True)
PIECE = bytes(640)


class PausingTalk(Talk):
    """A conversation whose session may rest."""

    def __init__(self, keep_s: float = 60.0) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.pause = Pause(
            keep_s,
            self.conversation.audience,
            give_away=lambda: self.asked.append("given"),
            take_again=lambda: self.asked.append("asked"),
            clock=self.clock,
        )
        self.commands._pause = self.pause

    def wait(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.clock.now += 1
            self.pause.look()

    def codes(self) -> list[str]:
        return [event["code"] for event in self.of("session.warning")]


# ---------------------------------------------------------------- hush


def test_hush_reaches_the_engine_and_is_told() -> None:
    talk = Talk()
    talk.ask({"type": "session.force_listen"})
    talk.ask({"type": "session.force_listen", "on": False})
    assert talk.sent(p.ForceListen) == [p.ForceListen(SESSION, True), p.ForceListen(SESSION, False)]
    assert [event["on"] for event in talk.of("session.force_listen.updated")] == [True, False]
    talk.ask({"type": "session.force_listen", "on": "yes", "event_id": "mine"})
    assert talk.one("error")["error"]["param"] == "on"


def test_hush_without_an_engine_is_refused_and_changes_nothing() -> None:
    talk = Talk(has_engine=False)
    talk.ask({"type": "session.force_listen", "event_id": "mine"})
    assert talk.one("error")["error"]["code"] == "engine_unavailable"
    assert not talk.commands.is_hushed and talk.of("session.force_listen.updated") == []


# ---------------------------------------------------------------- mute


def resting(mode: Any = None, abilities: Abilities = UNITS) -> tuple[Talk, MutedRest]:
    talk = Talk()
    talk.conversation.abilities = abilities
    if mode is not None:
        talk.conversation.update({"audio": {"input": {"turn_detection": mode}}})
    return talk, MutedRest(talk.conversation, talk.commands, talk.clock)


def test_mute_rests_the_engine_after_a_while_and_unmuting_wakes_it_at_once() -> None:
    talk, rest = resting()
    rest.look()
    talk.ask({"type": "session.mute"})
    assert talk.one("session.muted")["on"] is True
    rest.look()
    talk.clock.now += REST_S - 1
    rest.look()
    assert not rest.is_on, "what was said before may still be answered"
    talk.clock.now += 1
    assert rest.is_on
    talk.ask({"type": "session.mute", "on": False})
    assert not rest.is_on


def test_muted_user_hears_an_answer_to_its_end() -> None:
    talk, rest = resting()
    talk.ask({"type": "session.mute"})
    talk.answer(1, {0: "Well."}, 100, last=False)
    rest.look()
    talk.clock.now += 2 * REST_S
    rest.look()
    assert not rest.is_on
    talk.done(1)
    talk.play(200)
    rest.look()
    talk.clock.now += REST_S
    assert rest.is_on


@pytest.mark.parametrize(
    ("mode", "abilities"),
    [({"type": "server_vad"}, UNITS), ("full", replace(UNITS, hears_in_units=False))],
)
def test_engines_that_spend_nothing_on_silence_never_rest(mode: Any, abilities: Abilities) -> None:
    talk, rest = resting(None if mode == "full" else mode, abilities)
    talk.ask({"type": "session.mute"})
    rest.look()
    talk.clock.now += 2 * REST_S
    assert not rest.is_on


# ---------------------------------------------------------------- pause


def test_pause_cuts_the_answer_and_short_ones_keep_everything() -> None:
    talk = PausingTalk()
    talk.answer(1, {0: "Well."}, 1000)
    talk.play(100)
    talk.ask({"type": "session.pause"})
    assert talk.one("session.paused")["slot_kept_s"] == 60 and talk.sent(p.CancelResponse)
    talk.wait(40)
    assert talk.codes() == []
    talk.ask({"type": "session.resume"})
    assert talk.one("session.resumed")["kept"] == "everything" and talk.asked == []
    talk.wait(100)
    assert talk.codes() == [] and talk.asked == []


def test_long_pause_warns_then_gives_the_place_away_and_queues_again() -> None:
    talk = PausingTalk()
    talk.ask({"type": "session.pause"})
    talk.wait(60 - WARNED_S)
    assert talk.codes() == ["pause_ends_soon"] and talk.asked == []
    talk.wait(WARNED_S)
    assert talk.codes() == ["pause_ends_soon", "slot_given_away"] and talk.asked == ["given"]
    talk.wait(300)
    assert talk.asked == ["given"]
    talk.ask({"type": "session.resume"})
    assert talk.asked == ["given", "asked"] and talk.of("session.resumed") == []
    talk.ask({"type": "session.resume"})
    assert talk.asked == ["given", "asked"], "asked for once"
    talk.pause.served()
    assert talk.one("session.resumed")["kept"] == "words"
    talk.ask({"type": "session.pause"})
    talk.wait(70)
    assert talk.asked == ["given", "asked", "given"], "a second pause is like the first"


def test_who_pauses_while_waiting_for_a_place_asks_once_and_keeps_the_one_that_comes() -> None:
    talk = PausingTalk()
    talk.ask({"type": "session.pause"})
    talk.wait(60)
    for kind in ("resume", "pause", "resume", "pause"):
        talk.ask({"type": f"session.{kind}"})
    assert talk.asked == ["given", "asked"]
    talk.pause.served()
    assert talk.pause.is_on and talk.of("session.resumed") == []
    assert talk.of("session.paused")[-1]["slot_kept_s"] == 60
    talk.wait(59)
    talk.ask({"type": "session.resume"})
    assert talk.one("session.resumed")["kept"] == "words"
    assert talk.asked == ["given", "asked"]


def test_pausing_again_starts_no_new_time() -> None:
    talk = PausingTalk()
    talk.ask({"type": "session.pause"})
    talk.wait(30)
    talk.ask({"type": "session.pause"})
    assert [event["slot_kept_s"] for event in talk.of("session.paused")] == [60, 30]
    talk.wait(30)
    assert talk.asked == ["given"]


async def test_sound_and_pictures_of_a_pause_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    session, sent = Call(CHROMIUM_OFFER).session, list[p.Message]()
    monkeypatch.setattr(session._way, "send", sent.append)
    session.input.hear(0, PIECE)
    session.pause.begin()
    session.input.hear(320, PIECE)
    session.input.see(1, 1, b"rgb")
    session.pause.end()
    session.input.hear(640, PIECE)
    heard = [message for message in sent if isinstance(message, p.AudioIn)]
    assert [message.pts for message in heard] == [0, 320], "paused time is no gap"
    assert not any(isinstance(message, p.ImageIn) for message in sent)
    assert session.conversation.input_pts == 320
    await session.close()


# ---------------------------------------------------------------- what is told again


def message(role: Any, *parts: ShownPart) -> MessageItem:
    return MessageItem(id=f"{role}-{len(parts)}", role=role, parts=parts)


def test_words_of_both_sides_are_told_again() -> None:
    items: list[Item] = [
        message("user", ShownPart("image"), ShownPart("text", "What is this?")),
        message("assistant", ShownPart("audio", " A cup. ")),
        message("user", ShownPart("audio", None)),
        FunctionCallItem(id="f", call_id="c", name="weather"),
        FunctionOutputItem(id="o", call_id="c", output='{"sky": "clear"}'),
    ]
    assert recalled(items).splitlines() == [
        OPENING,
        "User: [image] What is this?",
        "You: A cup.",
        'Function: {"sky": "clear"}',
    ]
    assert recalled([]) == ""


def test_only_the_newest_words_that_fit_are_told_again() -> None:
    items = [message("user", ShownPart("text", f"{n} " + "x" * 500)) for n in range(40)]
    words = recalled(items)
    assert len(words) < MAX_CHARS + len(OPENING) + 2 and "User: 39 " in words
    assert "User: 0 " not in words
    long = recalled([message("user", ShownPart("text", "y" * 100_000))])
    assert len(long) < MAX_CHARS / 2


def test_words_told_again_stay_with_every_later_setting() -> None:
    talk = Talk()
    talk.ask(
        {
            "type": "conversation.item.create",
            "item": {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "My name is Ada."}],
            },
        }
    )
    talk.conversation.recall()
    talk.ask({"type": "session.update", "session": {"instructions": "Be kind."}})
    told = talk.sent(p.UpdateSession)[-1].config
    assert told.instructions == "Be kind." and "User: My name is Ada." in told.appendix
    assert talk.one("session.updated")["session"]["instructions"] == "Be kind."


# ---------------------------------------------------------------- another mode, other instructions


@pytest.mark.parametrize(
    ("change", "is_told"),
    [
        ({"audio": {"input": {"turn_detection": None}}}, True),
        ({"instructions": "Be brief."}, True),
        ({"audio": {"output": {"voice": "calm"}}}, False),
        ({"engine": {"temperature": 0.5}}, False),
    ],
)
def test_model_that_begins_anew_is_told_the_words_again(
    change: dict[str, Any], is_told: bool
) -> None:
    talk = Talk()
    talk.conversation.abilities = UNITS
    talk.answer(1, {0: "My name is Bo."}, 100)
    talk.play(200)
    talk.ask({"type": "session.update", "session": change})
    told = talk.sent(p.UpdateSession)[-1].config
    # Without instructions the engine's own stand before them.
    assert told.instructions == change.get("instructions", "")
    assert ("You: My name is Bo." in told.appendix) is is_told
    talk.hear(p.SessionWarning(SESSION, "context_restarted", "these settings begin anew"))
    codes = [event["code"] for event in talk.of("session.warning")]
    assert ("context_reread" in codes) is is_told
    assert ("context_restarted" in codes) is not is_told


def test_turns_are_read_again_by_the_engine_itself() -> None:
    talk = Talk()
    talk.conversation.abilities = UNITS
    talk.answer(1, {0: "My name is Bo."}, 100)
    talk.play(200)
    for detection in (None, {"type": "server_vad"}):
        talk.conversation.update({"audio": {"input": {"turn_detection": detection}}})
    before = talk.sent(p.UpdateSession)[-1].config.appendix
    talk.answer(2, {0: "And yours?"}, 100)
    talk.play(200)
    talk.conversation.update({"instructions": "Be brief."})
    after = talk.sent(p.UpdateSession)[-1].config.appendix
    assert "Bo" in before and "Bo" in after and "And yours?" not in after
