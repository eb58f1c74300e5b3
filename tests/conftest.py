import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from commands import GTSA, TINY, one_thread
from PIL import Image


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


@pytest.fixture
def gtsa() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command in a process of its own."""

    def run(*args: object, **kwargs: object) -> subprocess.CompletedProcess[str]:
        command = [*GTSA, *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, timeout=800, env=one_thread(), **kwargs)

    return run
