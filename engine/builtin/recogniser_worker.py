"""The recogniser's own processes: a nursery that loads the models once and forks recognisers.

Run as `python -m engine.builtin.recogniser_worker CONTROL_FD PARENT_PID`. A fresh interpreter
without threads is the only safe place to fork from, and pocketsphinx, which holds the GIL, must
stay away from the engine's event loop. Nothing outlives its parent: the kernel kills the nursery
with the engine and the recognisers with the nursery.
"""

from __future__ import annotations

import array
import gc
import os
import signal
import socket
import sys
from typing import Any

from engine.builtin import grammar
from engine.builtin.recogniser_link import (
    TAKEN_BYTES,
    Abandon,
    Begin,
    Failed,
    Feed,
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
from engine.ipc.lifeline import OOM_NURSERY, OOM_RECOGNISER, die_with_parent, go_before_parent

PARTIAL_EVERY_BYTES = 2 * 16_000 * 3 // 10
READY = b"R"
SPAWN = b"S"
RECEIVE_BYTES = 65_536


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
        self._command.add_jsgf_string("commands", grammar.JSGF)
        self._command.activate_search("commands")
        self._first_mean: str = self._free.get_cmn()
        self._active: list[Any] = []

    def _add_words(self) -> None:
        for word in grammar.words():
            spelling, number = word, 1
            while (phones := self._free.lookup_word(spelling)) is not None:
                self._command.add_word(spelling, phones, False)
                number += 1
                spelling = f"{word}({number})"
            assert number > 1, f"{word!r} of the grammar is not in the dictionary"

    def begin(self, cepstral_mean: str, commands: bool) -> None:
        self.abandon()
        self._active = [self._free, self._command] if commands else [self._free]
        for decoder in self._active:
            decoder.set_cmn(cepstral_mean or self._first_mean)
            decoder.start_utt()

    def feed(self, pcm: bytes) -> None:
        for decoder in self._active:
            decoder.process_raw(pcm)

    def partial(self) -> str:
        return _text(self._free)

    def finish(self) -> tuple[str, str]:
        """The text to believe, and the speaker's cepstral mean."""
        active, self._active = self._active, []
        for decoder in active:
            decoder.end_utt()
        free = _text(self._free)
        command = _text(self._command) if len(active) > 1 else ""
        return grammar.choose(free, command), self._free.get_cmn()

    def abandon(self) -> None:
        active, self._active = self._active, []
        for decoder in active:
            decoder.end_utt()


def _text(decoder: Any) -> str:
    hypothesis = decoder.hyp()
    return "" if hypothesis is None else " ".join(hypothesis.hypstr.split())


class Recognising:
    """One recogniser process: takes utterances one after the other from its socket."""

    def __init__(self, decoders: Decoders, link: socket.socket) -> None:
        self._decoders = decoders
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
            case Begin(utterance, cepstral_mean, commands):
                self._utterance, self._fed, self._last_partial = utterance, 0, ""
                self._decoders.begin(cepstral_mean, commands)
            case Feed(pcm) if self._utterance:
                self._decoders.feed(pcm)
                self._tell_progress(len(pcm))
            case Finish(utterance) if utterance == self._utterance:
                self._utterance = 0
                text, cepstral_mean = self._decoders.finish()
                self._send(Result(utterance, text, cepstral_mean))
            case Abandon(utterance) if utterance == self._utterance:
                self._utterance = 0
                self._decoders.abandon()
            case _:
                pass

    def _tell_progress(self, added: int) -> None:
        before, self._fed = self._fed, self._fed + added
        if before // TAKEN_BYTES != self._fed // TAKEN_BYTES:
            self._send(Taken(self._utterance, self._fed))
        if before // PARTIAL_EVERY_BYTES == self._fed // PARTIAL_EVERY_BYTES:
            return
        text = self._decoders.partial()
        if text and text != self._last_partial:
            self._last_partial = text
            self._send(Partial(self._utterance, text))

    def _send(self, message: FromRecogniser) -> None:
        self._link.sendall(pack(message))


def serve_nursery(control: socket.socket, decoders: Decoders) -> None:
    """Fork a recogniser for every socket received; return when the engine closes `control`."""
    nursery = os.getpid()
    gc.collect()
    # Keeps the collector from touching, and so copying, what all recognisers share.
    gc.freeze()
    control.sendall(READY)
    while True:
        data, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not data:
            return
        if os.fork() == 0:
            die_with_parent(nursery)
            go_before_parent(OOM_RECOGNISER)
            control.close()
            with socket.socket(fileno=fds[0]) as link:
                Recognising(decoders, link).run()
            os._exit(0)
        os.close(fds[0])


def main() -> None:
    control_fd, parent = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(parent)
    go_before_parent(OOM_NURSERY)
    # Ctrl-C reaches the whole group; the engine decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Dead recognisers need no waiting for.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(fileno=control_fd) as control:
        serve_nursery(control, Decoders())


def send_spawn(control: socket.socket, link: socket.socket) -> None:
    """Ask the nursery for a recogniser at the other end of `link`."""
    socket.send_fds(control, [SPAWN], array.array("i", [link.fileno()]).tolist())


if __name__ == "__main__":
    main()
