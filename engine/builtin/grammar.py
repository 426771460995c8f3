"""The commands as a JSGF grammar, and when to believe it instead of the language model.

The grammar hears commands well but takes everything for one, so its text counts only when it is
similar to what the full language model heard.
"""

from __future__ import annotations

import re

MIN_SIMILARITY = 0.5
"""Picked on 93 synthetic utterances (embedded-engine.md section 2)."""

JSGF = """#JSGF V1.0;
grammar commands;
public <command> = [<polite>] <ask> [please] | <greeting> | <greeting> <ask>;
<polite> = please | can you | could you | okay;
<ask> = <time> | <date> | <sum> | <count> | <story> | <look> | <who> | <help> | <thanks>
      | <goodbye> | <stop> | <again> | how are you;
<greeting> = hello | hi | hey | hello there | hi there | good morning | good afternoon
      | good evening;
<time> = what time is it [now] | what's the time | what is the time | tell me the time;
<date> = what day is it [today] | what is the date [today] | what's the date [today]
      | what is today's date | which day is it | what day is today | what is today
      | tell me the date;
<sum> = [what is | what's | how much is | calculate] <number> <operator> <number>;
<operator> = plus | minus | times | multiplied by | divided by;
<count> = count to <number> | count from <number> to <number> | count up to <number>;
<story> = tell me [a | another | one more] [short | long] story | tell us a story
      | a story | another story;
<look> = what do you see | what can you see | can you see me | look at this
      | describe the picture | what is in the picture | describe what you see | what am i holding;
<who> = who are you | what are you | what is your name | what's your name;
<help> = help | help me | what can you do | what can i say | what can i ask;
<thanks> = thank you | thanks | thank you very much;
<goodbye> = goodbye | good bye | bye | bye bye | see you later | see you tomorrow | good night
      | goodbye see you tomorrow | goodbye see you later | hang up;
<stop> = stop | stop it | stop talking | be quiet | please stop | that's enough | never mind;
<again> = repeat that | say that again | once more | pardon | what did you say;
<number> = <small> | <tens> | <tens> <digit> | [one] hundred | one thousand;
<digit> = one | two | three | four | five | six | seven | eight | nine;
<small> = zero | <digit> | ten | eleven | twelve | thirteen | fourteen | fifteen | sixteen
      | seventeen | eighteen | nineteen;
<tens> = twenty | thirty | forty | fifty | sixty | seventy | eighty | ninety;
"""


def words() -> list[str]:
    """Every word of the grammar, for its dictionary."""
    body = JSGF.split(";", 2)[2]
    body = re.sub(r"<\w+>\s*=|public|<\w+>", " ", body)
    return sorted(set(re.findall(r"[a-z']+", body)))


def choose(free: str, command: str) -> str:
    """The text to believe: `command` if it is close enough to `free`, the full model's text."""
    if not command:
        return free
    if "after me" in free:
        return free
    return command if similarity(free, command) > MIN_SIMILARITY else free


def similarity(a: str, b: str) -> float:
    """1 for equal texts, 0 for nothing in common: 1 - edit distance / length of the longer."""
    longest = max(len(a), len(b))
    if longest == 0:
        return 1.0
    previous = list(range(len(b) + 1))
    for row, char_a in enumerate(a, 1):
        current = [row]
        for column, char_b in enumerate(b, 1):
            current.append(
                min(
                    previous[column] + 1,
                    current[-1] + 1,
                    previous[column - 1] + (char_a != char_b),
                )
            )
        previous = current
    return 1 - previous[-1] / longest
