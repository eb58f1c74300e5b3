import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

GTSA = [sys.executable, "-m", "gtsa_kit"]

# A run of seconds: the whole method, in small.
TINY = {
    "model.arch": "vit_tiny",
    "model.projector_dim": 32,
    "views.global_size": 64,
    "views.local_size": 32,
    "views.local_crops": 2,
    "loss.global_region": 4,
    "loss.local_region": 2,
    "optim.warmup_epochs": 1,
    "train.log_every": 1,
    "train.workers": 0,
    "train.batch_size": 4,
}


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty smooth colour fields of several shapes, as JPEG."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    for index in range(20):
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        size = (96 + 8 * (index % 3), 80 + 8 * (index % 4))
        Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(folder / f"p{index}.jpg", quality=92)
    return folder


@pytest.fixture
def tiny() -> dict[str, object]:
    return dict(TINY)


def sets(settings: dict[str, object]) -> list[str]:
    """Settings as command line options."""
    return [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]


@pytest.fixture
def gtsa() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in a process of its own."""

    def run(*args: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
        command = [*GTSA, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=800, env=one_thread(), **kwargs)

    return run


def one_thread() -> dict[str, str]:
    """The environment of a helper process: small tensors are slower on two threads than on one."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
