"""The recogniser's own processes: a fork server that loads the models once and forks recognisers.

Run as `python -m engine.builtin.recogniser_worker CONTROL_FD PARENT_PID`. A fresh interpreter
without threads is the only safe place to fork from, and pocketsphinx, which holds the GIL, must
stay away from the engine's event loop. Nothing outlives its parent: the kernel kills the fork
server with the engine, and the recognisers with the fork server.

A recogniser listens with a language model and with a grammar of the commands at once. The grammar
hears commands well but takes everything for one, so its text counts only where the language model
heard something similar.
"""

from __future__ import annotations

import array
import gc
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, Protocol

from engine.builtin.recogniser_link import (
    TAKEN_BYTES,
    Abandon,
    Begin,
    Failed,
    FeedAudio,
    Finish,
    FromRecogniser,
    Partial,
    Result,
    Taken,
    ToRecogniser,
    Unpacker,
    Up,
    pack,
    to_recogniser,
)
from engine.ipc.lifeline import OOM_FORKSERVER, OOM_RECOGNISER, die_with_parent, go_before_parent

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


PARTIAL_EVERY_BYTES = 2 * 16_000 * 15 // 100
READY = b"R"
SPAWN = b"S"
RECEIVE_BYTES = 65_536


class RecogniserEar(Protocol):
    """What a recogniser process hears with: one utterance after the other."""

    def begin(self, utterance: Begin) -> None: ...

    def feed(self, pcm: bytes) -> None: ...

    def partial(self) -> str:
        """The text so far, if that is known; raises RuntimeError or ValueError, like all here."""

    def finish(self, utterance: int) -> Result: ...

    def abandon(self) -> None: ...


class Decoders:
    """The full language model and the command grammar, fed with the same sound."""

    def __init__(self) -> None:
        # Imported here so that the engine may import this module without loading the library.
        from pocketsphinx import Config, Decoder, get_model_path

        model = get_model_path()
        acoustic = f"{model}/en-us/en-us"
        # Without these caps one finish took 12 s on noise; with them it takes 5 ms at the same
        # word error rate.
        self._free: Any = Decoder(
            Config(
                hmm=acoustic,
                lm=f"{model}/en-us/en-us.lm.bin",
                dict=f"{model}/en-us/cmudict-en-us.dict",
                fwdflat=False,
                maxhmmpf=3000,
                maxwpf=10,
                loglevel="FATAL",
            )
        )
        self._command: Any = Decoder(
            Config(hmm=acoustic, lm=None, dict=os.devnull, loglevel="FATAL")
        )
        self._add_words()
        self._command.add_jsgf_string("commands", JSGF)
        self._command.activate_search("commands")
        self._first_mean: str = self._free.get_cmn()
        self._active: list[Any] = []

    def _add_words(self) -> None:
        for word in words():
            spelling, number = word, 1
            while (phones := self._free.lookup_word(spelling)) is not None:
                self._command.add_word(spelling, phones, False)
                number += 1
                spelling = f"{word}({number})"
            assert number > 1, f"{word!r} of the grammar is not in the dictionary"

    def begin(self, utterance: Begin) -> None:
        self.abandon()
        self._active = [self._free, self._command] if utterance.commands else [self._free]
        for decoder in self._active:
            decoder.set_cmn(utterance.cepstral_mean or self._first_mean)
            decoder.start_utt()

    def feed(self, pcm: bytes) -> None:
        for decoder in self._active:
            decoder.process_raw(pcm)

    def partial(self) -> str:
        """The text to believe so far."""
        return self._believed(self._active)

    def finish(self, utterance: int) -> Result:
        active, self._active = self._active, []
        for decoder in active:
            decoder.end_utt()
        return Result(utterance, self._believed(active), self._free.get_cmn())

    def _believed(self, active: list[Any]) -> str:
        command = _text(self._command) if len(active) > 1 else ""
        return choose(_text(self._free), command)

    def abandon(self) -> None:
        active, self._active = self._active, []
        for decoder in active:
            decoder.end_utt()


def _text(decoder: Any) -> str:
    hypothesis = decoder.hyp()
    return "" if hypothesis is None else " ".join(hypothesis.hypstr.split())


class Recognising:
    """One recogniser process: takes utterances one after the other from its socket."""

    def __init__(self, ear: RecogniserEar, link: socket.socket) -> None:
        self._ear = ear
        self._link = link
        self._utterance = 0
        self._fed = 0
        self._last_partial = ""

    def run(self) -> None:
        """Serve until the engine closes the socket, or is gone."""
        try:
            self._send(Up(os.getpid()))
            unpacker = Unpacker()
            while data := self._link.recv(RECEIVE_BYTES):
                for body in unpacker.push(data):
                    self._take(to_recogniser.decode(body))
        except (BrokenPipeError, ConnectionResetError):
            return

    def _take(self, message: ToRecogniser) -> None:
        try:
            self._handle(message)
        except (RuntimeError, ValueError) as error:
            failed, self._utterance = self._utterance, 0
            self._send(Failed(failed, str(error)))

    def _handle(self, message: ToRecogniser) -> None:
        match message:
            case Begin(utterance):
                self._utterance, self._fed, self._last_partial = utterance, 0, ""
                self._ear.begin(message)
            case FeedAudio(pcm) if self._utterance:
                self._ear.feed(pcm)
                self._tell_progress(len(pcm))
            case Finish(utterance) if utterance == self._utterance:
                # Until then a failure is this utterance's.
                result = self._ear.finish(utterance)
                self._utterance = 0
                self._send(result)
            case Abandon(utterance) if utterance == self._utterance:
                self._utterance = 0
                self._ear.abandon()
            case _:
                pass

    def _tell_progress(self, added: int) -> None:
        before, self._fed = self._fed, self._fed + added
        if before // TAKEN_BYTES != self._fed // TAKEN_BYTES:
            self._send(Taken(self._utterance, self._fed))
        if before // PARTIAL_EVERY_BYTES == self._fed // PARTIAL_EVERY_BYTES:
            return
        text = self._ear.partial()
        if text and text != self._last_partial:
            self._last_partial = text
            self._send(Partial(self._utterance, text))

    def _send(self, message: FromRecogniser) -> None:
        self._link.sendall(pack(message))


def serve_forks(control: socket.socket, open_ear: Callable[[], RecogniserEar]) -> None:
    """Fork a recogniser for every socket received; return when the engine closes `control`.

    `open_ear` is called in each of them.
    """
    forkserver = os.getpid()
    gc.collect()
    # Keeps the collector from touching, and so copying, what all recognisers share.
    gc.freeze()
    control.sendall(READY)
    while True:
        data, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        if os.fork() == 0:
            die_with_parent(forkserver)
            go_before_parent(OOM_RECOGNISER)
            control.close()
            with socket.socket(fileno=fds[0]) as link:
                Recognising(open_ear(), link).run()
            os._exit(0)
        os.close(fds[0])


def begin_forkserver() -> socket.socket:
    """Make this process a fork server of the engine, named in its arguments; the socket on which
    recognisers are ordered."""
    control_fd, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    go_before_parent(OOM_FORKSERVER)
    # Ctrl-C reaches the whole group; the engine decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Dead recognisers need no waiting for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    return socket.socket(fileno=control_fd)


def main() -> None:
    with begin_forkserver() as control:
        decoders = Decoders()
        serve_forks(control, lambda: decoders)


def send_spawn(control: socket.socket, link: socket.socket) -> None:
    """Ask the fork server for a recogniser at the other end of `link`."""
    socket.send_fds(control, [SPAWN], array.array("i", [link.fileno()]).tolist())


if __name__ == "__main__":
    main()
