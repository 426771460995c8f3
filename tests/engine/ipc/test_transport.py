"""Links: who is let in, what is refused, what is counted, and that no message is ever left lying.

Guarded: Hello first and of the right version; bytes that are no message, both ways; the size limit;
the high-water mark; one `on_lost`; fairness towards the rest of the loop; the edge-triggered
descriptor under interleaved sends and receives; closing twice.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq

from engine.ipc import transport as link
from engine.ipc.protocol import (
    MAX_MESSAGE_BYTES,
    VERSION,
    AudioIn,
    AudioOut,
    CloseSession,
    FromEngine,
    Hello,
    Message,
    Ping,
    Pong,
    Refused,
    ToEngine,
)
from engine.ipc.transport import MESSAGES_PER_WAKEUP, Dialer, Listener, encode
from tests.engine.ipc.raw_peer import dealer, router
from tests.waiting import Clock, until

GARBAGE = {
    "empty": b"",
    "reserved byte": b"\xc1",
    "text": b"GET / HTTP/1.1\r\n\r\n",
    "a number": b"\x07",
    "an array": b"\x93\x01\x02\x03",
    "an array of nothing": b"\x90",
    "too many messages": encode([Ping(1)] * (link.MAX_GATHERED + 1)),
    "a map without a tag": b"\x81\xa1n\x01",
    "an unknown tag": msgspec.msgpack.encode({"type": "Nonsense", "n": 1}),
    "a field of another type": msgspec.msgpack.encode({"type": "Ping", "n": "one"}),
    "a negative count": msgspec.msgpack.encode({"type": "Ping", "n": -1}),
    "a missing field": msgspec.msgpack.encode({"type": "Ping"}),
    "too much audio": encode(AudioIn("s", 0, b"\0" * 40_000)),
    "a cut message": encode(AudioIn("s", 0, b"\0" * 640))[:-1],
    "trailing bytes": encode(Ping(1)) + b"\0",
    "text that is not UTF-8": b"\x82\xa4type\xacCloseSession\xa7session\xa2\xff\xfe",
    "a tag that is not UTF-8": b"\x82\xa4type\xa2\xff\xfe\xa1n\x01",
    "deep nesting": b"\x83\xa4type\xa4Ping\xa1n\x01\xa1z" + b"\x91" * 100_000 + b"\x01",
}


class Ear:
    """A listener and everything it was told."""

    def __init__(self, endpoint: str, inbound: Any = ToEngine, **options: Any) -> None:
        self.hellos: list[Hello] = []
        self.messages: list[Any] = []
        self.peers: list[bytes] = []
        self.react: Callable[[bytes, Any], None] = lambda peer, message: None
        self.listener: Listener[Any] = Listener(
            endpoint, inbound, on_message=self.hear, on_peer=self._meet, **options
        )

    def hear(self, peer: bytes, message: Any) -> None:
        self.messages.append(message)
        self.react(peer, message)

    def _meet(self, peer: bytes, hello: Hello) -> None:
        self.peers.append(peer)
        self.hellos.append(hello)


class Mouth:
    """A dialer and everything it was told."""

    def __init__(self, endpoint: str, inbound: Any = FromEngine) -> None:
        self.messages: list[Any] = []
        self.lost: list[str] = []
        self.react: Callable[[Any], None] = lambda message: None
        self.dialer: Dialer[Any] = Dialer(
            endpoint, inbound, name="mouth", on_message=self.hear, on_lost=self.lost.append
        )

    def hear(self, message: Any) -> None:
        self.messages.append(message)
        self.react(message)


@pytest.fixture
def endpoint(tmp_path: Path) -> str:
    return f"ipc://{tmp_path}/link"


@pytest.fixture
async def loop_errors() -> list[dict[str, Any]]:
    """What reaches the event loop's exception handler."""
    errors: list[dict[str, Any]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: errors.append(context))
    return errors


@pytest.fixture
async def ear(endpoint: str) -> Any:
    ear = Ear(endpoint)
    yield ear
    ear.listener.close()


def decoded(frames: list[bytes]) -> Any:
    return msgspec.msgpack.decode(frames[-1], type=FromEngine)


async def test_dialer_introduces_itself_at_once(ear: Ear, endpoint: str) -> None:
    mouth = Mouth(endpoint)
    await until(lambda: ear.hellos)
    assert ear.hellos == [Hello(VERSION, "mouth")]
    assert ear.listener.peers == tuple(ear.peers)
    mouth.dialer.close()


async def test_messages_arrive_typed_and_in_order_both_ways(ear: Ear, endpoint: str) -> None:
    mouth = Mouth(endpoint)
    audio = AudioIn("s", 320, b"\x01\x02" * 320)
    assert mouth.dialer.send(audio) and mouth.dialer.send(Ping(7))
    await until(lambda: len(ear.messages) == 2)
    assert ear.messages == [audio, Ping(7)]
    answer = AudioOut("s", 1, 0, b"\x03\x04" * 480, last=True)
    assert ear.listener.send(ear.peers[0], answer) and ear.listener.send(ear.peers[0], Pong(7))
    await until(lambda: len(mouth.messages) == 2)
    assert mouth.messages == [answer, Pong(7)]
    mouth.dialer.close()


async def test_gathered_messages_come_as_one_and_in_order(endpoint: str) -> None:
    with router(endpoint) as raw:
        mouth = Mouth(endpoint)
        await raw.receive()
        first, second = AudioIn("s", 0, bytes(640)), AudioIn("t", 0, bytes(640))
        mouth.dialer.gather(first)
        mouth.dialer.gather(second)
        frames = await raw.receive()
        assert msgspec.msgpack.decode(frames[-1], type=list[ToEngine]) == [first, second]
        mouth.dialer.gather(first)
        mouth.dialer.send(Ping(1))
        for message in (first, Ping(1)):
            assert msgspec.msgpack.decode((await raw.receive())[-1], type=ToEngine) == message
    mouth.dialer.close()


async def test_a_listener_tells_what_was_gathered_one_by_one(ear: Ear, endpoint: str) -> None:
    mouth = Mouth(endpoint)
    sound = [AudioIn("s", 320 * i, bytes(640)) for i in range(3 * link.MAX_GATHERED)]
    for message in sound:
        mouth.dialer.gather(message)
    mouth.dialer.close()
    await until(lambda: len(ear.messages) == len(sound))
    assert ear.messages == sound and not ear.listener.refused


async def test_nothing_of_an_array_is_told_after_its_sender_was_forgotten(
    ear: Ear, endpoint: str
) -> None:
    ear.react = lambda peer, message: ear.listener.forget(peer)
    mouth = Mouth(endpoint)
    mouth.dialer.gather(Ping(1))
    mouth.dialer.gather(Ping(2))
    await until(lambda: ear.messages)
    mouth.dialer.send(Ping(3))
    await until(lambda: mouth.lost)
    assert ear.messages == [Ping(1)]
    mouth.dialer.close()


async def test_gathered_messages_that_are_refused_are_lost_and_end_nothing(endpoint: str) -> None:
    mouth = Mouth(endpoint + "-nobody")
    for _ in range(link.HIGH_WATER_MESSAGES):
        mouth.dialer.send(Ping(1))
    mouth.dialer.gather(Ping(2))
    mouth.dialer.gather(Ping(3))
    assert not mouth.dialer.send(Ping(4))
    assert mouth.lost == []
    mouth.dialer.close()


async def test_first_message_must_be_hello(ear: Ear, endpoint: str) -> None:
    with dealer(endpoint) as raw:
        raw.say(Ping(1))
        refused = decoded(await raw.receive())
    assert refused.code == "hello_expected" and "first message must be Hello" in refused.reason
    assert ear.messages == [] and ear.hellos == [] and ear.listener.refused == 1


@pytest.mark.parametrize("version", [VERSION + 1, 0, 10**9])
async def test_another_version_is_refused_in_clear_words(
    ear: Ear, endpoint: str, version: int
) -> None:
    with dealer(endpoint) as raw:
        raw.hello(version)
        refused = decoded(await raw.receive())
    assert refused == Refused("version", f"protocol version {version} is not ours, {VERSION}")
    assert ear.hellos == [] and ear.listener.peers == ()


async def test_dialer_of_another_version_learns_why_it_is_refused(
    ear: Ear, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(link, "VERSION", 7)
        mouth = Mouth(endpoint)
    await until(lambda: mouth.lost)
    assert mouth.lost == [f"refused: protocol version 7 is not ours, {VERSION}"]
    mouth.dialer.close()


async def test_dialer_without_refused_in_its_messages_still_learns_why(endpoint: str) -> None:
    with router(endpoint) as raw:
        mouth = Mouth(endpoint, inbound=Pong | Ping)
        peer = (await raw.receive())[0]
        raw.send(peer, encode(Refused("version", "too old")))
        await until(lambda: mouth.lost)
    assert mouth.lost == ["refused: too old"]
    mouth.dialer.close()


async def test_refused_peer_must_say_hello_again(ear: Ear, endpoint: str) -> None:
    with dealer(endpoint) as raw:
        raw.hello()
        raw.send(b"\xc1")
        assert decoded(await raw.receive()).code == "malformed"
        raw.say(Ping(1))
        assert decoded(await raw.receive()).code == "hello_expected"
        raw.hello()
        raw.say(Ping(2))
        await until(lambda: ear.messages)
    assert ear.messages == [Ping(2)] and len(ear.hellos) == 2


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_listener_refuses_garbage_and_serves_the_others(
    ear: Ear, endpoint: str, garbage: bytes, loop_errors: list[dict[str, Any]]
) -> None:
    with dealer(endpoint) as good, dealer(endpoint) as bad:
        good.hello()
        bad.hello()
        await until(lambda: len(ear.hellos) == 2)
        bad.send(garbage)
        assert decoded(await bad.receive()).code == "malformed"
        good.say(Ping(1))
        await until(lambda: ear.messages)
    assert ear.messages == [Ping(1)] and len(ear.listener.peers) == 1
    assert loop_errors == []


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_listener_refuses_garbage_instead_of_hello(
    ear: Ear, endpoint: str, garbage: bytes, loop_errors: list[dict[str, Any]]
) -> None:
    with dealer(endpoint) as raw:
        raw.send(garbage)
        assert decoded(await raw.receive()).code == "hello_expected"
    assert loop_errors == [] and ear.listener.peers == ()


@pytest.mark.parametrize("frames", [(b"", b"x"), (encode(Ping(1)), encode(Ping(2)))])
async def test_listener_refuses_another_number_of_frames(
    ear: Ear, endpoint: str, frames: tuple[bytes, ...]
) -> None:
    with dealer(endpoint) as raw:
        raw.hello()
        raw.send(*frames)
        refused = decoded(await raw.receive())
    assert refused == Refused("malformed", "expected 2 frames, got 3") and ear.messages == []


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE.keys())
async def test_dialer_takes_garbage_for_the_end_of_the_link(
    endpoint: str, garbage: bytes, loop_errors: list[dict[str, Any]]
) -> None:
    with router(endpoint) as raw:
        mouth = Mouth(endpoint, inbound=Pong | Refused)
        peer = (await raw.receive())[0]
        raw.send(peer, garbage)
        await until(lambda: mouth.lost)
        raw.send(peer, garbage)
        raw.send(peer, encode(Pong(1)))
        # Who was told closes; until then what is readable still arrives.
        await until(lambda: mouth.messages)
    assert len(mouth.lost) == 1 and mouth.lost[0].startswith("unreadable message from the far end")
    assert loop_errors == []
    mouth.dialer.close()


async def test_mutated_messages_never_raise_into_the_loop(
    ear: Ear, endpoint: str, loop_errors: list[dict[str, Any]]
) -> None:
    rng = random.Random(7)
    seeds = [encode(m) for m in (Ping(3), CloseSession("abc"), AudioIn("s", 9, b"\1\2" * 30))]
    with dealer(endpoint) as raw:
        for _ in range(1000):
            data = bytearray(rng.choice(seeds))
            for _ in range(rng.randint(1, 4)):
                data[rng.randrange(len(data))] = rng.randrange(256)
            raw.hello()
            raw.send(bytes(data))
        raw.hello()
        raw.say(Ping(123_456))
        await until(lambda: Ping(123_456) in ear.messages)
    assert loop_errors == [] and ear.listener.refused > 100


async def test_listener_cuts_off_who_sends_more_than_the_limit(ear: Ear, endpoint: str) -> None:
    with dealer(endpoint) as good, dealer(endpoint) as bad:
        good.hello()
        bad.hello()
        await until(lambda: len(ear.hellos) == 2)
        bad.send(b"\0" * (MAX_MESSAGE_BYTES + 1))
        bad.say(Ping(1))
        # Its connection is closed; what follows comes over a new one, which has not said Hello.
        assert decoded(await bad.receive()).code == "hello_expected"
        good.say(Ping(2))
        await until(lambda: ear.messages)
    assert ear.messages == [Ping(2)]


async def test_message_at_the_limit_passes(ear: Ear, endpoint: str) -> None:
    with dealer(endpoint) as raw:
        raw.hello()
        raw.send(b"\0" * MAX_MESSAGE_BYTES)
        assert decoded(await raw.receive()).code == "malformed"


async def test_dialer_is_lost_when_the_far_end_sends_more_than_the_limit(endpoint: str) -> None:
    with router(endpoint) as raw:
        mouth = Mouth(endpoint)
        peer = (await raw.receive())[0]
        raw.send(peer, b"\0" * (MAX_MESSAGE_BYTES + 1))
        await until(lambda: mouth.lost)
    assert mouth.lost == ["the far end closed the link"]
    mouth.dialer.close()


def refused_sends(send: Callable[[], bool]) -> int:
    """Send until three in a row are refused; how many went before. Bounded, or the test fails."""
    sent = 0
    for _ in range(5000):
        if send():
            sent += 1
        elif not any(send() for _ in range(2)):
            return sent
    raise AssertionError("5000 messages of 32 kB were queued for an end that takes none")


async def test_dialer_refuses_beyond_the_high_water_mark(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "HIGH_WATER_MESSAGES", 10)
    with router(endpoint, receive_limit=10) as raw:
        mouth = Mouth(endpoint)
        await raw.receive()
        audio = AudioIn("s", 0, b"\0" * 32_000)
        assert refused_sends(lambda: mouth.dialer.send(audio)) >= 5
        mouth.dialer.close()
    assert mouth.lost == []


async def test_listener_refuses_beyond_the_high_water_mark(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "HIGH_WATER_MESSAGES", 10)
    ear = Ear(endpoint)
    with dealer(endpoint, receive_limit=10) as slow, dealer(endpoint) as quick:
        slow.hello()
        await until(lambda: len(ear.peers) == 1)
        quick.hello()
        await until(lambda: len(ear.peers) == 2)
        audio = AudioOut("s", 1, 0, b"\0" * 32_000)
        assert refused_sends(lambda: ear.listener.send(ear.peers[0], audio)) >= 5
        assert ear.listener.send(ear.peers[1], Pong(1)), "one full peer stops the others"
        assert decoded(await quick.receive()) == Pong(1)
    ear.listener.close()


async def test_message_to_a_peer_that_is_gone_is_refused(ear: Ear, endpoint: str) -> None:
    raw = dealer(endpoint)
    raw.hello()
    await until(lambda: ear.peers)
    raw.close()
    await until(lambda: not ear.listener.send(ear.peers[0], Pong(1)))
    assert not ear.listener.send(b"nobody", Pong(1))


async def test_dialer_is_lost_once_when_the_listener_closes(endpoint: str) -> None:
    ear = Ear(endpoint)
    mouth = Mouth(endpoint)
    await until(lambda: ear.hellos)
    ear.listener.close()
    await until(lambda: mouth.lost)
    # Another process takes the address: it must not be taken for the old one.
    heir = Ear(endpoint)
    with dealer(endpoint) as probe:
        probe.hello()
        await until(lambda: heir.hellos)
        mouth.dialer.send(Ping(1))
        await until(lambda: heir.listener.refused == 1)
    assert mouth.lost == ["the far end closed the link"]
    assert [hello.name for hello in heir.hellos] == ["raw"] and heir.messages == []
    mouth.dialer.close()
    heir.listener.close()


LISTENING = """
import asyncio, sys
from engine.ipc.transport import Listener
from engine.ipc.protocol import ToEngine

async def main():
    ear = Listener(sys.argv[1], ToEngine, on_message=lambda *_: None,
                   on_peer=lambda *_: print("met", flush=True))
    print("listening", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.loopback
async def test_dialer_is_lost_once_when_the_far_process_is_killed(endpoint: str) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", LISTENING, endpoint, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    assert await process.stdout.readline() == b"listening\n"
    mouth = Mouth(endpoint)
    assert await process.stdout.readline() == b"met\n"
    assert mouth.lost == []
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await until(lambda: mouth.lost)
    assert mouth.lost == ["the far end closed the link"]
    mouth.dialer.close()


async def test_a_flood_leaves_the_loop_its_turns(ear: Ear, endpoint: str) -> None:
    with dealer(endpoint) as raw:
        raw.hello()
        await until(lambda: ear.hellos)
        for n in range(3000):
            raw.say(Ping(n))
        bursts: list[int] = []
        seen = 0
        async with asyncio.timeout(60):
            while len(ear.messages) < 3000:
                await asyncio.sleep(0)
                bursts.append(len(ear.messages) - seen)
                seen = len(ear.messages)
    # In one lap of the loop the descriptor and a kick may both drain.
    assert max(bursts) <= 2 * MESSAGES_PER_WAKEUP
    assert [message.n for message in ear.messages] == list(range(3000))


async def test_failing_handler_loses_its_message_only(
    ear: Ear, endpoint: str, loop_errors: list[dict[str, Any]]
) -> None:
    heard: list[int] = []

    def hear(peer: bytes, message: Any) -> None:
        if message.n == 3:
            raise RuntimeError("a bug")
        heard.append(message.n)

    ear.react = hear
    with dealer(endpoint) as raw:
        raw.hello()
        for n in range(10):
            raw.say(Ping(n))
        await until(lambda: len(heard) == 9)
    assert heard == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert [str(error["exception"]) for error in loop_errors] == ["a bug"]


async def send_all(
    send: Callable[[Message], bool], messages: Iterator[Message], rng: random.Random
) -> None:
    """Send in bursts of random length, waiting a lap between them and when the link is full."""
    for message in messages:
        while not send(message):  # noqa: ASYNC110 - a link tells nobody that it has room again
            await asyncio.sleep(0)
        if rng.random() < 0.02:
            await asyncio.sleep(0)


async def test_twenty_thousand_messages_both_ways_all_arrive_in_order(
    ear: Ear, endpoint: str
) -> None:
    total = 20_000
    mouth = Mouth(endpoint)
    await until(lambda: ear.peers)
    async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
        tasks.create_task(
            send_all(mouth.dialer.send, (Ping(n) for n in range(total)), random.Random(1))
        )
        tasks.create_task(
            send_all(
                lambda message: ear.listener.send(ear.peers[0], message),
                (Pong(n) for n in range(total)),
                random.Random(2),
            )
        )
    await until(lambda: len(ear.messages) == len(mouth.messages) == total)
    assert [message.n for message in ear.messages] == list(range(total))
    assert [message.n for message in mouth.messages] == list(range(total))
    mouth.dialer.close()


async def test_answers_that_send_again_never_stall(endpoint: str) -> None:
    """Each message is sent from within the handler of the one before: the edge is eaten there."""
    rounds = 3000
    mouth = Mouth(endpoint)
    ear = Ear(endpoint)
    done = asyncio.Event()

    def ping_back(message: Any) -> None:
        if message.n == rounds:
            done.set()
        else:
            mouth.dialer.send(Ping(message.n + 1))

    def pong_back(peer: bytes, message: Any) -> None:
        ear.listener.send(peer, Pong(message.n))

    mouth.react = ping_back
    ear.react = pong_back
    mouth.dialer.send(Ping(0))
    async with asyncio.timeout(60):
        await done.wait()
    mouth.dialer.close()
    ear.listener.close()


async def test_silent_peers_are_those_that_sent_nothing_lately(endpoint: str) -> None:
    clock = Clock(0.0)
    ear = Ear(endpoint, clock=clock, silence_limit_s=5.0)
    with dealer(endpoint) as early, dealer(endpoint) as late:
        early.hello()
        await until(lambda: len(ear.peers) == 1)
        late.hello()
        await until(lambda: len(ear.peers) == 2)
        for clock.now in (1.0, 2.0, 3.0, 4.0, 5.0):
            assert ear.listener.silent_peers() == []
        late.say(Ping(1))
        await until(lambda: ear.messages)
        clock.now = 5.1
        assert ear.listener.silent_peers() == [ear.peers[0]]
        ear.listener.forget(ear.peers[0])
        assert ear.listener.silent_peers() == []
    ear.listener.close()


async def test_nobody_is_silent_only_because_the_listener_stood_still(endpoint: str) -> None:
    clock = Clock(0.0)
    ear = Ear(endpoint, clock=clock, silence_limit_s=5.0)
    with dealer(endpoint) as peer:
        peer.hello()
        await until(lambda: ear.peers)
        peer.say(Ping(1))
        clock.now = 100.0
        assert ear.listener.silent_peers() == [], "its ping waits to be read"
        await until(lambda: ear.messages)
        clock.now = 104.0
        assert ear.listener.silent_peers() == []
    ear.listener.close()


async def test_deleted_socket_is_made_anew_and_those_connected_notice_nothing(
    tmp_path: Path,
) -> None:
    endpoint = f"ipc://{tmp_path}/links/ear"
    (tmp_path / "links").mkdir(mode=0o700)
    ear = Ear(endpoint)
    early = Mouth(endpoint)
    await until(lambda: ear.hellos)
    assert not ear.listener.mend(), "nothing is broken"
    shutil.rmtree(tmp_path / "links")
    assert not ear.listener.mend(), "its folder is not there yet"
    (tmp_path / "links").mkdir(mode=0o700)
    assert ear.listener.mend() and not ear.listener.mend()
    late = Mouth(endpoint)
    await until(lambda: len(ear.hellos) == 2)
    assert ear.listener.send(ear.peers[0], Pong(1)) and ear.listener.send(ear.peers[1], Pong(2))
    await until(lambda: early.messages and late.messages)
    assert (early.messages, late.messages) == ([Pong(1)], [Pong(2)])
    for mouth in (early, late):
        mouth.dialer.close()
    ear.listener.close()


async def test_socket_is_not_made_where_others_may_write(tmp_path: Path) -> None:
    (tmp_path / "links").mkdir(mode=0o700)
    ear = Ear(f"ipc://{tmp_path}/links/ear")
    (tmp_path / "links" / "ear").unlink()
    (tmp_path / "links").chmod(0o777)
    assert not ear.listener.mend()
    ear.listener.close()


async def test_closing_twice_is_fine_and_nothing_is_delivered_afterwards(endpoint: str) -> None:
    ear = Ear(endpoint)
    mouth = Mouth(endpoint)
    await until(lambda: ear.hellos)
    assert ear.listener.send(ear.peers[0], Pong(1))
    mouth.dialer.close()
    mouth.dialer.close()
    ear.listener.close()
    ear.listener.close()
    await asyncio.sleep(0)
    assert mouth.messages == [] and mouth.lost == []


async def test_closing_from_within_a_handler_is_fine(
    ear: Ear, endpoint: str, loop_errors: list[dict[str, Any]]
) -> None:
    mouth = Mouth(endpoint)

    def hear_and_close(message: Any) -> None:
        mouth.dialer.close()

    mouth.react = hear_and_close
    await until(lambda: ear.peers)
    for n in range(3):
        ear.listener.send(ear.peers[0], Pong(n))
    await until(lambda: mouth.messages)
    for _ in range(3):
        await asyncio.sleep(0)
    assert mouth.messages == [Pong(0)] and loop_errors == []


async def test_an_address_in_use_is_an_error_at_once() -> None:
    ear = Ear("tcp://127.0.0.1:*")
    assert ear.listener.endpoint.startswith("tcp://127.0.0.1:")
    with pytest.raises(zmq.ZMQError):
        Ear(ear.listener.endpoint)
    ear.listener.close()


async def test_links_over_tcp_work_the_same() -> None:
    ear = Ear("tcp://127.0.0.1:*")
    mouth = Mouth(ear.listener.endpoint)
    mouth.dialer.send(Ping(1))
    await until(lambda: ear.messages)
    ear.listener.close()
    await until(lambda: mouth.lost)
    mouth.dialer.close()
