"""Opening the loggers of a run, and what happens where one fails."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Final

import numpy as np

from gtsa_kit.config.types import LoggerName
from gtsa_kit.extras import EXTRAS
from gtsa_kit.training.loggers.base import IDS_FILE, LoggedRun, MetricsLogger

CLASSES: Final[Mapping[LoggerName, str]] = {
    "tensorboard": "TensorBoardLogger",
    "wandb": "WandbLogger",
    "mlflow": "MLflowLogger",
}
"""Class of each logger, in the module of its name."""
HINTS: Final[Mapping[LoggerName, str]] = {
    "tensorboard": "omit it with --logger none",
    "wandb": "log in with: wandb login, or set WANDB_MODE=offline, or choose another --logger",
    "mlflow": "check MLFLOW_TRACKING_URI, or choose another --logger",
}
"""Hint by logger, for one that can't be opened."""


class LoggerGroup:
    """Loggers of a run. One that fails is reported once and gets nothing more; training goes on."""

    notice = ""

    def __init__(self, report: Callable[[str], None]) -> None:
        """Make an empty group.

        Args:
            report: Function that gets sentences for the user.
        """
        self._report = report
        self._loggers: dict[LoggerName, MetricsLogger] = {}

    def add(self, name: LoggerName, logger: MetricsLogger) -> None:
        """Add an open logger, and report where it can be watched."""
        self._loggers[name] = logger
        if logger.notice:
            self._report(logger.notice)

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers of one step to all loggers."""
        self._call(lambda logger: logger.log_scalars(values, step))

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Write an image (H, W, 3) uint8 to all loggers."""
        self._call(lambda logger: logger.log_image(name, pixels, step))

    def close(self, finished: bool) -> None:
        """Close all loggers; a second call does nothing."""
        self._call(lambda logger: logger.close(finished))
        self._loggers = {}

    def _call(self, write: Callable[[MetricsLogger], None]) -> None:
        for name, logger in list(self._loggers.items()):
            try:
                write(logger)
            except Exception as error:
                del self._loggers[name]
                self._report(f"the logger {name} has failed and gets nothing more; the run goes on: {_line(error)}")


def require_loggers(names: Iterable[LoggerName]) -> None:
    """Raise `ValueError` with what to install if the package of a logger is missing; nothing is imported."""
    for name in names:
        if find_spec(name) is None:
            raise ValueError(f"the logger {name} is not installed; pip install 'gtsa-kit[{EXTRAS[name]}]'")


def open_loggers(names: Sequence[LoggerName], run: LoggedRun, report: Callable[[str], None]) -> LoggerGroup:
    """Open the loggers of a run.

    Args:
        names: Names of the loggers.
        run: The run.
        report: Function that gets sentences for the user: where to watch, and failures.

    Raises:
        ValueError: A logger of a new run can't be opened. A resumed run does without it, and reports it.
    """
    if run.step == 0:
        (run.run_dir / IDS_FILE).unlink(missing_ok=True)
    group = LoggerGroup(report)
    for name in names:
        try:
            logger = getattr(import_module(f"{__package__}.{name}"), CLASSES[name])(run)
        except Exception as error:
            if run.step == 0:
                group.close(finished=False)
                raise ValueError(f"the logger {name} can't be opened: {_line(error)}; {HINTS[name]}") from error
            report(f"the logger {name} can't be opened, the run goes on without it: {_line(error)}")
        else:
            group.add(name, logger)
    return group


def _line(error: Exception) -> str:
    """Return an error as one line."""
    return " ".join(str(error).split()) or type(error).__name__
