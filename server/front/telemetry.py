"""Statistics of the front: `/api/stats` as JSON, `/metrics` for Prometheus."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from engine.ipc.child_process import LoopLag, process_usage
from server.control import CallStats
from server.front.front import Front
from server.front.starting import Starting
from server.front.supervisor import Supervised

LATENCY_QUANTILES = ("p50", "p95", "p99")


class Telemetry(Collector):
    """Reads the front's tables when asked; keeps nothing but the start time and the loop lag."""

    def __init__(self, front: Front, version: str, kind: str, lag: LoopLag) -> None:
        self._front = front
        self._version = version
        self._kind = kind
        self._lag = lag
        self._started = time.monotonic()
        self.connections: Callable[[], dict[str, int]] | None = None
        """The acceptor's counts, once there is one."""
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def stats(self) -> dict[str, Any]:
        """The whole of `/api/stats`; call `Front.refresh` first."""
        return {
            "time": time.time(),
            "uptime_s": round(time.monotonic() - self._started, 1),
            "version": self._version,
            "ready": self._front.is_ready,
            "processes": self._processes(),
            "calls": [self._call(call) for call in self._calls()],
            "past_calls": msgspec.to_builtins(list(self._front.calls.past.newest_first())),
            "calls_placed": self._front.calls.placed_total,
            "calls_ended": dict(self._front.calls.ended),
            "queue": {
                "length": len(self._front.broker.waiting()),
                "max": self._front.broker.max_queue,
                "entries": [waiting._asdict() for waiting in self._front.broker.waiting()],
            },
            "slots": {
                "total": self._front.broker.slots,
                "used": self._front.broker.used,
                "capacity": self._front.broker.capacity,
            },
            "chats": {
                "slots": self._front.broker.chat_slots,
                "used": self._front.broker.chats,
                "waiting": self._front.chats.queue.num_waiting,
                "served": self._front.chats.served_total,
            },
            "engines": self._engines(),
            "connections": self.connections() if self.connections is not None else {},
        }

    def exposition(self) -> bytes:
        """Prometheus text format."""
        return generate_latest(self._registry)

    # ------------------------------------------------------------------ JSON

    def _processes(self) -> list[dict[str, Any]]:
        cpu_s, rss_bytes = process_usage()
        front = {
            "role": "front",
            "name": "front",
            "pid": os.getpid(),
            "state": "ready",
            "restarts": self._front.life - 1,
            "uptime_s": round(time.monotonic() - self._started, 1),
            "cpu_s": round(cpu_s, 2),
            "rss_bytes": rss_bytes,
            "loop_lag_ms": round(self._lag.take(), 2),
            "tasks": len(asyncio.all_tasks()),
        }
        return [front, *map(self._process, self._front.supervisor.children.values())]

    def _process(self, child: Supervised) -> dict[str, Any]:
        name = child.spec.name
        usage = self._front.stats.engines.get(name) or self._front.stats.workers.get(name)
        row: dict[str, Any] = {
            "role": child.spec.role,
            "name": name,
            "pid": child.pid,
            "state": child.state,
            "restarts": child.restarts,
            "uptime_s": round(time.monotonic() - child.started_at, 1),
            "reason": child.reason,
        }
        if child.state == "starting":
            row |= msgspec.to_builtins(Starting.of(child, time.monotonic()))
        if usage is not None and child.state == "ready":
            row |= {
                "cpu_s": round(usage.cpu_s, 2),
                "rss_bytes": usage.rss_bytes,
                "loop_lag_ms": round(usage.loop_lag_ms, 2),
                "tasks": usage.tasks,
            }
        return row

    def _calls(self) -> Iterator[CallStats]:
        for stats in self._front.stats.workers.values():
            for call in stats.calls:
                if call.call_id in self._front.calls:
                    yield call

    def _call(self, stats: CallStats) -> dict[str, Any]:
        call = self._front.calls[stats.call_id]
        row: dict[str, Any] = msgspec.to_builtins(stats)
        return row | {
            "remote": call.remote,
            "worker": call.worker.spec.name,
            "engine": self._front.broker.engine_of(stats.call_id),
        }

    def _engines(self) -> list[dict[str, Any]]:
        rows = []
        for name, stats in self._front.stats.engines.items():
            latencies = {stage: msgspec.to_builtins(q) for stage, q in stats.stages_ms.items()}
            units: dict[str, Any] = {"count": stats.units}
            if "unit" in stats.stages_ms:
                whole = stats.stages_ms["unit"]
                units |= {"p50_ms": whole.p50, "p99_ms": whole.p99}
            rows.append(
                {
                    "name": name,
                    "kind": self._kind,
                    "slots": stats.slots,
                    "slots_used": stats.slots_used,
                    "capacity": stats.capacity,
                    "unit_p99_ms": stats.unit_p99_ms,
                    "late_share": stats.late_share,
                    "oldest_pending_ms": stats.oldest_pending_ms,
                    "dropped_ms": stats.dropped_ms,
                    "units": units,
                    "latency_ms": latencies,
                }
            )
        return rows

    # ------------------------------------------------------------------ Prometheus

    def collect(self) -> Iterator[Metric]:
        """Called by `generate_latest`."""
        front = self._front
        yield GaugeMetricFamily("omnicall_ready", "Whether calls are taken.", value=front.is_ready)
        yield GaugeMetricFamily("omnicall_calls", "Calls open.", value=len(front.calls))
        yield CounterMetricFamily(
            "omnicall_calls_placed", "Calls set up.", value=front.calls.placed_total
        )
        ended = CounterMetricFamily("omnicall_calls_ended", "Calls over.", labels=["reason"])
        for reason, count in front.calls.ended.items():
            ended.add_metric([reason], count)
        yield ended
        waiting = len(front.broker.waiting())
        yield GaugeMetricFamily("omnicall_queue_length", "Calls waiting for a slot.", value=waiting)
        slots = GaugeMetricFamily("omnicall_engine_slots", "Engine slots.", labels=["state"])
        slots.add_metric(["used"], front.broker.used)
        slots.add_metric(["free"], front.broker.slots - front.broker.used)
        yield slots
        yield CounterMetricFamily(
            "omnicall_chats_served", "Chats answered.", value=front.chats.served_total
        )
        chats = GaugeMetricFamily("omnicall_chats", "Chats under way.", labels=["state"])
        chats.add_metric(["answered"], front.broker.chats)
        chats.add_metric(["waiting"], front.chats.queue.num_waiting)
        yield chats
        if self.connections is not None:
            yield from _connection_metrics(self.connections())
        yield from self._process_metrics()
        yield from self._engine_metrics()
        yield self._latency_metric()
        yield from self._media_metrics()

    def _process_metrics(self) -> Iterator[Metric]:
        columns: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
            "cpu_s": CounterMetricFamily(
                "omnicall_process_cpu_seconds", "CPU time.", labels=["process"]
            ),
            "rss_bytes": GaugeMetricFamily(
                "omnicall_process_resident_bytes", "Resident memory.", labels=["process"]
            ),
            "loop_lag_ms": GaugeMetricFamily(
                "omnicall_process_loop_lag_ms", "Worst event loop lag lately.", labels=["process"]
            ),
            "restarts": CounterMetricFamily(
                "omnicall_process_restarts", "Restarts.", labels=["process"]
            ),
        }
        for row in self._processes():
            for column, metric in columns.items():
                if column in row:
                    metric.add_metric([row["name"]], row[column])
        yield from columns.values()

    def _engine_metrics(self) -> Iterator[Metric]:
        columns: dict[str, CounterMetricFamily | GaugeMetricFamily] = {
            "capacity": GaugeMetricFamily(
                "omnicall_engine_capacity",
                "Calls that an engine can serve at its present pace.",
                labels=["engine"],
            ),
            "unit_p99_ms": GaugeMetricFamily(
                "omnicall_engine_unit_p99_ms",
                "Time from a unit's last sound to its end, over the last 10 s.",
                labels=["engine"],
            ),
            "late_share": GaugeMetricFamily(
                "omnicall_engine_late_share",
                "Share of the units of the last 10 s that took over a second.",
                labels=["engine"],
            ),
            "dropped_ms": CounterMetricFamily(
                "omnicall_engine_dropped_ms", "Sound that was skipped.", labels=["engine"]
            ),
        }
        for engine in self._engines():
            for column, metric in columns.items():
                metric.add_metric([engine["name"]], engine[column])
        yield from columns.values()

    def _latency_metric(self) -> GaugeMetricFamily:
        metric = GaugeMetricFamily(
            "omnicall_engine_stage_ms",
            "Duration of an engine's stages over its last units.",
            labels=["engine", "stage", "quantile"],
        )
        for engine in self._engines():
            for stage, quantiles in engine["latency_ms"].items():
                for quantile in LATENCY_QUANTILES:
                    metric.add_metric([engine["name"], stage, quantile], quantiles[quantile])
        return metric

    def _media_metrics(self) -> Iterator[Metric]:
        names = {
            "packetsReceived": "RTP packets received in open calls.",
            "packetsLost": "RTP packets lost in open calls.",
            "concealedSamples": "Samples concealed in open calls.",
            "packetsSent": "RTP packets sent in open calls.",
        }
        totals = dict.fromkeys(names, 0.0)
        for call in self._calls():
            for row in call.stats:
                for name in names:
                    totals[name] += row.get(name, 0)
        for name, text in names.items():
            yield GaugeMetricFamily(f"omnicall_open_calls_{name}", text, value=totals[name])


def _connection_metrics(counts: dict[str, int]) -> Iterator[Metric]:
    connections = GaugeMetricFamily(
        "omnicall_http_connections", "HTTP connections.", labels=["state"]
    )
    connections.add_metric(["half_open"], counts["half_open"])
    connections.add_metric(["served"], counts["open"] - counts["half_open"])
    yield connections
    yield CounterMetricFamily(
        "omnicall_http_connections_dismissed",
        "HTTP connections ended or refused to make room.",
        value=counts["dismissed"],
    )
