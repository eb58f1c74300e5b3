"""Code around the loop of every kind of run: several processes, loggers, memory that runs out, stops while it waits."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

from gtsa_kit.config.finetune import FinetuneConfig
from gtsa_kit.config.layers import flatten
from gtsa_kit.config.sections import RunConfig
from gtsa_kit.data.batches import LoadingError, StopWhileWaitingError, worker_errors
from gtsa_kit.methods.base import PlotGroup
from gtsa_kit.training.curves import COMMON_PLOT_GROUPS
from gtsa_kit.training.fabric import Fabric
from gtsa_kit.training.loggers.base import LoggedRun
from gtsa_kit.training.loggers.opening import open_loggers
from gtsa_kit.training.run_logger import RunLogger
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


def open_run_logger(
    fabric: Fabric,
    run_dir: Path,
    step: int,
    config: RunConfig | FinetuneConfig,
    on_notice: Callable[[str], None],
    plot_groups: Sequence[PlotGroup],
    common: Sequence[PlotGroup] = COMMON_PLOT_GROUPS,
) -> RunLogger | None:
    """Open the logs of a run folder and the loggers of the settings, in the first process; None in the others.

    Args:
        fabric: Processes of the run.
        run_dir: Run folder.
        step: Number of finished steps.
        config: Settings of the run.
        on_notice: Function that gets sentences for the user; train.log holds them too.
        plot_groups: Plots of the curves of this kind of run.
        common: Plots of the curves of all runs of a command.

    Raises:
        ValueError: A logger of a new run can't be opened.
    """
    opened: list[RunLogger] = []

    def report(message: str) -> None:
        opened[0].text_log.info(message)
        on_notice(message)

    def open_them() -> None:
        logs = RunLogger(run_dir, step, plot_groups, common)
        opened.append(logs)
        run = LoggedRun(run_dir, flatten(config.model_dump(mode="json")), step, logs.last_logged)
        logs.loggers = open_loggers(config.train.logger, run, report)

    on_first_process(fabric, open_them)
    return opened[0] if opened else None


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
