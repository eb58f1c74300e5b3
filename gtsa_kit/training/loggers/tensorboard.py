"""TensorBoard, in the folder `tensorboard` of a run."""

import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from gtsa_kit.training.loggers.base import LoggedRun

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardLogger:
    """Writer of TensorBoard's files; what was logged after the checkpoint of a resumed run is dropped by readers."""

    notice = ""

    def __init__(self, run: LoggedRun) -> None:
        self._folder, self._step = run.run_dir / "tensorboard", run.step

    @cached_property
    def _writer(self) -> "SummaryWriter":
        """Writer, opened by the first value.

        TensorBoard reads files in the order of their names, which hold the time in whole seconds and then a counter
        without leading zeros. Two files of one second could be read in the wrong order, so that a file waits for its
        own second.
        """
        from torch.utils.tensorboard import SummaryWriter

        while any(f".tfevents.{int(time.time()):010d}." in path.name for path in self._folder.glob("*")):
            time.sleep(0.02)
        return SummaryWriter(str(self._folder), purge_step=self._step + 1)

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name, of one step."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Write an image (H, W, 3) uint8."""
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self, finished: bool) -> None:
        """Flush and close the file, if there is one."""
        if "_writer" in vars(self):
            self._writer.close()
