"""Protocol of a logger, and what it knows about the run."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gtsa_kit.files import write_json

IDS_FILE = "logger_runs.json"
"""File of the run folder with the ids by which services know the run; a resumed run continues the same ones."""


class MetricsLogger(Protocol):
    """Place that gets numbers and pictures of a run."""

    @property
    def notice(self) -> str:
        """Sentence that says where the run can be watched, or ""."""

    def log_scalars(self, values: Mapping[str, float], step: int) -> None:
        """Write numbers by name, of one step."""

    def log_image(self, name: str, pixels: np.ndarray, step: int) -> None:
        """Write an image (H, W, 3) uint8."""

    def close(self, finished: bool) -> None:
        """Write what is left, and say whether the run has finished or was stopped."""


@dataclass(frozen=True)
class LoggedRun:
    """Run that is logged."""

    run_dir: Path
    settings: Mapping[str, Any]
    """Settings by dotted key, JSON values."""
    step: int = 0
    """Number of finished steps at the start of this process; what was logged after it is trained again."""
    last_logged: int = -1
    """Last step that earlier processes of this run have logged, -1 for none."""

    def saved_id(self, service: str) -> str | None:
        """Return the id by which a service knows the run that is resumed, or None."""
        path = self.run_dir / IDS_FILE
        if self.step == 0 or not path.exists():
            return None
        return json.loads(path.read_text(encoding="utf-8")).get(service)  # type: ignore[no-any-return]

    def save_id(self, service: str, run_id: str) -> None:
        """Keep the id by which a service knows this run; a new run keeps none of an earlier one."""
        path = self.run_dir / IDS_FILE
        saved = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        write_json(path, saved | {service: run_id})
