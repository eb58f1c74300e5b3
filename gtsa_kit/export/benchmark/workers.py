"""Worker processes of `gtsa bench`: one process for each artifact, idle until the parent calls a method."""

import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from PIL import Image

START_METHOD = "spawn"
"""Start method of the processes: torch can't start threads in a forked process. Tests fork fakes without torch."""
EXIT_TIMEOUT = 5.0
"""Seconds that the workers have to exit by themselves at the end."""
TIME_SLICE = 0.25
"""Seconds of one measurement: long against one call, short against changes of the machine's clock rate."""

COMPARED: Final = ("feature_map", "logits", "mask")
"""Outputs that are compared; a runner of no detector has one of them."""
Opener = Callable[[], Any]
"""Picklable function that opens an artifact. The worker process calls it; the result has the methods `__call__` and
`prepare` and the attribute `provider` of a Runner. Modules named by its attribute `libraries`, if there is one, are
imported before, so that imports do not count as load time."""


class WorkerFailure(NamedTuple):
    """Error of a worker as text: not every exception can be pickled."""

    is_value_error: bool
    message: str


class WarmupResult(NamedTuple):
    """Result of the first call at one input shape."""

    provider: str
    load_seconds: float
    first_seconds: float
    values: np.ndarray
    """Feature maps (N, D, h, w) of the images of the batch, each image once; of a task model logits, or the mask."""


class WorkerProcess:
    """Handle of one worker process in the parent process."""

    def __init__(self, name: str, opener: Opener) -> None:
        self.name = name
        context: Any = multiprocessing.get_context(START_METHOD)
        self.connection, child_connection = context.Pipe()
        self.process = context.Process(target=_serve, args=(child_connection, opener), name=name, daemon=True)
        self.process.start()
        child_connection.close()  # else the parent would not notice that the child has died

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the `BenchmarkWorker` in the process and return its result.

        Raises:
            ValueError: The method raised a `ValueError`.
            RuntimeError: The method failed, or the process died.
        """
        try:
            self.connection.send((method, args))
            result = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join(5)
            code = self.process.exitcode
            reason = f"signal {-code}" if code and code < 0 else f"exit code {code}"
            raise RuntimeError(f"{self.name}: its process died ({reason}); its own output is above") from error
        if isinstance(result, WorkerFailure):
            raise (ValueError if result.is_value_error else RuntimeError)(f"{self.name}: {result.message}")
        return result

    def close(self) -> None:
        """Kill the process, whatever it is doing, and release its resources."""
        self.connection.close()
        self.process.kill()
        self.process.join()
        self.process.close()


@contextmanager
def start_workers(openers: Mapping[str, Opener]) -> Iterator[list[WorkerProcess]]:
    """Start one worker for each opener, and end all of them when the block ends.

    The workers import their libraries in parallel; every later call runs in one worker at a time.
    """
    workers: list[WorkerProcess] = []
    try:
        with _delay_interrupts():
            for name, opener in openers.items():
                workers.append(WorkerProcess(name, opener))
        yield workers
        for worker in workers:
            with suppress(OSError):  # the process has ended already
                worker.connection.send(None)  # a worker that exits by itself lets its libraries clean up
        deadline = time.monotonic() + EXIT_TIMEOUT
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for worker in workers:
            worker.close()


@contextmanager
def _delay_interrupts() -> Iterator[None]:
    """Hold Ctrl-C back until the block ends, and keep it from the processes that start in it; the parent ends them.

    Ignoring the signal instead would lose a Ctrl-C that comes while they start.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: received.append(number))
    can_block = hasattr(signal, "pthread_sigmask")
    if can_block:  # processes inherit a blocked signal
        resource_tracker.ensure_running()  # it would unblock the signal when the first process starts it
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        if can_block:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, before)
        if received:
            signal.raise_signal(signal.SIGINT)


def _serve(connection: Connection, opener: Opener) -> None:
    """Run the loop of a worker process: receive a call, run it, send the result."""
    os.dup2(2, 1)  # standard output belongs to the parent's command
    for library in getattr(opener, "libraries", ()):
        with suppress(ImportError):  # the opener raises an error with a hint
            importlib.import_module(library)
    worker = BenchmarkWorker(opener)
    with suppress(EOFError, OSError):  # the parent has ended
        for method, args in iter(connection.recv, None):
            connection.send(_call(getattr(worker, method), args))


def _call(method: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return method(*args)
    except (ValueError, RuntimeError, OSError) as error:
        return WorkerFailure(isinstance(error, ValueError), str(error) or type(error).__name__)


class BenchmarkWorker:
    """Measurements of one artifact, run inside its worker process."""

    def __init__(self, opener: Opener) -> None:
        self.opener = opener

    def set_inputs(self, images: list[Image.Image]) -> None:
        """Set the images to measure on; it returns when all imports of the process are done."""
        self.images = images

    def open(self) -> str:
        """Open the artifact, measure how long that takes, and return the runner's note."""
        self.memory_before = memory_mb("VmRSS")
        start = time.perf_counter()
        self.runner = self.opener()
        self.load_seconds = time.perf_counter() - start
        return str(getattr(self.runner, "note", ""))

    def task(self) -> str:
        """Return the task that the opened model is fine-tuned to, or ""."""
        return getattr(getattr(self.runner, "manifest", None), "task", None) or ""

    def warm_up(self, batch: int, size: tuple[int, int]) -> WarmupResult | str:
        """Prepare a batch and run the first call; return the error message if the artifact rejects the shape."""
        try:
            prepared = [self.runner.prepare(image, size) for image in self.images[:batch]]
            self.batch = np.stack(list(islice(cycle(prepared), batch)))
            start = time.perf_counter()
            outputs = self.runner(self.batch)
        except ValueError as error:
            return str(error)
        first = time.perf_counter() - start
        values = compared_values(outputs)
        return WarmupResult(self.runner.provider, self.load_seconds, first, np.array(values[: len(prepared)]))

    def measure(self) -> list[float]:
        """Return the latencies of one time slice in seconds.

        One call that is not counted comes first: it restores caches and clock rate after other workers ran.
        """
        self.runner(self.batch)
        latencies: list[float] = []
        while not latencies or sum(latencies) < TIME_SLICE:
            start = time.perf_counter()
            self.runner(self.batch)
            latencies.append(time.perf_counter() - start)
        return latencies

    def memory(self) -> float | None:
        """Return the growth of resident memory since before `open`, at its peak so far, in megabytes."""
        peak = memory_mb("VmHWM")
        return None if peak is None or self.memory_before is None else peak - self.memory_before


def compared_values(outputs: Any) -> np.ndarray:
    """Return the output of a batch that is compared; of detectors boxes, scores and labels as (B, N, 6) float32."""
    if getattr(outputs, "boxes", None) is not None:
        last = [np.asarray(one, np.float32)[..., None] for one in (outputs.scores, outputs.labels)]
        return np.concatenate([np.asarray(outputs.boxes), *last], axis=-1)
    return np.asarray(next(getattr(outputs, name) for name in COMPARED if getattr(outputs, name, None) is not None))


def memory_mb(entry: str) -> float | None:
    """Return the memory of this process in megabytes, or None where the system has no `/proc`.

    Args:
        entry: "VmRSS", the resident memory now, or "VmHWM", its peak.
    """
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{entry}:")), None)
    return None
