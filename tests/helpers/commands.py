"""Running the `gtsa` command in tests."""

import os
import sys

GTSA = [sys.executable, "-m", "gtsa_kit"]

# Settings of a run that takes seconds: the whole method, with small views and a small encoder.
TINY = {
    "model.arch": "vit_test",
    "model.projector_dim": 32,
    "views.global_size": 64,
    "views.local_size": 32,
    "views.local_crops": 2,
    "loss.roi_size_global": 4,
    "loss.roi_size_local": 2,
    "optim.warmup_epochs": 1,
    "train.log_every": 1,
    "train.workers": 0,
    "train.precision": "fp32",  # the choice of "auto" is measured, and may differ between two runs
    "train.batch_size": 4,
}


def sets(settings: dict[str, object]) -> list[str]:
    """Return settings as command line options."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


def one_thread() -> dict[str, str]:
    """Return the environment of a subprocess with one thread, on which small tensors are faster than on two."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
