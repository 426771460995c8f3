"""Answer by rules: a dozen commands, and an honest reply to everything else."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from datetime import datetime, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from engine.builtin.intents import Intent, find_intent
from engine.builtin.interfaces import Turn
from engine.builtin.numerals import show_number
from engine.builtin.picture_facts import Camera, CannotRead, ReadingFailed, describe

MAX_COUNT = 100
MAX_QUOTED_CHARS = 120
MAX_READ_CHARS = 400

HELLO = "Hello. I am the built-in demo engine. Ask me what I can do."
HELP = (
    "I understand about a dozen commands. Ask me for the time or the date, or a sum such as seven "
    "times eight. Say: count to ten, tell me a story, or what do you see. "
    "Say: repeat after me, and then anything. You can also type. Interrupt me whenever you like."
)
WHO = (
    "I am the built-in demo engine of omnicall. I run without any neural model, "
    "so I only know a few English commands."
)
NEURAL_WHO = (
    "I am the built-in demo engine of omnicall. Small neural models hear and speak for me, but "
    "what I answer comes from rules, so I only know a few English commands."
)
NOTHING_HEARD = "Sorry, I did not catch that."
UNCLEAR = "Sorry, I could not make that out. I understand {languages}."
LANGUAGE_NAMES = {
    "de": "German", "en": "English", "es": "Spanish", "fr": "French", "it": "Italian",
    "ja": "Japanese", "ko": "Korean", "pt": "Portuguese", "ru": "Russian", "zh": "Chinese",
}  # fmt: skip
CANNOT_READ = "I cannot read here: what reads text in pictures is missing or does not work."
NO_TEXT = "I find no text in the picture that I can read. Hold it closer, still and level."
READING_FAILED = "Sorry, I did not manage to read that. Please ask me again."
NO_PICTURE = "I see nothing, because the camera is off."
MISHEARD = "Sorry, my speech recogniser failed. Please say that again."
CROWDED = "Sorry, too many people are talking to me just now. Please say that again in a moment."

Clock = Callable[[], datetime]


def system_clock() -> datetime:
    """The present, with the machine's own time zone."""
    return datetime.now().astimezone()


def read_timezone(name: object) -> tzinfo | None:
    """The named time zone, or None if this machine does not know it."""
    if not isinstance(name, str):
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


class RuleResponder:
    """Answers the commands. Its only state is which story comes next."""

    def __init__(self, clock: Clock, *, is_neural: bool = False) -> None:
        self._clock = clock
        self._who = NEURAL_WHO if is_neural else WHO
        self._next_story = 0
        self._answers: dict[str, Callable[[Intent, Turn], Awaitable[str]]] = {
            "look": self._look,
            "read": self._read,
            "time": self._time,
            "date": self._date,
            "again": self._again,
            "goodbye": self._goodbye,
            "story": self._story,
            "who": self._introduce,
        }

    async def reply(self, turn: Turn) -> AsyncGenerator[str, None]:
        """Yield the answer to what the user said last."""
        asked = turn.conversation.unanswered()
        if not asked:
            yield HELLO if turn.conversation.last("user") is None else await self._repeat_turn(turn)
            return
        said = asked[-1].text.strip()
        # A pause in mid-sentence splits a command in two; together they may be one.
        whole = " ".join(item.text.strip() for item in asked)
        intent = find_intent(said) or find_intent(whole)
        wants_sight = intent is None or intent.name in ("look", "read")
        # One that came as a message of its own is for the question behind it.
        shown = [image for item in asked for image in item.images]
        if shown and (wants_sight or asked[-1].images):
            picture = shown[-1]
            if intent is not None and intent.name == "read":
                yield await read_text(turn.camera, picture)
            else:
                yield describe(await turn.camera.look_at(picture))
            return
        unread = next((item.unread for item in reversed(asked) if item.unread), "")
        if unread and wants_sight:
            yield f"Sorry, I cannot take in {unread}. I can only tell a little of single pictures."
            return
        yield await self._answer(intent, whole, turn)

    async def _repeat_turn(self, turn: Turn) -> str:
        item = turn.conversation.last("user")
        assert item is not None
        return await self._answer(find_intent(item.text), item.text, turn)

    async def _answer(self, intent: Intent | None, said: str, turn: Turn) -> str:
        if intent is None:
            return unknown(said)
        if intent.name in self._answers:
            return await self._answers[intent.name](intent, turn)
        return answer_plain(intent)

    async def _look(self, _: Intent, turn: Turn) -> str:
        facts = await turn.camera.look()
        return NO_PICTURE if facts is None else describe(facts)

    async def _read(self, _: Intent, turn: Turn) -> str:
        return await read_text(turn.camera)

    def _now(self, turn: Turn) -> datetime:
        zone = read_timezone(turn.config.options.get("timezone"))
        now = self._clock()
        return now if zone is None else now.astimezone(zone)

    async def _time(self, _: Intent, turn: Turn) -> str:
        now = self._now(turn)
        return f"It is {now.hour % 12 or 12}:{now:%M} {'AM' if now.hour < 12 else 'PM'}."

    async def _date(self, _: Intent, turn: Turn) -> str:
        now = self._now(turn)
        return f"It is {now:%A}, {now:%B} {now.day}, {now.year}."

    async def _again(self, _: Intent, turn: Turn) -> str:
        last = turn.conversation.last("assistant")
        return last.text if last is not None and last.text else "I have not said anything yet."

    async def _goodbye(self, _: Intent, turn: Turn) -> str:
        turn.ends_session = True
        return "Goodbye. It was nice talking to you."

    async def _introduce(self, _: Intent, turn: Turn) -> str:
        return self._who

    async def _story(self, _: Intent, turn: Turn) -> str:
        story = STORIES[self._next_story % len(STORIES)]
        self._next_story += 1
        return story


async def read_text(camera: Camera, jpeg: bytes | None = None) -> str:
    """What is written in a picture, the camera's newest one if none is given."""
    if not camera.can_read:
        return CANNOT_READ
    try:
        text = await camera.read(jpeg)
    except CannotRead:
        return CANNOT_READ
    except (TimeoutError, ReadingFailed):
        return READING_FAILED
    if text is None:
        return NO_PICTURE
    if not text:
        return NO_TEXT
    if len(text) > MAX_READ_CHARS:
        text = text[:MAX_READ_CHARS].rsplit(maxsplit=1)[0] + " …"
    return f"It says: {text}"


def unclear(languages: Sequence[str]) -> str:
    """Speech was heard, but none in a language that is understood."""
    names = [LANGUAGE_NAMES.get(tag, tag) for tag in languages]
    known = " and ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)
    return UNCLEAR.format(languages=known)


def answer_plain(intent: Intent) -> str:
    """The answer to a command that needs nothing but itself."""
    match intent.name:
        case "sum":
            return answer_sum(intent)
        case "count":
            return answer_count(intent)
        case "repeat":
            return intent.text or "Say: repeat after me, and then some words."
        case "help":
            return HELP
        case "thanks":
            return "You are welcome."
        case "how":
            return "I am fine, thank you. All my processes are running."
        case "stop":
            return "Okay."
        case _:
            return HELLO


def answer_sum(intent: Intent) -> str:
    """The result of one operation on two numbers."""
    left, right = intent.numbers
    if intent.operator == "/" and right == 0:
        return "I cannot divide by zero."
    word, result = {
        "+": ("plus", left + right),
        "-": ("minus", left - right),
        "*": ("times", left * right),
        "/": ("divided by", left / right if right else 0.0),
    }[intent.operator]
    exact = abs(result * 100 - round(result * 100)) < 1e-6
    verb = "is" if exact else "is about"
    return f"{show_number(left)} {word} {show_number(right)} {verb} {show_number(result)}."


def answer_count(intent: Intent) -> str:
    """The numbers from the first to the last, either way, a hundred at most."""
    first, last = (round(number) for number in intent.numbers)
    if abs(last - first) >= MAX_COUNT:
        return f"That is too far for me. I count at most {MAX_COUNT} numbers."
    step = 1 if last >= first else -1
    return ", ".join(str(number) for number in range(first, last + step, step)) + "."


def unknown(said: str) -> str:
    """Repeat what was understood, and say that it cannot be answered here."""
    said = " ".join(said.split())
    if not said:
        return NOTHING_HEARD
    if len(said) > MAX_QUOTED_CHARS:
        said = said[:MAX_QUOTED_CHARS].rsplit(" ", 1)[0] + " …"
    said = said.rstrip(".!?")
    return (
        f"I think you said: {said}. I only know a few commands, and no language model is "
        "configured to answer that. Say help to hear what I can do."
    )


STORIES: tuple[str, ...] = (
    "Once there was a lighthouse keeper who was afraid of the dark. Every evening she lit the "
    "great lamp, and every evening she told herself that it was for the ships. One night the "
    "lamp went out, and far away a small boat began to ring its bell. So she walked down to the "
    "shore with a candle, and stood there until morning. The sailors said they had never seen a "
    "brighter light. After that, she was still afraid of the dark, but she was no longer alone "
    "in it.",
    "A young fox found a clock in the forest. It ticked, and he thought it was a heart, so he "
    "carried it home and kept it warm. In the spring the clock stopped. The fox was very sad, "
    "and he asked the old owl for help. The owl turned a little key, and the clock ticked "
    "again. What was wrong with it, asked the fox. Nothing, said the owl. Some hearts only "
    "want to be wound up by a friend.",
    "There was a baker who sold bread to everyone in town, except on Mondays. On Mondays he "
    "closed the shop and climbed the hill with one warm loaf. People wondered about it, and one "
    "day a boy followed him. At the top of the hill sat a hundred birds, waiting. I was hungry "
    "once, the baker said, and they showed me where the berries grew. The boy said nothing, "
    "but the next Monday, there were two loaves on the hill.",
    "A teacher asked her class to draw the quietest thing in the world. One child drew snow. "
    "Another drew a fish asleep. The smallest girl handed in an empty page. Did you not find "
    "anything, asked the teacher. I did, said the girl, but when I reached for my pencil, it "
    "made a noise. The teacher hung the empty page on the wall, and for the rest of the day "
    "everyone spoke a little more softly.",
)

REPEATED: tuple[str, ...] = (
    *(HELLO, HELP, WHO, NEURAL_WHO, NOTHING_HEARD, MISHEARD, CROWDED, NO_PICTURE, NO_TEXT),
    *STORIES,
    unknown("so"),
)
"""What is said over and over, some of it by its first or last clauses alone."""
