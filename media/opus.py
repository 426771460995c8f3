"""Opus at the model's own rates, mono, through the libopus that the PyAV wheel carries.

PyAV offers neither loss concealment, nor in-band FEC, nor decoding at 16 kHz; libopus does all
three. A codec object belongs to one stream and one thread.
"""

import ctypes
import ctypes.util
import functools
from pathlib import Path

import av

from media.formats import DOWNLINK_HZ, PTIME_MS, RTP_OPUS_HZ, SAMPLE_BYTES, UPLINK_HZ

MAX_PACKET_MS = 120
"""Longest duration of one packet (RFC 6716 section 3.2)."""
MAX_PACKET_BYTES = 1275
"""Longest encoded frame (RFC 6716 section 3.2.1)."""

SILENT_PACKET = b"\xf8\xff\xfe"
"""20 ms of digital silence in CELT mode: decodable in any decoder state, needs no encoder."""

_APPLICATION_VOIP = 2048
_SIGNAL_VOICE = 3001
_RESET_STATE = 4028
_SET_BITRATE = 4002
_SET_COMPLEXITY = 4010
_SET_INBAND_FEC = 4012
_SET_PACKET_LOSS_PERC = 4014
_SET_SIGNAL = 4024

_FRAME_TICKS_SILK = (480, 960, 1920, 2880)
_FRAME_TICKS_HYBRID = (480, 960)
_FRAME_TICKS_CELT = (120, 240, 480, 960)


class OpusError(Exception):
    """libopus is missing or refused its input."""


def packet_ticks(payload: bytes) -> int | None:
    """Return the duration of a packet in 48 kHz RTP ticks, None for no valid packet.

    Reads only the table-of-contents byte and the frame count (RFC 6716 section 3.1).
    """
    if not payload:
        return None
    toc = payload[0]
    config = toc >> 3
    if config < 12:
        ticks = _FRAME_TICKS_SILK[config & 3]
    elif config < 16:
        ticks = _FRAME_TICKS_HYBRID[config & 1]
    else:
        ticks = _FRAME_TICKS_CELT[config & 3]
    code = toc & 3
    if code == 3:
        if len(payload) < 2:
            return None
        ticks *= payload[1] & 0x3F
    elif code:
        ticks *= 2
    return ticks if 0 < ticks <= MAX_PACKET_MS * RTP_OPUS_HZ // 1000 else None


def has_fec(payload: bytes) -> bool:
    """Tell whether a packet carries a low-bitrate copy of the one before it (RFC 6716 4.2.4).

    The flag is the bit behind the voice-activity bits, one for each 20 ms SILK frame. Packets of
    several Opus frames (codes 2 and 3) answer False: no WebRTC sender puts FEC there.
    """
    ticks = packet_ticks(payload)
    if ticks is None or payload[0] >> 3 >= 16 or payload[0] & 3 > 1 or len(payload) < 2:
        return False
    frames = payload[0] & 3 and 2 or 1
    silk_frames = max(1, ticks // frames // 960)
    return bool(payload[1] >> (7 - silk_frames) & 1)


def _library_path() -> str:
    package = Path(av.__file__).parent
    for folder in (package.parent / "av.libs", package / ".dylibs"):
        for pattern in ("libopus-*", "libopus.*"):
            found = sorted(folder.glob(pattern))
            if found:
                return str(found[0])
    system = ctypes.util.find_library("opus")
    if system is None:
        raise OpusError("no libopus: neither in the PyAV wheel nor on this system (libopus0)")
    return system


@functools.cache
def _library() -> ctypes.PyDLL:
    # PyDLL keeps the GIL: a call lasts 20 to 200 us, less than a hand-over between threads costs.
    try:
        lib = ctypes.PyDLL(_library_path())
    except OSError as exc:
        raise OpusError(f"libopus cannot be loaded: {exc}") from exc
    pointer, size = ctypes.c_void_p, ctypes.c_int32
    lib.opus_strerror.restype = ctypes.c_char_p
    lib.opus_decoder_create.restype = pointer
    lib.opus_decoder_create.argtypes = (size, ctypes.c_int, ctypes.POINTER(ctypes.c_int))
    lib.opus_decoder_destroy.restype = None
    lib.opus_decoder_destroy.argtypes = (pointer,)
    lib.opus_decode.argtypes = (
        *(pointer, ctypes.c_char_p, size, pointer, ctypes.c_int, ctypes.c_int),
    )
    lib.opus_encoder_create.restype = pointer
    lib.opus_encoder_create.argtypes = (
        *(size, ctypes.c_int, ctypes.c_int, ctypes.POINTER(ctypes.c_int)),
    )
    lib.opus_encoder_destroy.restype = None
    lib.opus_encoder_destroy.argtypes = (pointer,)
    # Variadic: what follows the declared arguments needs an explicit type at the call.
    lib.opus_encoder_ctl.argtypes = (pointer, ctypes.c_int)
    lib.opus_encode.restype = size
    lib.opus_encode.argtypes = (pointer, ctypes.c_char_p, ctypes.c_int, pointer, size)
    return lib


def _check(code: int) -> int:
    if code < 0:
        reason = _library().opus_strerror(code)
        raise OpusError(f"libopus: {reason.decode()} ({code})")
    return code


def is_stereo(payload: bytes) -> bool:
    """Tell whether a packet carries two channels (RFC 6716 section 3.1)."""
    return bool(payload and payload[0] & 4)


class OpusDecoder:
    """Decode one stream to int16 PCM at `hz` (8, 12, 16, 24 or 48 kHz).

    With two `channels` their samples alternate in the PCM.
    """

    def __init__(self, hz: int = UPLINK_HZ, channels: int = 1) -> None:
        self._lib = _library()
        self._state: int | None = None
        error = ctypes.c_int()
        self._state = self._lib.opus_decoder_create(hz, channels, ctypes.byref(error))
        _check(error.value)
        self._step = hz // 400
        self._capacity = hz * MAX_PACKET_MS // 1000
        self._sample_bytes = SAMPLE_BYTES * channels
        self._pcm = ctypes.create_string_buffer(self._capacity * self._sample_bytes)
        self._address = ctypes.addressof(self._pcm)

    def __del__(self) -> None:
        if self._state is not None:
            self._lib.opus_decoder_destroy(self._state)

    def decode(self, payload: bytes) -> bytes:
        """Return the PCM of one packet. Raises OpusError for a payload that is not Opus."""
        # libopus takes length 0 for a lost packet and would conceal the whole buffer.
        if not payload:
            raise OpusError("empty payload")
        return self._decode(payload, self._capacity, 0)

    def decode_fec(self, next_payload: bytes, samples: int) -> bytes:
        """Return the `samples` lost right before `next_payload`, from the copy it carries.

        Where it carries none, libopus conceals instead.
        """
        if samples % self._step or samples > self._capacity:
            return self.conceal(samples)
        return self._decode(next_payload, samples, 1)

    def conceal(self, samples: int) -> bytes:
        """Return any number of extrapolated samples; they fade out while the loss lasts."""
        pcm = b""
        while len(pcm) < samples * self._sample_bytes:
            missing = samples - len(pcm) // self._sample_bytes
            # libopus conceals whole 2.5 ms steps.
            size = min(self._capacity, -(-missing // self._step) * self._step)
            pcm += self._decode(None, size, 0)
        return pcm[: samples * self._sample_bytes]

    def _decode(self, payload: bytes | None, samples: int, fec: int) -> bytes:
        length = len(payload) if payload is not None else 0
        decoded = self._lib.opus_decode(self._state, payload, length, self._address, samples, fec)
        if decoded < 0:
            _check(decoded)
        return ctypes.string_at(self._address, decoded * self._sample_bytes)


class OpusEncoder:
    """Encode one mono stream of speech, 20 ms at a time.

    `bitrate` in bit/s; `packet_loss_percent` is the loss that FEC is dimensioned for.
    """

    def __init__(
        self,
        hz: int = DOWNLINK_HZ,
        bitrate: int = 32_000,
        complexity: int = 3,
        fec: bool = True,
        packet_loss_percent: int = 10,
    ) -> None:
        self._lib = _library()
        self._state: int | None = None
        error = ctypes.c_int()
        self._state = self._lib.opus_encoder_create(hz, 1, _APPLICATION_VOIP, ctypes.byref(error))
        _check(error.value)
        self._samples = hz * PTIME_MS // 1000
        self._packet = ctypes.create_string_buffer(MAX_PACKET_BYTES)
        self._address = ctypes.addressof(self._packet)
        self.bitrate = bitrate
        """bit/s."""
        self.use_bitrate(bitrate)
        self._set(_SET_COMPLEXITY, complexity)
        self._set(_SET_SIGNAL, _SIGNAL_VOICE)
        self.expect_loss(packet_loss_percent if fec else 0)

    def __del__(self) -> None:
        if self._state is not None:
            self._lib.opus_encoder_destroy(self._state)

    def encode(self, pcm: bytes) -> bytes:
        """Return the packet of exactly 20 ms of int16 PCM."""
        if len(pcm) != self._samples * SAMPLE_BYTES:
            raise OpusError(f"{len(pcm)} bytes of PCM, not {self._samples * SAMPLE_BYTES}")
        length = self._lib.opus_encode(
            self._state, pcm, self._samples, self._address, MAX_PACKET_BYTES
        )
        if length < 0:
            _check(length)
        return ctypes.string_at(self._address, length)

    def reset(self) -> None:
        """Forget the signal so far: the next packet depends on none sent before it."""
        _check(self._lib.opus_encoder_ctl(self._state, _RESET_STATE))

    def expect_loss(self, percent: int) -> None:
        """Dimension FEC for this loss; 0 sends none, which is a fifth cheaper to encode."""
        self._set(_SET_INBAND_FEC, int(percent > 0))
        self._set(_SET_PACKET_LOSS_PERC, percent)

    def use_bitrate(self, bitrate: int) -> None:
        """Encode with so many bit/s from the next packet on, redundancy included."""
        self._set(_SET_BITRATE, bitrate)
        self.bitrate = bitrate

    def _set(self, request: int, value: int) -> None:
        _check(self._lib.opus_encoder_ctl(self._state, request, ctypes.c_int32(value)))
