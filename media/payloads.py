"""Pictures out of RTP payloads: VP8 (RFC 7741) and H.264 in Annex B (RFC 6184, modes 0 and 1).

Pure functions over bytes that anybody may have written: a payload that is damaged gives what of it
can be read, or nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

START_CODE = b"\0\0\0\1"
IDR, SEI, SPS, PPS, AUD = 5, 6, 7, 8, 9
_STAP_A, _FU_A = 24, 28
_RECOVERY_POINT = 6
_SLICES = range(1, 6)


@dataclass(frozen=True, slots=True)
class PayloadPart:
    """The part of a frame that one packet brings."""

    data: bytes = b""
    begins_key: bool = False
    """A frame that a decoder may begin with begins in this packet."""


NOTHING = PayloadPart()


def read_payload(codec: str, payload: bytes) -> PayloadPart:
    """Return what the payload of a `vp8` or `h264` packet carries."""
    return _read_vp8(payload) if codec == "vp8" else _read_h264(payload)


def is_key(codec: str, frame: bytes) -> bool:
    """Tell whether a decoder may begin with this frame."""
    if codec == "vp8":
        return bool(frame) and frame[0] & 1 == 0
    found = list(units(frame))
    if any(_is_entry(unit) and unit[0] & 0x1F != SPS for unit in found):
        return True
    # Without an IDR, as long as the slices need no other picture.
    slices = [unit for unit in found if unit[0] & 0x1F in _SLICES]
    has_sets = any(unit[0] & 0x1F == SPS for unit in found)
    return has_sets and bool(slices) and all(map(_is_intra, slices))


def has_picture(codec: str, frame: bytes) -> bool:
    """Tell whether there is more in it than parameter sets, delimiters and messages."""
    if codec == "vp8":
        return bool(frame)
    return any(unit[0] & 0x1F in _SLICES for unit in units(frame))


def units(stream: bytes) -> Iterator[bytes]:
    """Yield the NAL units of an Annex B stream, none of them empty."""
    begin = stream.find(b"\0\0\1")
    while begin >= 0:
        end = stream.find(b"\0\0\1", begin + 3)
        unit = stream[begin + 3 : end if end >= 0 else None]
        if unit := unit.rstrip(b"\0"):
            yield unit
        begin = end


def _is_entry(unit: bytes) -> bool:
    kind = unit[0] & 0x1F
    # Encoders that refresh gradually send no IDR at all, but say where one may begin.
    return kind in (IDR, SPS) or (kind == SEI and unit[1:2] == bytes([_RECOVERY_POINT]))


def _is_intra(unit: bytes) -> bool:
    """Tell whether a slice is of type I (H.264 section 7.3.3: behind first_mb_in_slice)."""
    bits = format(int.from_bytes(unit[1:9].ljust(8, b"\0")), "064b")
    begin = bits.find("1")
    behind = bits[2 * begin + 1 :] if begin >= 0 else ""
    zeros = behind.find("1")
    if zeros < 0 or 2 * zeros + 1 > len(behind):
        return False
    return int(behind[: 2 * zeros + 1], 2) - 1 in (2, 7)


def _read_vp8(payload: bytes) -> PayloadPart:
    """Read the descriptor of RFC 7741 section 4.2 and leave it away."""
    if not payload:
        return NOTHING
    first, position = payload[0], 1
    if first & 0x80:
        if len(payload) < 2:
            return NOTHING
        flags, position = payload[1], 2
        if flags & 0x80:
            position += 2 if payload[position : position + 1] >= b"\x80" else 1
        position += bool(flags & 0x40) + bool(flags & 0x30)
    data = payload[position:]
    begins = bool(first & 0x10) and not first & 0x07
    return PayloadPart(data, bool(data) and begins and data[0] & 1 == 0) if data else NOTHING


def _read_h264(payload: bytes) -> PayloadPart:
    if len(payload) < 2:
        return NOTHING
    kind = payload[0] & 0x1F
    if kind == _FU_A:
        return _read_fragment(payload)
    if kind == _STAP_A:
        found = list(_aggregated(payload))
    elif 1 <= kind < _STAP_A:
        found = [payload]
    elif payload.startswith((START_CODE, START_CODE[1:])):
        # Some senders leave the start codes in.
        found = list(units(payload))
    else:
        return NOTHING
    data = b"".join(START_CODE + unit for unit in found)
    return PayloadPart(data, any(map(_is_entry, found)))


def _read_fragment(payload: bytes) -> PayloadPart:
    header = payload[1]
    if not header & 0x80:
        return PayloadPart(payload[2:])
    unit = bytes([payload[0] & 0xE0 | header & 0x1F]) + payload[2:]
    return PayloadPart(START_CODE + unit, _is_entry(unit))


def _aggregated(payload: bytes) -> Iterator[bytes]:
    position = 1
    while position + 2 < len(payload):
        size = int.from_bytes(payload[position : position + 2])
        unit = payload[position + 2 : position + 2 + size]
        if unit:
            yield unit
        position += 2 + size


class ParameterSets:
    """The sets of one H.264 stream: those of the offer, replaced by what is sent.

    A decoder that begins with a keyframe needs them, whether they came with it, long before it, in
    a frame that was lost or only in the offer (RFC 6184 section 8.1, sprop-parameter-sets).
    """

    MAX_SETS = 32
    MAX_BYTES = 1024

    def __init__(self, offered: tuple[bytes, ...] = ()) -> None:
        self._sets: dict[tuple[int, int], bytes] = {}
        for unit in offered:
            self._keep(unit)

    def learn(self, data: bytes) -> None:
        """Take note of the sets in what a packet or a frame carries."""
        for unit in units(data):
            self._keep(unit)

    def complete(self, frame: bytes) -> bytes:
        """Return the frame with the sets before it that it does not bring along."""
        brought = {key for unit in units(frame) if (key := _set_key(unit))}
        missing = [s for key, s in sorted(self._sets.items()) if key not in brought]
        return b"".join(START_CODE + unit for unit in missing) + frame

    def _keep(self, unit: bytes) -> None:
        key = _set_key(unit)
        if key is None or len(unit) > self.MAX_BYTES:
            return
        if key in self._sets or len(self._sets) < self.MAX_SETS:
            self._sets[key] = unit


def _set_key(unit: bytes) -> tuple[int, int] | None:
    """Return kind and number of a parameter set, None for other units."""
    kind = unit[0] & 0x1F if unit else 0
    if kind == SPS and len(unit) > 4:
        return kind, _exp_golomb(unit[4:])
    if kind == PPS and len(unit) > 1:
        return kind, _exp_golomb(unit[1:])
    return None


def _exp_golomb(data: bytes) -> int:
    """Return the ue(v) that the data begins with (H.264 section 9.1); numbers of sets are small."""
    bits = int.from_bytes(data[:4].ljust(4, b"\0"))
    zeros = 32 - bits.bit_length()
    if zeros > 15:
        return -1
    return (bits >> (31 - 2 * zeros)) - 1
