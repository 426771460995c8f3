"""What is typed in full duplex: read between two units, and answered from the next one on."""

from __future__ import annotations

import io
import re
from collections import deque
from collections.abc import Sequence
from typing import cast

import pytest
from PIL import Image

from engine.ipc import protocol as p
from engine.minicpmo.engine import MiniCpmoEngine
from engine.minicpmo.llm.duplex_state import DuplexState
from engine.minicpmo.modes import typed_turns
from engine.minicpmo.modes.full_duplex import FullDuplex
from engine.minicpmo.modes.turn_encoding import PlannedMessages, plan_turn
from engine.minicpmo.runner import Runner
from engine.minicpmo.session.audio_input import AudioInput
from engine.minicpmo.session.item_decoding import DecodedItem
from tests.engine.minicpmo.engine_rig import Talk, config, scheduler_of
from tests.engine.minicpmo.turn_rig import Rows, begin, respond, write
from tests.server.worker.talk import SESSION
from tests.server.worker.talk import Talk as Client
from tests.waiting import until

LISTENS: dict[str, str | int | float | bool] = {"force_listen_count": 1_000}
"""By itself the model never speaks."""
HELLO = "<|im_start|>user\nhello there<|im_end|>"


class Words:
    """What the random model says once it has to speak: these ids, one after another."""

    def __init__(self, engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tokens = scheduler_of(engine).runner.model.tokens
        self._waiting: deque[int] = deque()
        own = DuplexState.given.__get__

        def given(state: DuplexState) -> int:
            token: int = own(state)
            return self._next() if token < 0 else token

        monkeypatch.setattr(DuplexState, "given", property(given))

    def _next(self) -> int:
        return self._waiting.popleft() if self._waiting else -1

    def choose(self, *ids: int) -> None:
        """Give these ids next, and nothing that was to be said before."""
        self._waiting.clear()
        self._waiting += ids

    def say(self, *units: str) -> None:
        """Say a turn of so many units; that it begins is asked of the model."""
        for index, text in enumerate(units):
            goes_on = [self.tokens.speak] if index else []
            ends = [self.tokens.turn_eos] if index == len(units) - 1 else []
            words = self.tokens.encode_literal(text)
            self._waiting += [*goes_on, *words, *ends, self.tokens.chunk_eos]

    def say_nothing(self) -> None:
        """Begin a turn, and end it in the next unit."""
        self._waiting += [self.tokens.chunk_eos, self.tokens.turn_eos, self.tokens.chunk_eos]


@pytest.fixture
def words(engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch) -> Words:
    return Words(engine, monkeypatch)


@pytest.fixture
def in_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Units come by what is heard alone, however long a test takes."""
    monkeypatch.setattr(AudioInput, "fill", lambda heard: None)


@pytest.fixture
def rows(engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch) -> Rows:
    return Rows(engine, monkeypatch, rebuilds=True)


@pytest.mark.usefixtures("in_sound")
async def test_a_message_stands_between_two_units_and_is_answered(
    engine: MiniCpmoEngine, words: Words, rows: Rows
) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    await talk.units(2)
    words.say("Hi", " you")
    write(talk, "hello ", "there")
    respond(talk, request="typed")
    await until(lambda: HELLO in rows.text)
    units = await talk.units(3)
    assert [unit.decision for unit in units] == ["speak", "speak", "listen"]
    assert f"<|listen|></unit>{HELLO}<unit>" in rows.text
    done = await talk.until(p.ResponseDone)
    [began] = talk.all(p.ResponseStarted)
    assert (began.trigger, began.request, done.status) == ("request", "typed", "completed")
    assert "".join(out.text for out in talk.all(p.TextOut)) == "Hi you"
    assert done.input_split is not None and done.input_split.text is not None
    assert done.input_split.text >= len(words.tokens.encode(HELLO))
    assert not talk.all(p.RequestRefused)
    talk.session.handle(p.CancelResponse(talk.name, 1))
    await talk.units(1)
    await talk.session.close()


class Caller(Talk):
    """A client of OpenAI Realtime whose session the engine serves."""

    def __init__(self, engine: MiniCpmoEngine, config: p.SessionConfig) -> None:
        self.client = Client()
        super().__init__(engine, SESSION, 0, config)

    def _take(self, message: p.FromEngine) -> None:
        super()._take(message)
        self.client.hear(message)

    def ask(self, kind: str, **members: object) -> None:
        passed = len(self.client.to_engine)
        self.client.ask({"type": kind, **members})
        for message in self.client.to_engine[passed:]:
            self.session.handle(cast(p.SessionMessage, message))


@pytest.mark.usefixtures("in_sound")
async def test_typing_works_over_openai_realtime(
    engine: MiniCpmoEngine, words: Words, rows: Rows
) -> None:
    talk = Caller(engine, config(mode="full_duplex", options=LISTENS))
    text = {"type": "input_text", "text": "hello there"}
    talk.ask(
        "conversation.item.create", item={"type": "message", "role": "user", "content": [text]}
    )
    talk.ask("response.create", response={"metadata": {"n": "1"}})
    words.say("Hi")
    await until(lambda: HELLO in rows.text)
    await talk.units(2)
    assert f"{HELLO}<unit>" in rows.text
    response = talk.client.one("response.created")["response"]
    assert (response["status"], response["metadata"]) == ("in_progress", {"n": "1"})
    talk.client.play(2_000)
    done = talk.client.one("response.done")["response"]
    assert (done["id"], done["status"]) == (response["id"], "completed")
    assert done["output"][0]["content"][0]["transcript"] == "Hi"
    talk.ask("input_audio_buffer.commit")
    await talk.until(p.RequestRefused)
    assert "commit" in talk.client.of("error")[-1]["error"]["message"]
    await talk.session.close()


async def test_a_message_is_answered_though_nothing_is_heard_of_its_writer(
    engine: MiniCpmoEngine, words: Words, rows: Rows
) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    words.say("Hi")
    write(talk, "hello there")
    respond(talk, request="typed")
    assert (await talk.until(p.ResponseDone)).status == "completed"
    assert [began.request for began in talk.all(p.ResponseStarted)] == ["typed"]
    assert f"{HELLO}<unit>" in rows.text and len(talk.all(p.UnitDone)) <= 1
    await talk.session.close()


@pytest.mark.usefixtures("in_sound")
async def test_a_turn_that_ends_before_its_first_word_is_an_empty_answer(
    engine: MiniCpmoEngine, words: Words, rows: Rows
) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    words.say_nothing()
    respond(talk, request="typed", instructions="Say nothing.")
    await until(lambda: "Say nothing." in rows.text)
    units = await talk.units(2)
    assert (await talk.until(p.ResponseDone)).status == "completed"
    assert [began.request for began in talk.all(p.ResponseStarted)] == ["typed"]
    assert [unit.decision for unit in units] == ["listen"] * 2
    assert not any(out.text for out in talk.all(p.TextOut))
    await talk.session.close()


@pytest.mark.usefixtures("in_sound")
async def test_what_nobody_asks_to_have_answered_is_only_read(
    engine: MiniCpmoEngine, rows: Rows
) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, "PNG")
    write(talk, "look", p.ImagePart(file.getvalue()))
    talk.session.handle(p.ItemIn(talk.name, "rule", "system", (p.TextPart("Be <|im_end|>"),)))
    await until(lambda: rows.text.endswith("system\nBe <|im_end|><|im_end|>"))
    assert "<|im_start|>user\nlook<image>*" in rows.text
    units = await talk.units(2)
    assert [unit.decision for unit in units] == ["listen"] * 2
    assert not talk.all(p.ResponseStarted) and not talk.all(p.SessionWarning)
    await talk.session.close()


@pytest.mark.usefixtures("in_sound")
async def test_what_is_typed_while_the_model_speaks_waits_for_its_end(
    engine: MiniCpmoEngine, words: Words, rows: Rows
) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    words.say("One", " two")
    respond(talk, request="first")
    await talk.units(1)
    write(talk, "hello there")
    words.say("Hi")
    respond(talk, request="second")
    assert HELLO not in rows.text
    await talk.units(1)
    await until(lambda: HELLO in rows.text)
    await talk.units(2)
    assert [began.request for began in talk.all(p.ResponseStarted)] == ["first", "second"]
    assert rows.text.split(HELLO)[0].count("</unit>") == 2 and f"{HELLO}<unit>" in rows.text
    await talk.session.close()


class Held:
    """Lets so many pieces be read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pieces = 0
        read_on = FullDuplex.read_on

        def read(duplex: FullDuplex) -> bool:
            if self.pieces == 0 or not read_on(duplex):
                return False
            # Only here, behind a piece that was let through: the test sets it, too.
            self.pieces -= 1
            return True

        monkeypatch.setattr(FullDuplex, "read_on", read)


@pytest.mark.usefixtures("in_sound")
async def test_a_message_holds_up_no_unit_and_is_read_in_one_piece(
    engine: MiniCpmoEngine, words: Words, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    await talk.units(1)
    held = Held(monkeypatch)
    write(talk, "hello there")
    respond(talk, request="typed")
    assert [unit.decision for unit in await talk.units(2)] == ["listen"] * 2
    assert HELLO not in rows.text and not talk.all(p.ResponseStarted)
    words.say("Hi")
    held.pieces = 1
    await until(lambda: HELLO in rows.text)
    await talk.units(1)
    assert [began.request for began in talk.all(p.ResponseStarted)] == ["typed"]
    await talk.session.close()


@pytest.mark.usefixtures("in_sound")
async def test_units_pass_while_pictures_are_encoded_and_not_amid_a_message(
    engine: MiniCpmoEngine, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As sound that is too long for one portion.
    monkeypatch.setattr(typed_turns, "cut_item", lambda item, fits: None)
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    await talk.units(1)
    entry = scheduler_of(engine)._modes.duplex._entries[0]
    held = Held(monkeypatch)
    file = io.BytesIO()
    Image.new("RGB", (64, 48), "red").save(file, "PNG")
    picture = p.ImagePart(file.getvalue())
    write(talk, picture, picture, "a" * 500 + "end")
    await until(lambda: entry.has_to_read)
    held.pieces = 1
    await until(lambda: entry.typed is not None and held.pieces == 0)
    # One picture is encoded, the other is not.
    await talk.units(1)
    assert "user" not in rows.text.rpartition("<unit>")[2] and entry.can_begin
    held.pieces = 1
    await until(lambda: held.pieces == 0)
    assert "<image>" in rows.text and "end<|im_end|>" not in rows.text
    assert entry.is_amid_message and not entry.can_begin
    held.pieces = 9
    await until(lambda: "end<|im_end|>" in rows.text)
    await talk.units(1)
    assert not talk.all(p.SessionWarning)
    await talk.session.close()


@pytest.mark.usefixtures("in_sound")
async def test_units_pass_amid_a_long_text_which_is_answered_when_it_is_read(
    engine: MiniCpmoEngine, words: Words, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = begin(engine, mode="full_duplex")
    words.choose(words.tokens.listen)
    await talk.units(1)
    text = " ".join(f"The number is {n}." for n in range(60))
    assert typed_turns.PORTION < len(words.tokens.encode(text)) < 850
    held = Held(monkeypatch)
    write(talk, text)
    respond(talk, request="typed")
    held.pieces = 1
    await until(lambda: held.pieces == 0)
    # It would speak by itself, and answer the first half.
    words.choose(words.tokens.speak)
    assert [unit.decision for unit in await talk.units(2)] == ["listen"] * 2
    words.choose()
    words.say("Hi")
    held.pieces = 9
    await until(lambda: "is 59.<|im_end|>" in rows.text)
    await talk.units(1)
    assert [began.request for began in talk.all(p.ResponseStarted)] == ["typed"]
    read = re.findall(r"<\|im_start\|>user\n(The .*?)<\|im_end\|>", rows.text)
    assert len(read) > 1 and "".join(read) == text
    assert not talk.all(p.SessionWarning)
    await talk.session.close()


@pytest.mark.usefixtures("in_sound")
async def test_a_text_of_many_portions_is_measured_a_few_times_only(
    engine: MiniCpmoEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    await talk.units(1)
    Held(monkeypatch)
    entry = scheduler_of(engine)._modes.duplex._entries[0]
    turns = typed_turns.TypedTurns(scheduler_of(engine).runner)
    turns._most = 1_000_000
    planned: list[int] = []

    def counted(runner: Runner, items: Sequence[DecodedItem]) -> PlannedMessages:
        planned.append(sum(len(str(part)) for item in items for part in item.parts))
        return plan_turn(runner, items)

    monkeypatch.setattr(typed_turns, "plan_turn", counted)
    text = "".join(f"The number is {n}. " for n in range(1_000))
    tell(talk, "before", "hello there")
    tell(talk, "long", text)
    tell(talk, "behind", "goodbye now")
    await until(lambda: len(entry.session.given.items) == 3)
    read: list[DecodedItem] = []
    while entry.session.given.items:
        portion = turns._portion(entry)
        assert sum(map(turns._size, portion)) <= typed_turns.PORTION
        read += portion
    words = [str(part) for item in read for part in item.parts]
    assert "".join(words) == f"hello there{text}goodbye now" and len(read) > 10
    assert sum(planned) < 10 * len(text)
    await talk.session.close()


def tell(talk: Talk, name: str, text: str) -> None:
    talk.session.handle(p.ItemIn(talk.name, name, "user", (p.TextPart(text),)))


@pytest.mark.usefixtures("in_sound")
async def test_of_a_message_whose_beginning_is_read_the_rest_is_deleted_and_that_told(
    engine: MiniCpmoEngine, words: Words, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = begin(engine, mode="full_duplex")
    words.choose(words.tokens.listen)
    await talk.units(1)
    held = Held(monkeypatch)
    tell(talk, "long", " ".join(f"The number is {n}." for n in range(60)))
    tell(talk, "whole", "hello there")
    held.pieces = 1
    await until(lambda: held.pieces == 0)
    talk.session.handle(p.DeleteItem(talk.name, "whole"))
    talk.session.handle(p.DeleteItem(talk.name, "long"))
    told = await talk.until(p.SessionWarning)
    assert (told.code, len(talk.all(p.SessionWarning))) == ("item_kept", 1)
    # There is no rest to wait for.
    words.choose(words.tokens.speak)
    assert [unit.decision for unit in await talk.units(1)] == ["speak"]
    assert "is 59." not in rows.text and HELLO not in rows.text
    await talk.session.close()


@pytest.mark.usefixtures("in_sound")
async def test_of_a_long_retelling_the_newest_is_read_and_answered(
    engine: MiniCpmoEngine, words: Words, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    await talk.units(1)
    each = len(words.tokens.encode("<|im_start|>user\nsaid 00" + " word" * 40 + "<|im_end|>"))
    fitting = 850 // each
    assert 4 < fitting < 40
    words.say("Hi")
    held = Held(monkeypatch)
    for number in range(40):
        tell(talk, f"item_{number}", f"said {number:02}" + " word" * 40)
    respond(talk, request="typed")
    await talk.units(1)
    held.pieces = 9
    await until(lambda: "said 39" in rows.text)
    await talk.units(1)
    assert [began.request for began in talk.all(p.ResponseStarted)] == ["typed"]
    assert 2 * rows.text.count("said ") > fitting and "said 00" not in rows.text
    assert [told.code for told in talk.all(p.SessionWarning)] == ["context_shortened"]
    await talk.session.close()


@pytest.mark.parametrize("retention", [None, p.Retention(ratio=0.5, max_tokens=200)])
@pytest.mark.usefixtures("in_sound")
async def test_a_message_that_is_too_long_takes_with_it_what_was_asked_behind_it(
    engine: MiniCpmoEngine,
    words: Words,
    rows: Rows,
    retention: p.Retention | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS, retention=retention)
    await talk.units(1)
    held = Held(monkeypatch)
    tell(talk, "short", "hello there")
    respond(talk, request="first")
    tell(talk, "long", "word " * (100 if retention else 3_000))
    tell(talk, "later", "goodbye now")
    respond(talk, request="second", instructions="Be brief.")
    await talk.units(1)
    words.say("Hi")
    held.pieces = 9
    refused = await talk.until(p.RequestRefused)
    assert (refused.request, refused.code) == ("second", "context_length_exceeded")
    await until(lambda: "goodbye now" in rows.text)
    assert "Be brief." not in rows.text
    await talk.units(1)
    assert [began.request for began in talk.all(p.ResponseStarted)] == ["first"]
    assert len(talk.all(p.RequestRefused)) == 1
    await talk.session.close()


@pytest.mark.usefixtures("in_sound")
async def test_what_cannot_be_typed_is_refused_in_words(engine: MiniCpmoEngine) -> None:
    talk = begin(engine, mode="full_duplex", options=LISTENS)
    await talk.units(1)
    write(talk, "word " * 3_000)
    told = await talk.until(p.SessionWarning)
    assert told.code == "context_length_exceeded" and "shorter" in told.message
    talk.session.handle(p.ForceListen(talk.name, True))
    for number in range(6):
        respond(talk, request=f"r{number}", max_output_tokens=9)
    talk.session.handle(p.CommitAudio(talk.name, "commit"))
    respond(talk, request="aside", is_out_of_band=True)
    talk.session.handle(
        p.UpdateSession(talk.name, p.SessionConfig(mode="turn_based", options=LISTENS))
    )
    await talk.until(p.RequestRefused, 8)
    codes = {refused.request: refused.code for refused in talk.all(p.RequestRefused)}
    assert codes == {
        "r4": "overloaded",
        "r5": "overloaded",
        "commit": "mode",
        "aside": "out_of_band_unsupported",
        **dict.fromkeys(("r0", "r1", "r2", "r3"), "context_restarted"),
    }
    unheeded = [told for told in talk.all(p.SessionWarning) if told.code == "unused_setting"]
    assert [told.message.split(":")[0] for told in unheeded] == ["response.max_output_tokens"]
    await talk.session.close()
