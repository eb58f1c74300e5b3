"""What Prometheus reads at /metrics."""

import os
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

LATENCIES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
STAGES = ("read", "decode", "queue", "model", "encode")


class Metrics:
    """Counters of one process; with several workers, PROMETHEUS_MULTIPROC_DIR names where all of them count."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        take: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("gtsa_requests", "Requests answered", ["route", "status"], **take)
        self.latency = Histogram(
            "gtsa_request_seconds",
            "From a request's headers to the end of its answer",
            ["route"],
            buckets=LATENCIES,
            **take,
        )
        self.errors = Counter("gtsa_errors", "Requests and images refused, by code", ["code"], **take)
        self.failures = Counter("gtsa_model_failures", "Images that the model could not compute", **take)
        self.images = Counter("gtsa_images", "Images whose features were computed", **take)
        sizes = (1, 2, 4, 8, 16, 32, 64, 128)
        self.batch_size = Histogram("gtsa_batch_size", "Images in a batch of the model", buckets=sizes, **take)
        stages = Histogram(
            "gtsa_stage_seconds",
            f"Seconds in {', '.join(STAGES)}; model is of a batch",
            ["stage"],
            buckets=LATENCIES,
            **take,
        )
        self.stage = {name: stages.labels(name) for name in STAGES}
        live: dict[str, Any] = {"multiprocess_mode": "livesum", **take}
        self.pending = Gauge("gtsa_pending_images", "Images accepted and not answered yet", **live)
        self.pending_bytes = Gauge("gtsa_pending_bytes", "Bytes that accepted requests hold", **live)
        self.queue = Gauge("gtsa_queue_images", "Images that wait for the model", **live)

    def show(self, pending: int, pending_bytes: int, waiting: int) -> None:
        """Set what is a level, not a count."""
        self.pending.set(pending)
        self.pending_bytes.set(pending_bytes)
        self.queue.set(waiting)

    def text(self) -> bytes:
        """In Prometheus' text format; of all workers if there are several."""
        if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        return generate_latest(self.registry)
