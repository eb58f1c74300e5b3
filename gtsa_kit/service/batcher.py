"""Dynamic batching: images of one size that wait at the same time go through the model together."""

import asyncio
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from gtsa_kit.export import Runner
from gtsa_kit.export.runtime.batching import run_in_batches
from gtsa_kit.models.encoder import Features
from gtsa_kit.service.errors import Refusal
from gtsa_kit.service.metrics import Metrics

Shape = tuple[int, ...]
Batch = tuple[Features, float, float]
"""Of a batch: features, when it began, the seconds it took."""


@dataclass(frozen=True)
class Result:
    """Features of one image, without the batch axis, and how it came to them."""

    features: Features
    queue_seconds: float
    model_seconds: float
    batch: int


@dataclass(eq=False)
class Job:
    """One image that waits."""

    image: np.ndarray
    done: asyncio.Future[Result]
    arrived: float = field(default_factory=time.monotonic)


class Batcher:
    """Owns the runner: one thread calls it, on batches of one size, oldest first.

    A batch starts as soon as the model is free. Only when others are on their way (`expect`) does one that is not full
    wait for them, `max_wait` seconds at most; a lone request never waits. While one batch runs a second may stand ready
    behind it if it is full, so that a fast model never waits for this loop.
    """

    def __init__(self, runner: Runner, max_batch: int, max_wait: float, metrics: Metrics) -> None:
        """Nothing starts before the first image; all calls come from one event loop."""
        self.runner, self.max_batch, self.max_wait, self.metrics = runner, max_batch, max_wait, metrics
        self._executor = ThreadPoolExecutor(1, "gtsa-model")
        self._groups: dict[Shape, deque[Job]] = {}
        self._changed = asyncio.Event()
        self._expected = 0
        self._running: set[Future[Batch]] = set()
        self._loop_task: asyncio.Task[None] | None = None

    async def __call__(self, image: np.ndarray) -> Result:
        """Features of one image; cancelling takes it out of the queue.

        Args:
            image: As `runner.prepare` makes it.
        """
        if self._loop_task is None:
            self._loop_task = asyncio.create_task(self._work())
        job = Job(image, asyncio.get_running_loop().create_future())
        group = self._groups.setdefault(image.shape, deque())
        group.append(job)
        if self._running or self._expected:
            self._look()
        else:  # nobody to wait for: what the loop would do, without the way through it
            self._start(image.shape)
        try:
            return await job.done
        except asyncio.CancelledError:
            if job in group:
                group.remove(job)
            raise

    @contextmanager
    def expect(self) -> Iterator[None]:
        """Within it, one image more is on its way."""
        self._expected += 1
        try:
            yield
        finally:
            self._expected -= 1
            self._look()

    @property
    def alive(self) -> bool:
        """Whether its loop runs, or has not begun."""
        return self._loop_task is None or not self._loop_task.done()

    @property
    def waiting(self) -> int:
        """Images in the queue."""
        return sum(map(len, self._groups.values()))

    async def close(self) -> None:
        """Let the batch that runs end, and the thread with it."""
        if self._loop_task is not None:
            self._loop_task.cancel()
        while self._running:
            await asyncio.wait(map(asyncio.wrap_future, self._running))
        self._executor.shutdown(wait=True)

    def batch_limit(self, shape: Shape) -> int:
        """Images of this shape in a batch: fewer of larger ones, so that a batch's memory stays what it is."""
        base = 3 * self.runner.preprocessing.size**2
        count = self.max_batch * base // max(base, int(np.prod(shape)))
        return self.runner.manifest.range_of("batch").clamp(max(1, count))

    async def _work(self) -> None:
        while True:
            shape = self._oldest()
            if shape is None or not self._may_start(shape):
                await self._change(None)
                continue
            hurry = self._groups[shape][0].arrived + self.max_wait - time.monotonic()
            if self._expected and hurry > 0 and not self._full(shape):
                await self._change(hurry)
                continue
            self._start(shape)

    def _start(self, shape: Shape) -> None:
        """A batch of the oldest of this shape."""
        group, limit = self._groups[shape], self.batch_limit(shape)
        jobs = [group.popleft() for _ in range(min(limit, len(group)))]
        self._submit(jobs)

    def _submit(self, jobs: list[Job]) -> None:
        """To the model's thread."""
        loop = asyncio.get_running_loop()
        future = self._executor.submit(self._run, [job.image for job in jobs])
        self._running.add(future)
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(self._finish, jobs, done))

    def _look(self) -> None:
        """Let the loop think again, if there is anything for it to start."""
        if self.waiting:
            self._changed.set()

    async def _change(self, seconds: float | None) -> None:
        """Until something is new, or the time is up."""
        self._changed.clear()
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _oldest(self) -> Shape | None:
        for shape in [shape for shape, group in self._groups.items() if not group]:
            del self._groups[shape]
        return min(self._groups, key=lambda shape: self._groups[shape][0].arrived, default=None)

    def _full(self, shape: Shape) -> bool:
        return len(self._groups[shape]) >= self.batch_limit(shape)

    def _may_start(self, shape: Shape) -> bool:
        return not self._running or (len(self._running) == 1 and self._full(shape))

    def _finish(self, jobs: list[Job], future: "Future[Batch]") -> None:
        """Deliver a batch; one that fails is tried image by image, so that only the image that fails is refused."""
        self._running.discard(future)
        error = future.exception()
        if error is None:
            self._deliver(jobs, *future.result())
        elif len(jobs) > 1:
            for job in jobs:
                self._submit([job])
        elif not jobs[0].done.done():
            self.metrics.failures.inc()
            jobs[0].done.set_exception(_model_failed(error))
        self._look()

    def _deliver(self, jobs: list[Job], features: Features, started: float, seconds: float) -> None:
        self.metrics.batch_size.observe(len(jobs))
        self.metrics.stage["model"].observe(seconds)
        for i, job in enumerate(jobs):
            if job.done.done():  # cancelled meanwhile
                continue
            layers = {layer: values[i] for layer, values in features.layers.items()}
            own = Features(features.embedding[i], features.feature_map[i], layers)
            self.metrics.stage["queue"].observe(started - job.arrived)
            job.done.set_result(Result(own, started - job.arrived, seconds, len(jobs)))

    def _run(self, images: list[np.ndarray]) -> Batch:
        """In the model's thread; a batch below the artifact's smallest is filled up with its last image."""
        started = time.monotonic()
        features = run_in_batches(self.runner, np.stack(images))
        return features, started, time.monotonic() - started


def _model_failed(error: BaseException) -> Refusal:
    refusal = Refusal(503, "model_failed", "the model could not compute this image", headers={"Retry-After": "1"})
    refusal.__cause__ = error
    return refusal
