"""Speed of artifacts side by side: throughput, latency, memory and difference from the encoder.

Each artifact has a process of its own, since runtimes in one process share threads and memory and slow each other
down. The processes are measured in short alternating time slices, since the clock rate and the load of a machine change
over a minute: such a change then affects every artifact alike.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from gtsa_kit.export.benchmark.difference import OutputDifference, compare_outputs, reference_outputs
from gtsa_kit.export.benchmark.workers import Opener, WarmupResult, WorkerProcess, start_workers
from gtsa_kit.export.formats.content import ReportWarning
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.export.spec import SUFFIX
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.task_model import TaskModel

MIN_CALLS = 5
"""Minimum number of measured calls of each artifact at each shape."""
LIBRARIES: Mapping[str, tuple[str, ...]] = {
    SUFFIX["onnx"]: ("onnx", "onnxruntime"),
    SUFFIX["openvino"]: ("openvino",),
}
"""Modules that `load` imports for a file, by suffix."""


@dataclass(frozen=True)
class OpenFile:
    """Picklable opener of a file, a run folder or weights by `load`."""

    path: Path
    options: LoadOptions = field(default_factory=LoadOptions)

    @property
    def libraries(self) -> tuple[str, ...]:
        """Modules that `load` imports for this file, and not for every file."""
        return LIBRARIES.get(self.path.suffix, ())

    def __call__(self) -> Runner:
        """Open the file; the parent process says whether it has a report."""
        warnings.simplefilter("ignore", ReportWarning)
        return load(self.path, **self.options.arguments())


@dataclass(frozen=True)
class BatchShape:
    """Batch size, and image height and width in pixels."""

    batch: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.height} x {self.width}"


@dataclass(frozen=True)
class Speed:
    """Speed of one artifact at one shape; a latency is that of a batch, numpy array to numpy arrays, in ms."""

    name: str
    provider: str
    shape: BatchShape
    images_per_second: float
    """Batch size divided by the median latency."""
    p50: float
    p95: float
    p99: float
    calls: int
    """Number of latencies that the percentiles are computed from."""
    load_seconds: float
    """Time to open the artifact; its libraries were imported before."""
    first_seconds: float
    """Time of the first call at this shape, which may compile or allocate."""
    memory_mb: float | None
    """Growth of resident memory from before opening to the peak so far; None where the system does not report it."""
    min_cosine: float | None
    """Cosine of the worst patch token to the reference; None for task models, and if this artifact is the reference."""
    max_abs: float | None
    """Largest absolute difference of feature map or logits; None for masks, and if this artifact is the reference."""
    agreement: float | None = None
    """Share of pixels or images with the same best class as the reference, or of detections that both have, 0 to 1, of
    task models."""
    problem: str = ""
    """Reason why the outputs can't be compared: "not finite", or another shape."""


def compare_speed(
    openers: Mapping[str, Opener],
    shapes: Sequence[BatchShape],
    images: ParityImages,
    seconds: float = 3.0,
    reference: Encoder | TaskModel | None = None,
    on_skip: Callable[[str, BatchShape, str], None] = lambda *_: None,
    on_progress: Callable[[float], None] = lambda _: None,
    on_open: Callable[[str, str], None] = lambda *_: None,
) -> list[Speed]:
    """Measure artifacts in alternating time slices; while one runs on all cores, the others are idle.

    Args:
        openers: Openers of the artifacts, by the name to report.
        shapes: Shapes to measure, one after the other.
        images: Images to measure on. Each artifact's preprocessing is applied outside of the measured time; images
            repeat in larger batches.
        seconds: Measured time of each artifact at each shape; it is longer if `MIN_CALLS` calls take longer.
        reference: Float32 model on the CPU to compare with; by default the first artifact that accepts the shape.
        on_skip: Called with (name, shape, reason) for an artifact that does not accept a shape and gets no row for it.
        on_progress: Called with the finished share of the work, 0 to 1.
        on_open: Called with (name, note) of each opened artifact; see `Runner.note`.

    Raises:
        ValueError: An artifact can't be opened; the message begins with its name.
        RuntimeError: An artifact failed while it ran, or its process died; the message begins with its name.
    """
    rows: list[Speed] = []
    with start_workers(openers) as workers:
        for worker in workers:
            worker.call("set_inputs", images.images)
        tasks = set()
        for worker in workers:  # all imports are done by now, so none runs while another artifact is opened
            on_open(worker.name, worker.call("open"))
            tasks.add(worker.call("task"))
        is_task = _check_tasks(tasks, reference)
        for done, shape in enumerate(shapes):
            warm = _warm_up(workers, shape, on_skip)
            if not warm:
                continue
            report = partial(_report_progress, on_progress, done, len(shapes))
            latencies = _measure_alternately(list(warm), seconds, report)
            first = next(iter(warm.values())).values
            used, size = images.images[: shape.batch], (shape.height, shape.width)
            expected = reference_outputs(reference, used, size) if reference else first
            rows += [
                _speed(worker, shape, result, latencies[worker], expected, is_task) for worker, result in warm.items()
            ]
    return rows


def _check_tasks(tasks: set[str], reference: Encoder | TaskModel | None) -> bool:
    """Return whether all artifacts are task models.

    Raises:
        ValueError: Artifacts are of different tasks, or of another one than the reference.
    """
    tasks = tasks | ({(reference.spec.task if isinstance(reference, TaskModel) else "")} if reference else set())
    if len(tasks) > 1:
        names = " and ".join(sorted(f"fine-tuned to {task}" if task else "encoders" for task in tasks))
        raise ValueError(f"the models are {names}, whose outputs can't be compared; measure them apart")
    return tasks != {""}


def _warm_up(
    workers: list[WorkerProcess], shape: BatchShape, on_skip: Callable[[str, BatchShape, str], None]
) -> dict[WorkerProcess, WarmupResult]:
    """Run the first call of every worker, and return the results of those that accept the shape."""
    results = {worker: worker.call("warm_up", shape.batch, (shape.height, shape.width)) for worker in workers}
    for worker, result in results.items():
        if not isinstance(result, WarmupResult):
            on_skip(worker.name, shape, result)
    return {worker: result for worker, result in results.items() if isinstance(result, WarmupResult)}


def _measure_alternately(
    workers: list[WorkerProcess], seconds: float, on_progress: Callable[[float], None]
) -> dict[WorkerProcess, list[float]]:
    """Return the latencies of each worker in seconds."""
    latencies: dict[WorkerProcess, list[float]] = {worker: [] for worker in workers}
    while unfinished := [w for w, spans in latencies.items() if sum(spans) < seconds or len(spans) < MIN_CALLS]:
        for worker in unfinished:
            latencies[worker] += worker.call("measure")
        shares = [min(sum(spans) / seconds, 1.0) if seconds else 1.0 for spans in latencies.values()]
        on_progress(sum(shares) / len(shares))
    return latencies


def _report_progress(on_progress: Callable[[float], None], done: int, total: int, share: float) -> None:
    on_progress((done + share) / total)


def _speed(
    worker: WorkerProcess,
    shape: BatchShape,
    warm: WarmupResult,
    latencies: list[float],
    expected: np.ndarray,
    is_task: bool,
) -> Speed:
    p50, p95, p99 = (float(1e3 * np.percentile(latencies, percent)) for percent in (50, 95, 99))
    difference = OutputDifference() if expected is warm.values else compare_outputs(expected, warm.values, is_task)
    return Speed(
        name=worker.name,
        provider=warm.provider,
        shape=shape,
        images_per_second=1e3 * shape.batch / p50,
        p50=p50,
        p95=p95,
        p99=p99,
        calls=len(latencies),
        load_seconds=warm.load_seconds,
        first_seconds=warm.first_seconds,
        memory_mb=worker.call("memory"),
        **difference._asdict(),
    )
