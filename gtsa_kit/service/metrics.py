"""Prometheus metrics of the service."""

import os
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

LATENCY_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
"""Upper bounds of the histogram buckets of durations, in seconds."""
BATCH_SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128)
STAGES = ("read", "decode", "queue", "model", "encode")
"""Stages of a request that are timed, in order."""


class ServiceMetrics:
    """Metrics of one process. Several workers all write to the folder in the variable PROMETHEUS_MULTIPROC_DIR."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        common: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("gtsa_requests", "Requests answered", ["route", "status"], **common)
        self.latency = Histogram(
            "gtsa_request_seconds",
            "Seconds from the headers of a request to the end of its response",
            ["route"],
            buckets=LATENCY_BUCKETS,
            **common,
        )
        self.errors = Counter("gtsa_errors", "Errors of requests and of single images, by code", ["code"], **common)
        self.failures = Counter("gtsa_model_failures", "Images that the model could not compute", **common)
        self.images = Counter("gtsa_images", "Images whose features were computed", **common)
        self.batch_size = Histogram("gtsa_batch_size", "Images per model batch", buckets=BATCH_SIZE_BUCKETS, **common)
        stages = Histogram(
            "gtsa_stage_seconds",
            f"Seconds per stage ({', '.join(STAGES)}); model counts whole batches",
            ["stage"],
            buckets=LATENCY_BUCKETS,
            **common,
        )
        self.stage = {name: stages.labels(name) for name in STAGES}
        summed: dict[str, Any] = {"multiprocess_mode": "livesum", **common}
        self.pending = Gauge("gtsa_pending_images", "Images accepted and not answered yet", **summed)
        self.pending_bytes = Gauge("gtsa_pending_bytes", "Bytes that accepted requests hold", **summed)
        self.queue = Gauge("gtsa_queue_images", "Images waiting for the model", **summed)

    def set_gauges(self, pending: int, pending_bytes: int, queued: int) -> None:
        """Set the gauges to the current counts of images and bytes."""
        self.pending.set(pending)
        self.pending_bytes.set(pending_bytes)
        self.queue.set(queued)

    def to_text(self) -> bytes:
        """Return all metrics in Prometheus' text format, summed over the workers if there are several."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        return generate_latest(self.registry)
