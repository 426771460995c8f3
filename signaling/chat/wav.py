"""The head of a WAV file of what engines speak: PCM, int16, mono. Front."""

import struct

HZ = 24_000
UNKNOWN = 0xFFFF_FFFF
"""The length of a file that is written while it is played."""


def wav_head(num_bytes: int | None = None) -> bytes:
    """44 bytes; `num_bytes` of samples follow, None: nobody knows how many."""
    size = UNKNOWN if num_bytes is None else num_bytes
    whole = UNKNOWN if num_bytes is None else num_bytes + 36
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, HZ, 2 * HZ, 2, 16)
    return (
        struct.pack("<4sI4s", b"RIFF", whole, b"WAVE") + form + struct.pack("<4sI", b"data", size)
    )
