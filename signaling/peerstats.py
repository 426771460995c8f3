"""Statistics of one peer connection with the names and units of W3C webrtc-stats. Media worker.

aiortc deviates: jitter in RTP clock units, fractionLost 0 to 255, timestamps as datetime, and no
candidate pairs, candidates or data channels at all.
"""

from typing import Any

from aiortc import RTCPeerConnection
from aiortc.stats import RTCStats

from signaling.channel import EventChannel
from signaling.wire import Wire

CLOCK_HZ = {"audio": 48_000, "video": 90_000}

Report = dict[str, dict[str, Any]]


async def collect(pc: RTCPeerConnection, wire: Wire, channel: EventChannel) -> Report:
    """Return the report: id -> members, times in seconds except `timestamp` in milliseconds."""
    now_ms = 0.0
    report: Report = {}
    for entry in (await pc.getStats()).values():
        members = _members(entry)
        report[entry.id] = members
        now_ms = max(now_ms, members["timestamp"])
    for transport_id, turned_away in wire.turned_away():
        # Not of webrtc-stats.
        report.get(transport_id, {})["datagramsTurnedAway"] = turned_away
    _add_candidate_pairs(report, wire, now_ms)
    if channel.channel is not None:
        report["data-channel_0"] = {
            "id": "data-channel_0",
            "type": "data-channel",
            "timestamp": now_ms,
            "label": channel.channel.label,
            "protocol": channel.channel.protocol,
            "dataChannelIdentifier": channel.channel.id,
            "state": channel.channel.readyState,
            "messagesSent": channel.messages_sent,
            "bytesSent": channel.bytes_sent,
            "messagesReceived": channel.messages_received,
            "bytesReceived": channel.bytes_received,
        }
    return report


def _members(entry: RTCStats) -> dict[str, Any]:
    # All are plain values; `dataclasses.asdict` would copy each of them deeply.
    members = {name: value for name, value in vars(entry).items() if value is not None}
    members.pop("trackId", None)
    for stamp in ("timestamp", "remoteTimestamp"):
        if stamp in members:
            members[stamp] = members[stamp].timestamp() * 1000
    if "jitter" in members:
        members["jitter"] /= CLOCK_HZ[members["kind"]]
    if "fractionLost" in members:
        members["fractionLost"] /= 256
    return members


def _add_candidate_pairs(report: Report, wire: Wire, now_ms: float) -> None:
    for transport_id, pair, members in wire.candidate_pairs():
        transport = report.get(transport_id, {})
        pair_id = f"candidate-pair_{transport_id}"
        report[pair_id] = {
            "id": pair_id,
            "type": "candidate-pair",
            "timestamp": now_ms,
            "transportId": transport_id,
            "localCandidateId": f"local-candidate_{transport_id}",
            "remoteCandidateId": f"remote-candidate_{transport_id}",
            **members,
        }
        for name in ("bytesSent", "bytesReceived", "packetsSent", "packetsReceived"):
            if name in transport:
                report[pair_id][name] = transport[name]
        if transport:
            transport["selectedCandidatePairId"] = pair_id
        sides = (("local", pair.local_candidate), ("remote", pair.remote_candidate))
        for side, candidate in sides:
            candidate_id = f"{side}-candidate_{transport_id}"
            report[candidate_id] = {
                "id": candidate_id,
                "type": f"{side}-candidate",
                "timestamp": now_ms,
                "transportId": transport_id,
                "address": candidate.host,
                "port": candidate.port,
                "protocol": candidate.transport.lower(),
                "candidateType": candidate.type,
                "priority": candidate.priority,
                "foundation": candidate.foundation,
            }
