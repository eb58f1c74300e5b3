"""Code around the loop of every kind of run: several processes, memory that runs out, stops while it waits."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch

from gtsa_kit.data.batches import LoadingError, StopWhileWaitingError, worker_errors
from gtsa_kit.training.fabric import Fabric
from gtsa_kit.training.trainer import RunFailedError

T = TypeVar("T")


def on_first_process(fabric: Fabric, work: Callable[[], T]) -> T:
    """Call `work` in the first process only; all processes return its result or raise its error."""
    outcome: tuple[T | None, BaseException | None] = (None, None)
    if fabric.is_global_zero:
        try:
            outcome = (work(), None)
        except (ValueError, OSError, RunFailedError, KeyboardInterrupt) as error:
            outcome = (None, error)
    value, raised = fabric.broadcast(outcome)
    if raised is not None:
        raise raised
    return value  # type: ignore[return-value]


@contextmanager
def memory_errors(advice: Callable[[], str]) -> Iterator[None]:
    """Raise `RunFailedError` with advice on settings that need less memory where the block runs out of it."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise RunFailedError(f"out of memory; {advice()}") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):  # torch's allocator on a CPU
            raise
        raise RunFailedError(f"out of memory; {advice()}") from error


def fit_or_stop(fit: Callable[[], bool], save: Callable[[], None]) -> bool:
    """Return what `fit` returns, or save and return False if a stop came while it waited for images.

    Raises:
        RunFailedError: The workers that load images failed, besides what `fit` raises.
    """
    try:
        with worker_errors():
            return fit()
    except LoadingError as error:
        raise RunFailedError(str(error)) from error
    except StopWhileWaitingError:
        save()
        return False
