"""Base of runners that divide a batch among the cores of the processor."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from gtsa_kit.export.runtime.runner import Runner
from gtsa_kit.hardware import compute_threads

Infer = Callable[[np.ndarray], Sequence[np.ndarray]]
"""Function from a batch of images to the outputs."""


class BatchParallelRunner(Runner):
    """Runner on the CPU that gives each core some images of a batch.

    This is faster than running each operator on all cores: no core waits at the end of an operator, and the data of
    one core stays in its cache. A batch that would leave a third of the cores idle runs on all cores at once.
    """

    chunk: int
    """Maximum number of images in one call on one core; measured by benchmarks/inference.py."""

    def _set_inference(self, infer_all_cores: Infer, make_infer_one_core: Callable[[], Infer] | None) -> None:
        """Set the functions that run a batch.

        Args:
            infer_all_cores: Runs a batch on every core.
            make_infer_one_core: Makes a function that runs a batch on one core, called once and only when it is
                needed; None if a batch can't be divided.
        """
        self.cores = compute_threads()
        self._infer_all_cores, self._make_infer_one_core = infer_all_cores, make_infer_one_core
        self._infer_one_core: Infer | None = None
        self._lock = threading.Lock()

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        count, rounds = len(images), -(-len(images) // self.cores)
        if self._make_infer_one_core is None or count == 1 or self.cores == 1 or rounds * self.cores > 1.5 * count:
            return self._infer_all_cores(images)
        with self._lock:
            if self._infer_one_core is None:
                self._infer_one_core = self._make_infer_one_core()
                self._pool = ThreadPoolExecutor(self.cores, "gtsa-runner")
        step = min(self.chunk, rounds)
        parts = list(self._pool.map(self._infer_one_core, [images[i : i + step] for i in range(0, count, step)]))
        return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]
