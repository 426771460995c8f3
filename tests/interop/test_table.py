"""Offers of real stacks against the table: what each gets, read from the answer it would read."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from signaling.errors import ProtocolError
from signaling.ice import IceSettings
from signaling.peer import Peer
from signaling.sdp import parse
from tests.signaling.answer_rules import MLine, Offered, check_answer
from tests.signaling.rtc import Recorder, SilentTrack

HERE = Path(__file__).parent
TABLE: dict[str, dict[str, Any]] = tomllib.loads((HERE / "table.toml").read_text())


def offer(name: str) -> str:
    # read_bytes keeps the line ends of the stack.
    return (HERE / "offers" / f"{name}.sdp").read_bytes().decode()


def meant(text: str) -> list[Offered]:
    """Return the offer as the rules want it: these are lawful, so our reader will do."""
    description = parse(text)
    return [
        Offered(
            kind=section.kind,
            profile=section.profile,
            mid=section.mid,
            formats=list(section.formats),
            rtpmaps=section.codecs(),
            direction=description.direction(section),
            setup=description.inherited(section, "setup")[0],
            is_rejected=description.is_rejected(section),
            is_bundled=description.is_bundled(section),
            has_mux=section.has("rtcp-mux"),
        )
        for section in description.sections
    ]


def lines_with(lines: list[MLine], kind: str, *directions: str) -> list[int]:
    return [
        index
        for index, line in enumerate(lines)
        if line.port and line.kind == kind and (line.flags(*directions) or not directions)
    ]


def test_every_offer_has_its_row() -> None:
    assert {path.stem for path in (HERE / "offers").glob("*.sdp")} == set(TABLE)


@pytest.mark.parametrize("name", TABLE)
async def test_offer_gets_what_the_table_says(name: str) -> None:
    row = TABLE[name]
    peer = Peer("rtc_test", IceSettings(loopback="only"), Recorder())
    try:
        answer = await peer.answer(offer(name), downlink=SilentTrack())
    except ProtocolError as error:
        assert error.status == row["status"]
        assert row["says"] in error.message
        return
    finally:
        await peer.close()
    assert row["status"] == 201
    lines = check_answer(answer, meant(offer(name)))
    assert {
        "accepted": [index for index, line in enumerate(lines) if line.port],
        "hears": lines_with(lines, "audio", "sendrecv", "recvonly"),
        "speaks": lines_with(lines, "audio", "sendrecv", "sendonly"),
        "sees": lines_with(lines, "video", "recvonly"),
        "talks": lines_with(lines, "application"),
    } == {column: row[column] for column in ("accepted", "hears", "speaks", "sees", "talks")}
