"""Steps that the commands have in common which train: modes that exclude each other, estimates, stops."""

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from gtsa_kit.cli.support.common import fail
from gtsa_kit.files import shell_word


class RunMode(Protocol):
    """Modes of a command that trains; without any it trains a new run."""

    @property
    def resume(self) -> bool:
        """Continue the run from its last checkpoint."""

    @property
    def finish(self) -> bool:
        """Write the result of its last checkpoint."""

    @property
    def dry_run(self) -> bool:
        """Measure some steps and write nothing."""


def check_mode(mode: RunMode) -> None:
    """Raise `ValueError` for --dry-run beside --resume or --finish."""
    if mode.dry_run and (mode.resume or mode.finish):
        raise ValueError(f"--dry-run is for a new run; omit --{'resume' if mode.resume else 'finish'}")


def refuse_settings(given: bool) -> None:
    """Raise `ValueError` for settings beside --finish."""
    if given:
        raise ValueError("--finish ends a run as it is; omit the settings, or continue with them by --resume")


def estimate_or_train(
    mode: RunMode, estimate: Callable[[], bool], train: Callable[[], bool], command: str, run_dir: Path
) -> None:
    """Print what a run would take, or train it; exit with 130 if it was stopped.

    Args:
        mode: Whether it is a dry run.
        estimate: Function that prints an estimate; it returns False if it was stopped.
        train: Function that trains; it returns False if it was stopped.
        command: Command that continues the run, without its options.
        run_dir: Run folder.
    """
    if mode.dry_run:
        if not estimate():
            fail("stopped; nothing was written", 130)
    elif not train():
        fail(f"stopped and saved; resume with: {command} --resume --out {shell_word(run_dir)}", 130)
