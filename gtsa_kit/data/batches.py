"""Loading of batches by worker processes: waiting with a limit, stops and the workers' errors."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Generic, Literal

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from gtsa_kit.data.entries import Entry
from gtsa_kit.data.samples import Batch, Content
from gtsa_kit.hardware import available_cores

POLL_SECONDS = 1
"""Seconds of waiting for workers after which a stop is noticed."""
_TIMED_OUT, _OF_WORKER = "DataLoader timed out", "DataLoader worker"  # torch's messages
_NO_SHARED_MEMORY = ("bus error", "shared memory", "(shm)", "no space left")


class LoadingError(RuntimeError):
    """Raised when the workers can't deliver batches; the message ends with a hint."""


class StopWhileWaitingError(Exception):
    """Raised in place of a batch when the run is to stop."""


def make_batches(
    dataset: Dataset[Batch[Content]],
    sampler: Iterable[list[int]],
    workers: int,
    pin: bool,
    collate: Callable[[list[Batch[Content]]], Batch[Content]],
) -> Iterator[Batch[Content]]:
    """Return an iterator over the micro-batches of a process, in the order of the sampler.

    Args:
        dataset: Samples by number.
        sampler: Sample numbers of each batch; restarted by every iterator.
        workers: Number of processes that load; 0 loads in this one.
        pin: Whether batches are in page-locked memory.
        collate: Function that stacks samples.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=partial(_collate, collate),
        pin_memory=pin,
        worker_init_fn=_leave_signals_to_parent,
        prefetch_factor=2 if workers else None,
        timeout=POLL_SECONDS if workers else 0,
    )
    return iter(loader)


def resolve_workers(workers: int | Literal["auto"], device: str, processes: int | Literal["auto"]) -> int:
    """Return the number of data-loading workers per training process.

    `auto` is one worker on a CPU, where the model needs the cores. On GPUs it is one per core of the process, except
    one core for training, and at most 16.
    """
    if workers != "auto":
        return workers
    if device.startswith("cpu"):
        return 1
    each = available_cores() // (torch.cuda.device_count() if processes == "auto" else processes)
    return max(1, min(16, each - 1))


class TimedBatches(Generic[Content]):
    """Iterator over batches that sums the time spent waiting and collects the unreadable images."""

    def __init__(self, batches: Iterator[Batch[Content]], max_wait: float) -> None:
        self._batches, self._max_wait = batches, max_wait
        self.should_stop: Callable[[], bool] = lambda: False
        """Asked about once a second while workers are waited for."""
        self.waited = 0.0
        """Seconds spent waiting for batches."""
        self.unreadable: list[Entry] = []
        """Images skipped since the caller last cleared the list."""

    def __next__(self) -> Content | None:
        """Return the next batch's content, or None if a sample has none (see `samples.MAX_SUBSTITUTES`).

        Raises:
            StopWhileWaitingError: `should_stop` returned True before the workers delivered the batch.
            LoadingError: The workers did not deliver it in time.
        """
        begin = time.monotonic()
        batch = self._wait(begin)
        self.waited += time.monotonic() - begin
        self.unreadable += batch.unreadable
        return batch.content

    def close(self) -> None:
        """End the workers. Torch terminates those that take seconds to end, then reports their death as an error."""
        with suppress(RuntimeError):
            getattr(self._batches, "_shutdown_workers", lambda: None)()

    def _wait(self, begin: float) -> Batch[Content]:
        while True:
            try:
                return next(self._batches)
            except RuntimeError as error:
                if _TIMED_OUT not in str(error):
                    raise
            if self.should_stop():
                raise StopWhileWaitingError
            if time.monotonic() - begin > self._max_wait:
                raise LoadingError(
                    f"no batch of images for {self._max_wait:g} seconds; look for a disk or network that hangs, try "
                    "--workers 0, or wait longer: --set train.max_batch_wait=7200"
                )


@contextmanager
def worker_errors() -> Iterator[None]:
    """Raise `LoadingError` with a hint in place of the workers' errors, which torch may raise in any line.

    torch also raises an error when a worker was killed, and does so in a handler of SIGCHLD.
    """
    try:
        yield
    except Exception as error:
        if _OF_WORKER not in str(error):
            raise
        raise LoadingError(_describe(str(error))) from error


def _describe(message: str) -> str:
    """Describe an error of a worker and what to do about it; the last line of torch's message is the worker's own."""
    if any(word in message.lower() for word in _NO_SHARED_MEMORY):
        return (
            "the processes that load images got no shared memory: /dev/shm is full or too small; give a container "
            "more of it (docker run --shm-size=8g), or use fewer --workers, or --workers 0, which needs none"
        )
    if "killed by signal" in message or "exited unexpectedly" in message:
        reason = message.splitlines()[0].rstrip(". ")
        return (
            f"a process that loads images was killed ({reason}): memory or /dev/shm may be full; use fewer --workers, "
            "or --workers 0, or give a container more (docker run --shm-size=8g)"
        )
    return f"a process that loads images failed: {message.strip().splitlines()[-1]}; see it happen with --workers 0"


def _collate(
    collate: Callable[[list[Batch[Content]]], Batch[Content]], samples: list[Batch[Content]]
) -> Batch[Content]:
    """Collate a batch; in a worker, put it into shared memory here, where an error reaches the parent.

    Otherwise torch does so in a thread that prints its error and drops the batch, and the parent waits forever.
    """
    batch = collate(samples)
    return batch if get_worker_info() is None else batch.share_memory()


def _leave_signals_to_parent(_: int) -> None:
    # Ctrl-C and the end of a terminal reach every process of the group; only the main process handles them.
    for name in ("SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
