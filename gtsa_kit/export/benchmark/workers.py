"""The processes of `bench`: one for each artifact, asleep until it is asked for something."""

import importlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import cycle, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

START = "spawn"
"""A forked torch can't start threads; tests fork what has no torch."""
PATIENCE = 5.0
"""Seconds that processes have to end by themselves when all is done."""
SLICE = 0.25
"""Seconds of one turn: long against one call, short against a change of the machine's clock."""

Opener = Callable[[], Any]
"""Picklable. Called in a process of its own, it returns what has a Runner's `__call__`, `prepare` and `provider`. What
its attribute `libraries` names, if it has one, is imported before, so that imports do not count as opening."""


class WorkerProcess:
    """The parent's end of one artifact's process."""

    def __init__(self, name: str, opener: Opener) -> None:
        self.name = name
        context: Any = multiprocessing.get_context(START)
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, opener), name=name, daemon=True)
        self.process.start()
        theirs.close()  # else its death would not be heard

    def ask(self, method: str, *args: Any) -> Any:
        """Call a method of its `BenchmarkWorker`.

        Raises:
            ValueError: It was refused.
            RuntimeError: It failed, or the process died.
        """
        try:
            self.connection.send((method, args))
            answer = self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join(5)
            code = self.process.exitcode
            how = f"signal {-code}" if code and code < 0 else f"exit code {code}"
            raise RuntimeError(f"{self.name}: its process died ({how}); what it said before stands above") from error
        if isinstance(answer, Failure):
            raise (ValueError if answer.of_user else RuntimeError)(f"{self.name}: {answer.text}")
        return answer

    def end(self) -> None:
        """Leave no process behind, whatever it is doing."""
        self.connection.close()
        self.process.kill()
        self.process.join()
        self.process.close()


@contextmanager
def processes(openers: Mapping[str, Opener]) -> Iterator[list[WorkerProcess]]:
    """They import their libraries at the same time; all that is asked of them later is done by one at a time."""
    workers: list[WorkerProcess] = []
    try:
        with _ignoring_interrupts():
            for name, opener in openers.items():
                workers.append(WorkerProcess(name, opener))
        yield workers
        for worker in workers:
            with suppress(OSError):  # it ended before
                worker.connection.send(None)  # it ends by itself, and libraries clean up after themselves
        deadline = time.monotonic() + PATIENCE
        for worker in workers:
            worker.process.join(max(0.0, deadline - time.monotonic()))
    finally:
        for worker in workers:
            worker.end()


@contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Processes started in it are deaf to Ctrl-C, which is for the one that started them and ends them."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class Failure(NamedTuple):
    """What went wrong in a worker, in words: not every exception survives the way between processes."""

    of_user: bool
    text: str


class WarmupResult(NamedTuple):
    """What a worker knows after its first call at a shape."""

    provider: str
    load_seconds: float
    first_seconds: float
    feature_map: np.ndarray
    """(N, D, h, w) of the images of the batch, each once."""


def _serve(connection: Connection, opener: Opener) -> None:
    """A worker's life: wait, do what is asked, answer."""
    os.dup2(2, 1)  # standard output is the caller's
    for library in getattr(opener, "libraries", ()):
        with suppress(ImportError):  # the opener says it better
            importlib.import_module(library)
    turns = BenchmarkWorker(opener)
    with suppress(EOFError, OSError):  # who asked is gone
        for method, args in iter(connection.recv, None):
            connection.send(_answer(getattr(turns, method), args))


def _answer(work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    try:
        return work(*args)
    except (ValueError, RuntimeError, OSError) as error:
        return Failure(isinstance(error, ValueError), str(error) or type(error).__name__)


class BenchmarkWorker:
    """What a worker does when it is asked to."""

    def __init__(self, opener: Opener) -> None:
        self.opener = opener

    def set_inputs(self, images: list[Image.Image]) -> None:
        """Take what everything is measured on; answered when all imports are done."""
        self.images = images

    def open(self) -> None:
        """Open the artifact."""
        self.memory_before = memory_mb("VmRSS")
        begin = time.perf_counter()
        self.runner = self.opener()
        self.load_seconds = time.perf_counter() - begin

    def begin(self, batch: int, size: tuple[int, int]) -> WarmupResult | str:
        """Get ready for a shape, or say why not."""
        try:
            prepared = [self.runner.prepare(image, size) for image in self.images[:batch]]
            self.batch = np.stack(list(islice(cycle(prepared), batch)))
            begin = time.perf_counter()
            found = self.runner(self.batch)
        except ValueError as error:
            return str(error)
        first = time.perf_counter() - begin
        return WarmupResult(
            self.runner.provider, self.load_seconds, first, np.array(found.feature_map[: len(prepared)])
        )

    def turn(self) -> list[float]:
        """Latencies in seconds; one call goes before them, which finds caches and clock as others left them."""
        self.runner(self.batch)
        spans: list[float] = []
        while not spans or sum(spans) < SLICE:
            begin = time.perf_counter()
            self.runner(self.batch)
            spans.append(time.perf_counter() - begin)
        return spans

    def memory(self) -> float | None:
        """Megabytes that came with the artifact, at most so far."""
        peak = memory_mb("VmHWM")
        return None if peak is None or self.memory_before is None else peak - self.memory_before


def memory_mb(entry: str) -> float | None:
    """Of this process: VmRSS is what is resident, VmHWM the most that ever was."""
    with suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next((int(line.split()[1]) * 1024 / 1e6 for line in lines if line.startswith(f"{entry}:")), None)
    return None
