"""Dynamic batching: images of one shape that wait at the same time are computed together."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from gtsa_kit.service.errors import APIError
from gtsa_kit.service.metrics import ServiceMetrics
from gtsa_kit.service.served_model import ModelOutput, ServedModel

Shape = tuple[int, ...]
BatchOutput = tuple[list[ModelOutput], float, float]
"""Outputs for each image of a batch, the time (`time.monotonic`) of its start, and its duration in seconds."""


@dataclass(frozen=True)
class InferenceResult:
    """Outputs for one image, without the batch axis, with timings and the size of its batch."""

    output: ModelOutput
    queue_seconds: float
    model_seconds: float
    batch_size: int


@dataclass(eq=False)
class QueuedImage:
    """Image that waits for the model, and the future of its result."""

    image: np.ndarray
    """Model input without the batch axis."""
    result: asyncio.Future[InferenceResult]
    heads: frozenset[str] = frozenset()
    """Names of the heads to compute."""
    queued_at: float = field(default_factory=time.monotonic)


class Batcher:
    """Dynamic batcher of one model. One thread calls the model, on batches of images of one shape, oldest first.

    A batch starts as soon as the model is free. A partial batch waits, at most `max_wait` seconds, only while other
    images are announced by `expect`; a lone request never waits. While one batch runs, a full second one may be
    submitted, so that a fast model never waits for the event loop.
    """

    def __init__(self, model: ServedModel, max_batch: int, max_wait: float, metrics: ServiceMetrics) -> None:
        """Create an idle batcher; all calls must come from one event loop.

        Args:
            model: The model.
            max_batch: Images of the model's base size in a batch; see `batch_limit`.
            max_wait: Seconds that a partial batch waits for announced images.
            metrics: Metrics to update.
        """
        self.model, self.max_batch, self.max_wait, self.metrics = model, max_batch, max_wait, metrics
        self._executor = ThreadPoolExecutor(1, "gtsa-model")
        self._queues: dict[Shape, deque[QueuedImage]] = {}
        self._changed = asyncio.Event()
        self._expected = 0
        self._running: set[Future[BatchOutput]] = set()
        self._scheduler: asyncio.Task[None] | None = None

    async def __call__(self, image: np.ndarray, heads: frozenset[str] = frozenset()) -> InferenceResult:
        """Compute the outputs for one image; canceling removes it from the queue.

        Args:
            image: Model input without the batch axis, as `runner.prepare` returns it.
            heads: Names of the heads to compute.

        Raises:
            APIError: 503, the model could not compute the image.
        """
        if self._scheduler is None:
            self._scheduler = asyncio.create_task(self._schedule())
        entry = QueuedImage(image, asyncio.get_running_loop().create_future(), heads)
        queue = self._queues.setdefault(image.shape, deque())
        queue.append(entry)
        if self._running or self._expected:
            self._notify()
        else:  # nothing to wait for: start the batch directly, without waking the scheduler
            self._start(image.shape)
        try:
            return await entry.result
        except asyncio.CancelledError:
            if entry in queue:
                queue.remove(entry)
            raise

    @contextmanager
    def expect(self) -> Iterator[None]:
        """Announce one further image for the duration of the block."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1
            self._notify()

    @property
    def alive(self) -> bool:
        """False if the scheduler has ended, after which no image would be computed."""
        return self._scheduler is None or not self._scheduler.done()

    @property
    def queued(self) -> int:
        """Number of images in the queue."""
        return sum(map(len, self._queues.values()))

    async def close(self) -> None:
        """Wait for the running batch and end the thread."""
        if self._scheduler is not None:
            self._scheduler.cancel()
        while self._running:
            await asyncio.wait(map(asyncio.wrap_future, self._running))
        self._executor.shutdown(wait=True)

    def batch_limit(self, shape: Shape) -> int:
        """Return the number of images of this shape in a batch; larger images get fewer, to bound the memory."""
        base, size = 3 * self.model.preprocessing.size**2, int(np.prod(shape))
        count = min(self.max_batch * base // max(base, size), self.model.batch_limit(size // 3))
        return self.model.manifest.range_of("batch").clamp(max(1, count))

    async def _schedule(self) -> None:
        while True:
            shape = self._oldest_shape()
            if shape is None or not self._can_start(shape):
                await self._wait_for_change(None)
                continue
            remaining = self._queues[shape][0].queued_at + self.max_wait - time.monotonic()
            if self._expected and remaining > 0 and not self._is_full(shape):
                await self._wait_for_change(remaining)
                continue
            self._start(shape)

    def _start(self, shape: Shape) -> None:
        """Submit a batch of the oldest images of this shape."""
        queue, limit = self._queues[shape], self.batch_limit(shape)
        self._submit([queue.popleft() for _ in range(min(limit, len(queue)))])

    def _submit(self, entries: list[QueuedImage]) -> None:
        """Submit a batch to the model's thread."""
        loop = asyncio.get_running_loop()
        future = self._executor.submit(self._run, entries)
        self._running.add(future)
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(self._finish, entries, done))

    def _notify(self) -> None:
        """Wake the scheduler if images are queued."""
        if self.queued:
            self._changed.set()

    async def _wait_for_change(self, seconds: float | None) -> None:
        """Wait until the state changes or the time has passed."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _oldest_shape(self) -> Shape | None:
        for shape in [shape for shape, queue in self._queues.items() if not queue]:
            del self._queues[shape]
        return min(self._queues, key=lambda shape: self._queues[shape][0].queued_at, default=None)

    def _is_full(self, shape: Shape) -> bool:
        return len(self._queues[shape]) >= self.batch_limit(shape)

    def _can_start(self, shape: Shape) -> bool:
        return not self._running or (len(self._running) == 1 and self._is_full(shape))

    def _finish(self, entries: list[QueuedImage], future: "Future[BatchOutput]") -> None:
        """Deliver the results of a batch.

        A batch that failed is repeated image by image, so that only the image that causes the failure is rejected.
        """
        self._running.discard(future)
        error = future.exception()
        if error is None:
            self._deliver(entries, *future.result())
        elif len(entries) > 1:
            for entry in entries:
                self._submit([entry])
        elif not entries[0].result.done():
            self.metrics.failures.inc()
            entries[0].result.set_exception(_model_failed(error))
        self._notify()

    def _deliver(self, entries: list[QueuedImage], outputs: list[ModelOutput], started: float, seconds: float) -> None:
        self.metrics.batch_size.observe(len(entries))
        self.metrics.stage["model"].observe(seconds)
        for i, entry in enumerate(entries):
            if entry.result.done():  # cancelled while the batch was computed
                continue
            self.metrics.stage["queue"].observe(started - entry.queued_at)
            entry.result.set_result(InferenceResult(outputs[i], started - entry.queued_at, seconds, len(entries)))

    def _run(self, entries: list[QueuedImage]) -> BatchOutput:
        """Run the model on a batch; called in the thread of the model."""
        started = time.monotonic()
        outputs = self.model(np.stack([entry.image for entry in entries]), [entry.heads for entry in entries])
        return outputs, started, time.monotonic() - started


def _model_failed(cause: BaseException) -> APIError:
    error = APIError(503, "model_failed", "the model could not compute this image", headers={"Retry-After": "1"})
    error.__cause__ = cause
    return error
