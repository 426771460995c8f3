"""Find the user's intent in the words alone: about a dozen commands, else none."""

from __future__ import annotations

import re
from collections.abc import Callable

from msgspec import Struct

from engine.builtin.numerals import read_number


class Intent(Struct, frozen=True):
    """A recognised command."""

    name: str
    text: str = ""
    """What to repeat."""
    numbers: tuple[float, ...] = ()
    """Operands, or the ends of a count."""
    operator: str = ""
    """One of + - * /"""


MAX_SPOKEN_CHARS = 300
EXAMPLES = (
    " What time is it? What day is it today? What is the date? What is nine plus four? "
    "Seven times eight. Count to ten. Tell me a story. Who are you? What can you do? "
    "What do you see? What does this say?"
)
"""What a recogniser may expect that listens for commands."""

_POLITE_BEFORE = re.compile(
    r"(?:please|okay|ok|so|well|um|uh|and|now|then|hey there|hey|"
    # Who interrupts an answer asks the next thing in the same breath.
    r"wait(?: a (?:moment|minute|second))?|hold on|hang on|stop(?: it| that)?|no|oh|but|sorry|"
    r"excuse me|actually|"
    r"(?:can|could|would|will) you(?: please)?|"
    r"(?:i want|i would like|i'd like|i like) you to|i want to|let us|let's) "
)
_POLITE_AFTER = re.compile(r" (?:please|now|then|for me|to me|thank you|thanks|again)$")
_GREETING = re.compile(
    r"(?:hello|hallo|hi|hey|greetings|good morning|good afternoon|good evening|howdy)"
    r"(?: there| again| computer| everyone| to you)?"
)
_FILLER = re.compile(r"[^a-z0-9.+\-*/×÷' ]+")

_PATTERNS: tuple[tuple[str, str], ...] = (
    (
        "goodbye",
        r"(?:okay |well )?(?:(?:thank you|thanks)(?: very much| so much| a lot)? (?:and )?)?"
        r"(?:good ?bye|bye|bye bye|see you|farewell|good night|hang up"
        r"|end the call)"
        r"(?: now| later| tomorrow| soon| then| bye| see you(?: later| tomorrow| soon)?)*"
        r"|i have to go(?: now)?(?: bye| good ?bye)?",
    ),
    (
        "stop",
        r"wait(?: a (?:moment|minute|second))?|hold on|hang on|one (?:moment|second)"
        r"|(?:no )?(?:stop|stop it|stop that|stop talking|stop now|be quiet|quiet|shut up|silence"
        r"|enough|that is enough|that's enough|cancel|never mind)(?: stop)*",
    ),
    (
        "date",
        r"(?:tell me |do you know )?(?:what is |what's |what )?(?:the |today's )?"
        r"(?:date|day)(?: is it| is today| of the week)*(?: it is)?(?: today)?"
        r"|(?:what|which) (?:day|date)(?: of the week)?(?: is it| is today| today)*"
        r"|what is today",
    ),
    (
        "time",
        r"(?:tell me |do you know |what is |what's )?(?:the |what )?(?:current )?time"
        r"(?: is it| it is)?(?: right)?(?: now)?",
    ),
    (
        "story",
        # Whatever was heard of "another", it was a story that was asked for.
        r"(?:tell|read) (?:me|us) .{1,20} (?:story|stories|tale)"
        r"|(?:(?:tell|read|give) (?:me|us) )?(?:a|an|another|the|one more|one|his|this|that)?"
        r"(?: ?(?:short|long|little|nice|good|funny|new|bedtime))* ?(?:story|tale)"
        r"|tell stories",
    ),
    (
        "look",
        r"(?:tell me |do you know )?what (?:can|do|could) you see(?: right)?(?: there| here)?"
        r"|what (?:is|do you see) in (?:the|this) (?:picture|image|camera)"
        r"|(?:describe|look at) (?:the |this |my )?(?:picture|image|camera|what you see|this)"
        r"|can you see (?:me|this|anything|something)|do you see (?:me|this|anything)"
        r"|what am i holding|what does (?:the|this) (?:code|q r code|qr code) say"
        r"|(?:read|scan) (?:the|this) (?:code|q r code|qr code)|how do i look",
    ),
    (
        "read",
        r"read (?:this|that|it|the (?:text|sign|label|page|paper|screen|letter)|what (?:is|it|this)"
        r"(?: says| written)?)(?: text| sign| aloud| out(?: loud)?)*"
        r"|what (?:does|do) (?:this|that|it|these|the \w+|this \w+) (?:say|says|read)(?: here)?"
        r"|what (?:is written|does it say) (?:here|there|on (?:it|this|the \w+))"
        r"|what is on (?:the|this) (?:paper|sign|page|label|screen|card|note)"
        r"|what text (?:do|can) you see|can you read(?: this| that| it)?",
    ),
    (
        "who",
        r"(?:who|what) are you|what is your name|what's your name|who am i (?:talking|speaking) to"
        r"|(?:tell me )?who you are|introduce yourself|are you (?:a )?(?:human|robot|real)",
    ),
    (
        "help",
        r"help(?: me)?|i need help|what can you do|what can i (?:say|ask|ask you)"
        r"|what do you (?:do|know|understand)|how do(?:es)? (?:this|you) work|commands"
        r"|what are (?:the|your) commands",
    ),
    (
        "thanks",
        r"thank you(?: very much| so much| a lot)?|thanks(?: a lot| very much)?|many thanks|great"
        r"|well done|good job|very good|nice",
    ),
    ("how", r"how are you(?: today| doing)?|how do you do|how is it going"),
    (
        "again",
        r"(?:repeat|say) (?:that|it|this)(?: once more)?|once more|pardon(?: me)?|what did you say"
        r"|come again|again|repeat",
    ),
    ("greeting", _GREETING.pattern),
)
_COMPILED = tuple((name, re.compile(pattern)) for name, pattern in _PATTERNS)

_FIRST_WORDS = frozenset(
    (
        "what time,what day,what date,which day,what's the,count,count to,count from,repeat,say,"
        "who,what,tell me,can you,do you know,do you,what can,what do,i have to go,the,another,"
        "read,what does this,what does it"
    ).split(",")
)

_OPERATORS = {
    "plus": "+", "+": "+", "minus": "-", "less": "-", "-": "-", "times": "*",
    "multiplied by": "*", "x": "*", "*": "*", "×": "*", "divided by": "/", "over": "/", "/": "/",
    "÷": "/",
}  # fmt: skip
_OPERATION = re.compile(r" (plus|minus|less|times|multiplied by|x|divided by|over|[+\-*/×÷]) ")
_ASK_RESULT = re.compile(
    # "what in", "what did" and "what a" are how a recogniser may hear it.
    r"^(?:(?:tell me |do you know )?(?:what (?:is|in|did|are|a)|what's|how much (?:is|are)"
    r"|calculate|compute|what does))\s+"
)
_EQUALS = re.compile(r" (?:equals?|equal to|is|make|makes)$")
_REPEAT = re.compile(r"^(?:repeat|say|speak) (?:this )?after me[ ,:.]*(.*)$", re.S)
_COUNT = re.compile(r"^count(?: up| down)?(?: from (.+?))?(?: to| up to| till| until) (.+)$")


def find_intent(text: str) -> Intent | None:
    """The command in `text`, spoken or typed; None if it is none."""
    repeated = _find_repeat(text)
    if repeated is not None:
        return repeated
    exact = normalise(text)
    words = strip_politeness(exact)
    # "can you see me" begins like a polite request but is none.
    found = _find_in(exact) or _find_in(words)
    if found is not None and found.name != "greeting":
        return found
    # "hello, what time is it": the greeting is not the point.
    greeting = _GREETING.match(words)
    if greeting and words[greeting.end() :].startswith(" "):
        rest = strip_politeness(words[greeting.end() :].strip())
        return _find_in(rest) or found
    return found


def may_go_on(text: str) -> bool:
    """Whether it is a command only by its first words: "what time" is one, and "what time is it" is
    what is said. A sum lacks its other number, or what is to be done with it."""
    words = strip_politeness(normalise(text))
    if words in _FIRST_WORDS:
        return True
    asked = _ASK_RESULT.sub("", words)
    return asked != words and read_number(asked.split()) is not None


def normalise(text: str) -> str:
    """Lower case, words and arithmetic signs only, single spaces."""
    text = text.lower().replace("’", "'").replace("−", "-")
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)
    text = re.sub(r"(?<=\d)\s*([+*/×÷x\-])\s*(?=\d)", r" \1 ", text)
    text = re.sub(r"\.(?!\d)", " ", _FILLER.sub(" ", text))
    text = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", text)
    return " ".join(text.split())


def strip_politeness(words: str) -> str:
    """Without "could you please" and the like at either end."""
    while (match := _POLITE_BEFORE.match(words)) and match.end() < len(words):
        words = words[match.end() :]
    while (match := _POLITE_AFTER.search(words)) and match.start() > 0:
        words = words[: match.start()]
    return words


def _find_in(words: str) -> Intent | None:
    finders: tuple[Callable[[str], Intent | None], ...] = (_find_count, _find_sum)
    for finder in finders:
        intent = finder(words)
        if intent is not None:
            return intent
    for name, pattern in _COMPILED:
        if pattern.fullmatch(words):
            return Intent(name)
    return None


def _find_repeat(text: str) -> Intent | None:
    plain = strip_politeness(" ".join(text.split()))
    lowered = strip_politeness(plain.lower())
    match = _REPEAT.match(lowered)
    if match is None:
        return None
    # The words as they were typed: capitals matter to who reads them.
    said = plain[len(plain) - len(match.group(1)) :].strip() if match.group(1) else ""
    return Intent("repeat", text=said[:MAX_SPOKEN_CHARS])


def _find_count(words: str) -> Intent | None:
    match = _COUNT.match(words)
    if match is None:
        return Intent("count", numbers=(1, 10)) if words in ("count", "start counting") else None
    first = read_number(match.group(1).split()) if match.group(1) else 1
    last = read_number(match.group(2).split())
    if first is None or last is None:
        return None
    return Intent("count", numbers=(first, last))


def _find_sum(words: str) -> Intent | None:
    words = _EQUALS.sub("", _ASK_RESULT.sub("", words))
    operation = _OPERATION.search(words)
    if operation is None:
        return None
    left = read_number(words[: operation.start()].split())
    right = read_number(words[operation.end() :].split())
    if left is None or right is None:
        return None
    return Intent("sum", numbers=(left, right), operator=_OPERATORS[operation.group(1)])
