"""Speed of artifacts side by side: each in a process of its own, by turns, with what it holds in memory and its parity.

A process of its own, since runtimes in one process share threads and memory and slow each other down. By turns, since
a machine's clock and its other work change over a minute: what they do to one artifact they do to all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gtsa_kit.export.benchmark.workers import Opener, WarmupResult, WorkerProcess, processes
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.spec import SUFFIX
from gtsa_kit.models.encoder import Encoder

LEAST_CALLS = 5
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    SUFFIX["onnx"]: ("onnx", "onnxruntime"),
    SUFFIX["openvino"]: ("openvino",),
}


@dataclass(frozen=True)
class OpenFile:
    """Opens what `load` opens."""

    path: Path
    device: str = "auto"
    provider: str = "auto"
    engine_cache: Path | None = None
    fallback: bool = False

    @property
    def libraries(self) -> tuple[str, ...]:
        """What `load` imports for this file and not for every file."""
        return LIBRARIES.get(self.path.suffix, ())

    def __call__(self) -> Runner:
        """Open it."""
        return load(self.path, self.device, self.provider, self.engine_cache, self.fallback)


@dataclass(frozen=True)
class BatchShape:
    """Of a batch; height and width in pixels."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.height} x {self.width}"


@dataclass(frozen=True)
class Speed:
    """One artifact at one shape; latencies in milliseconds a batch, from a numpy array to numpy arrays."""

    name: str
    provider: str
    shape: BatchShape
    images_per_second: float
    """The batch by the median latency."""
    p50: float
    p95: float
    p99: float
    calls: int
    """Latencies that these are percentiles of."""
    load_seconds: float
    """Opening it, its libraries imported before."""
    first_seconds: float
    """The first call at this shape, which may compile or allocate."""
    memory_mb: float | None
    """Growth of resident memory from before the opening to the peak so far; None where the system does not say."""
    min_cosine: float | None
    """Of the worst patch token against the reference; None if this artifact is the reference."""
    max_abs: float | None
    """Of the feature map, likewise."""


def compare_speed(
    openers: Mapping[str, Opener],
    shapes: Sequence[BatchShape],
    images: ParityImages,
    seconds: float = 3.0,
    reference: Encoder | None = None,
    on_refusal: Callable[[str, BatchShape, str], None] = lambda *_: None,
    on_progress: Callable[[float], None] = lambda _: None,
) -> list[Speed]:
    """Measure artifacts by turns, each in a process that has all cores while the others sleep.

    Args:
        openers: By the name to report under.
        shapes: Measured one after the other.
        images: Images, prepared as each artifact says, outside the measured time; they repeat in larger batches.
        seconds: Of measured calls for each artifact and shape, of which there are at least `LEAST_CALLS`.
        reference: In float32 on the CPU; by default the first artifact that takes the shape.
        on_refusal: Told name, shape and reason of an artifact that does not take a shape; it has no row then.
        on_progress: Told the share of the work that is done, 0 to 1.

    Raises:
        ValueError: An artifact can't be opened; the message begins with its name.
        RuntimeError: One failed while it ran, or its process died; likewise.
    """
    rows: list[Speed] = []
    with processes(openers) as workers:
        for worker in workers:
            worker.ask("meet", images.images)
        for worker in workers:  # when all have met, so that nobody's imports fall into another's time
            worker.ask("open")
        for done, shape in enumerate(shapes):
            begun = _begin(workers, shape, on_refusal)
            if not begun:
                continue
            spans = _take_turns(list(begun), seconds, partial(_report, on_progress, done, len(shapes)))
            first = next(iter(begun.values())).feature_map
            expected = _encode(reference, images.images, shape) if reference else first
            rows += [_speed(worker, shape, what, spans[worker], expected) for worker, what in begun.items()]
    return rows


def _begin(
    workers: list[WorkerProcess], shape: BatchShape, on_refusal: Callable[[str, BatchShape, str], None]
) -> dict[WorkerProcess, WarmupResult]:
    """First calls, of those that take the shape."""
    answers = {worker: worker.ask("begin", shape.batch, (shape.height, shape.width)) for worker in workers}
    for worker, answer in answers.items():
        if not isinstance(answer, WarmupResult):
            on_refusal(worker.name, shape, answer)
    return {worker: answer for worker, answer in answers.items() if isinstance(answer, WarmupResult)}


def _take_turns(
    workers: list[WorkerProcess], seconds: float, on_share: Callable[[float], None]
) -> dict[WorkerProcess, list[float]]:
    """Latencies in seconds."""
    spans: dict[WorkerProcess, list[float]] = {worker: [] for worker in workers}
    while waiting := [w for w, found in spans.items() if sum(found) < seconds or len(found) < LEAST_CALLS]:
        for worker in waiting:
            spans[worker] += worker.ask("turn")
        shares = [min(sum(found) / seconds, 1.0) if seconds else 1.0 for found in spans.values()]
        on_share(sum(shares) / len(shares))
    return spans


def _report(on_progress: Callable[[float], None], done: int, of: int, share: float) -> None:
    on_progress((done + share) / of)


def _speed(
    worker: WorkerProcess, shape: BatchShape, begun: WarmupResult, spans: list[float], expected: np.ndarray
) -> Speed:
    p50, p95, p99 = (float(1e3 * np.percentile(spans, percent)) for percent in (50, 95, 99))
    compared = expected is not begun.feature_map
    min_cosine, max_abs = _difference(expected, begun.feature_map) if compared else (None, None)
    return Speed(
        name=worker.name,
        provider=begun.provider,
        shape=shape,
        images_per_second=1e3 * shape.batch / p50,
        p50=p50,
        p95=p95,
        p99=p99,
        calls=len(spans),
        load_seconds=begun.load_seconds,
        first_seconds=begun.first_seconds,
        memory_mb=worker.ask("memory"),
        min_cosine=min_cosine,
        max_abs=max_abs,
    )


def _encode(reference: Encoder, images: list[Image.Image], shape: BatchShape) -> np.ndarray:
    """Feature maps (N, D, h, w) of the images of a batch, each once."""
    prepare = reference.preprocessing
    prepared = [prepare(image, (shape.height, shape.width)) for image in images[: shape.batch]]
    with torch.inference_mode():
        encoded = reference.eval()(torch.from_numpy(np.stack(prepared)))
    return np.asarray(encoded.feature_map)


def _difference(expected: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Cosine of the worst token, and the largest difference; a NaN or another shape is as wrong as can be."""
    if expected.shape != found.shape:
        return -1.0, 1e30
    wanted, got = torch.from_numpy(expected).double(), torch.from_numpy(found).double()
    cosine = torch.cosine_similarity(wanted, got, dim=1).min().nan_to_num(-1.0)
    return float(cosine), float((wanted - got).abs().max().nan_to_num(1e30, posinf=1e30))
