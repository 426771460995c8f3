"""Offers as test data: a real one of Chromium 156 (microphone, camera, channel) and edits of it."""

import re
from pathlib import Path

# read_bytes keeps the CRLF that SDP has.
CHROMIUM_OFFER = Path(__file__).with_name("chromium_offer.sdp").read_bytes().decode()


def sections(sdp: str) -> list[str]:
    """Return the session part, then each m-section."""
    return re.split(r"(?m)^(?=m=)", sdp)


def only(*kinds: str) -> str:
    """Return Chromium's offer with the m-sections of these kinds only."""
    head, *media = sections(CHROMIUM_OFFER)
    return head + "".join(s for s in media if s.startswith(tuple(f"m={k} " for k in kinds)))


def without(attribute: str, sdp: str = CHROMIUM_OFFER) -> str:
    """Return an offer without any line of this attribute."""
    lines = sdp.splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(f"a={attribute}"))


def with_codecs(audio: str, video: str) -> str:
    """Return Chromium's offer with other codec names, such as PCMU/8000."""
    sdp = re.sub(r"(a=rtpmap:\d+) (opus)/48000/2", rf"\1 {audio}", CHROMIUM_OFFER)
    return re.sub(r"(a=rtpmap:\d+) (VP8|H264)/90000", rf"\1 {video}", sdp)


def second_audio() -> str:
    """Return Chromium's offer with another audio section at the end."""
    audio = next(s for s in sections(CHROMIUM_OFFER) if s.startswith("m=audio"))
    extra = re.sub(r"a=mid:.*", "a=mid:9", audio).replace("\r\r", "\r")
    return re.sub(r"(a=group:BUNDLE [^\r\n]*)", r"\1 9", CHROMIUM_OFFER) + extra
