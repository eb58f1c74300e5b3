"""Weights & Biases. WANDB_MODE, WANDB_PROJECT, WANDB_ENTITY and its other variables hold as in any program."""

import os
from collections.abc import Mapping
from uuid import uuid4

import numpy as np

from gtsa_kit.files import shell_word
from gtsa_kit.training.loggers.base import LoggedRun

PROJECT = "gtsa-kit"
"""Project of runs, unless WANDB_PROJECT names another one."""


class WandbLogger:
    """Run of Weights & Biases; its files are in the folder `wandb` of the run.

    A step has one row there, which stays as it was sent first: steps that an earlier process has logged after its last
    checkpoint are not sent again.
    """

    def __init__(self, run: LoggedRun) -> None:
        """Start a run, or continue that of the run folder; an error is one of wandb's own."""
        import wandb

        saved = run.saved_id("wandb")
        run_id = saved or os.environ.get("WANDB_RUN_ID") or uuid4().hex[:8]
        self._image = wandb.Image
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or PROJECT,
            name=os.environ.get("WANDB_NAME") or run.run_dir.name,
            id=run_id,
            dir=str(run.run_dir),
            config=dict(run.settings),
            allow_val_change=True,  # a resumed run may have more steps
            resume="allow" if saved and os.environ.get("WANDB_MODE") != "offline" else None,  # offline it only warns
            # The console belongs to the progress display. A program that trains may have a run of its own.
            settings=wandb.Settings(console="off", silent=True, reinit="create_new"),
        )
        run.save_id("wandb", self._run.id)
        self._last_logged = run.last_logged if saved else -1
        if self._run.offline:  # its address is not known then
            folder = shell_word(os.path.relpath(self._run.settings.sync_dir))
            self.notice = f"wandb is offline; to send the run later: wandb sync {folder}"
        else:
            self.notice = f"wandb: {self._run.url}"

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name; those of one step are one row."""
        if step > self._last_logged:
            self._run.log(dict(values), step=step)

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Write an image (H, W, 3) uint8."""
        if step > self._last_logged:
            self._run.log({name: self._image(pixels)}, step=step)

    def close(self, finished: bool) -> None:
        """Wait until everything is sent, or written in offline mode."""
        self._run.finish(exit_code=0 if finished else 1)
