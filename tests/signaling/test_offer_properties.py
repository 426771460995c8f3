"""Whatever is offered: a lawful answer, or a refusal with a reason; never anything else."""

import asyncio
import random
import re

import pytest
from aiortc.sdp import SessionDescription
from hypothesis import given, settings
from hypothesis import strategies as st

from signaling.answer import finish_answer
from signaling.errors import ProtocolError
from signaling.ice import IceSettings
from signaling.offer import AnswerPlan
from signaling.peer import Peer
from signaling.prepared import prepare_offer
from tests.signaling.answer_rules import MLine, check_answer, read
from tests.signaling.offer_grammar import DIGEST, Drawn, offers
from tests.signaling.offers import CHROMIUM_OFFER
from tests.signaling.rtc import Recorder, SilentTrack

REASON = re.compile(r"[A-Z\"].{15,400}\.", re.DOTALL)


def near_answer(prepared: str) -> str:
    """Return what aiortc would answer, near enough: its own transport in each m-line."""
    lines = []
    for line in prepared.splitlines():
        if line.startswith("a=setup:"):
            role = "passive" if line.endswith(":active") else "active"
            lines += ["a=msid:ours sound", "a=ssrc:7 cname:ours", f"a=setup:{role}"]
        elif not line.startswith(("a=candidate", "a=ssrc:", "a=fingerprint")):
            lines.append(line)
        else:
            lines += [f"a=fingerprint:sha-256 {DIGEST}"] * line.startswith("a=fingerprint")
    return "".join(f"{line}\r\n" for line in lines)


def answer_or_reason(text: str) -> tuple[str, AnswerPlan] | None:
    """Answer an offer without a network; None when it is refused as it should be."""
    try:
        prepared = prepare_offer(text)
    except ProtocolError as error:
        assert 400 <= error.status < 500
        assert error.param == "sdp"
        assert REASON.fullmatch(error.message), error.message
        return None
    description = SessionDescription.parse(prepared.text)
    assert len(description.media) == len(prepared.plan.taken)
    answer = finish_answer(near_answer(prepared.text), prepared)
    # A declined m-line keeps what was offered, of which aiortc reads less than we do.
    SessionDescription.parse(re.sub(r"(?m)^m=\S+ 0 \S+ .*", "m=text 0 RTP/AVP x", answer))
    return answer, prepared.plan


def is_dead(line: MLine) -> bool:
    return line.port > 0 and not (line.values("ice-ufrag") and line.values("fingerprint"))


@given(drawn=offers())
@settings(max_examples=30)
def test_a_lawful_answer_or_a_reason(drawn: Drawn) -> None:
    answered = answer_or_reason(drawn.text)
    if answered is None:
        return
    answer, plan = answered
    lines = check_answer(answer, drawn.offered)
    for index, (line, offer) in enumerate(zip(lines, drawn.offered, strict=True)):
        directions = line.flags("sendrecv", "sendonly", "recvonly")
        assert bool(directions) == (index in plan.taken and offer.kind != "application")
    if plan.speaks is not None:
        assert drawn.offered[plan.speaks].direction in ("sendrecv", "recvonly")
    for source in (plan.hears, plan.sees):
        if source is not None:
            assert drawn.offered[source].direction in ("sendrecv", "sendonly")


@given(drawn=offers())
@settings(max_examples=10)
def test_aiortc_takes_whatever_it_is_given(drawn: Drawn) -> None:
    if answer_or_reason(drawn.text) is None:
        return

    async def call() -> str:
        peer = Peer("rtc_test", IceSettings(loopback="only"), Recorder())
        answer = await peer.answer(drawn.text, downlink=SilentTrack())
        await peer.close()
        return answer

    check_answer(asyncio.run(call()), drawn.offered)


def mutated(text: str, seed: int) -> str:
    """Return an offer with lines or bytes removed, doubled, moved and spoiled."""
    dice = random.Random(seed)
    lines = text.splitlines()
    for _ in range(dice.randint(1, 6)):
        if not lines:
            break
        at = dice.randrange(len(lines))
        match dice.randrange(7):
            case 0:
                del lines[at]
            case 1:
                lines.insert(dice.randrange(len(lines)), lines[at])
            case 2:
                lines.insert(dice.randrange(len(lines)), lines.pop(at))
            case 3:
                lines[at] = lines[at].partition(":")[0] + dice.choice(["", ":", ": ", " "])
            case 4:
                start = dice.randrange(len(lines))
                lines[at:at] = lines[start : start + dice.randint(1, 30)]
            case 5:
                odd = dice.choice(["", " ", "-1", "9" * 30, "\x0b", "\u2028", "\u0660", ";", "/"])
                where = dice.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:where] + odd + lines[at][where + dice.randint(0, 3) :]
            case 6:
                lines[at] = lines[at].upper() if dice.random() < 0.5 else lines[at].swapcase()
    return dice.choice(["\r\n", "\n", "\r"]).join(lines)


@given(seed=st.integers(0, 2**32))
@settings(max_examples=50)
def test_mutants_of_a_real_offer_are_answered_or_refused(seed: int) -> None:
    text = mutated(CHROMIUM_OFFER, seed)
    answered = answer_or_reason(text)
    if answered is not None:
        _, lines = read(answered[0])
        assert len(lines) == len(re.findall(r"(?:^|[\r\n])\s*m=", text))
        assert not any(map(is_dead, lines))


@pytest.mark.parametrize(
    "text", ["v=0\n\nm=\n", "v=0\rm=audio 9 x 0", "\ufeffv=0", "v=0\nm= 1 2 3"]
)
def test_stumps_are_refused_with_a_reason(text: str) -> None:
    assert answer_or_reason(text) is None
