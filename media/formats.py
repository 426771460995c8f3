"""Rates and sizes of the sound between tracks and model: int16 mono PCM, 20 ms at a time."""

SAMPLE_BYTES = 2
"""Bytes of one PCM sample (int16, little endian)."""

PTIME_MS = 20
"""Milliseconds of sound in one packet we send and in one piece the uplink delivers."""
PTIME_S = PTIME_MS / 1000

UPLINK_HZ = 16_000
"""Rate of the PCM that the model hears."""
DOWNLINK_HZ = 24_000
"""Rate of the PCM that the model speaks."""
RTP_OPUS_HZ = 48_000
"""RTP clock of Opus, whatever rate it carries (RFC 7587 section 4.1)."""
RTP_VIDEO_HZ = 90_000
"""RTP clock of VP8 and H.264 (RFC 7741, RFC 6184)."""

UPLINK_PACKET_SAMPLES = UPLINK_HZ * PTIME_MS // 1000
UPLINK_PACKET_BYTES = UPLINK_PACKET_SAMPLES * SAMPLE_BYTES
DOWNLINK_PACKET_SAMPLES = DOWNLINK_HZ * PTIME_MS // 1000
DOWNLINK_PACKET_BYTES = DOWNLINK_PACKET_SAMPLES * SAMPLE_BYTES
RTP_OPUS_PACKET_TICKS = RTP_OPUS_HZ * PTIME_MS // 1000

RTP_TICKS_PER_UPLINK_SAMPLE = RTP_OPUS_HZ // UPLINK_HZ
