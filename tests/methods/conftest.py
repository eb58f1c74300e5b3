from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.data.augment import Views
from gtsa_kit.training.run import train
from gtsa_kit.training.trainer import TrainerCallback

SMALL = {
    "model.arch": "vit_test",
    "model.drop_path": 0.0,
    "views.global_size": 48,
    "views.local_size": 32,
    "views.local_crops": 2,
    "dino.prototypes": 40,
    "dino.hidden": 24,
    "dino.bottleneck": 12,
    "mocov3.hidden": 24,
    "mocov3.output": 12,
    "train.batch_size": 4,
    "train.workers": 0,
    "train.precision": "fp32",
    "train.log_every": 1,
}


@pytest.fixture
def settings() -> Callable[..., RunConfig]:
    """Return a function that builds small settings of a method; `__` in a keyword stands for a dot."""

    def make(method: str, **changes: Any) -> RunConfig:
        changed = {key.replace("__", "."): value for key, value in changes.items()}
        return load_config("quick", overrides={"method": method, **SMALL, **changed})

    return make


@pytest.fixture
def views() -> Views:
    """Return noise views: 4 images, 2 global and 2 local views."""
    generator = torch.Generator().manual_seed(5)

    def noise(side: int) -> Tensor:
        return torch.randint(256, (4, 2, 3, side, side), generator=generator, dtype=torch.uint8)

    return Views(noise(48), noise(32), torch.zeros(4, 4, 4), torch.zeros(4, 4, dtype=torch.int64))


class StopAfter(TrainerCallback):
    def __init__(self, steps: int) -> None:
        self.steps, self.done = steps, 0

    def on_step_end(self, step: int, metrics: object) -> None:
        self.done = step

    def should_stop(self) -> bool:
        return self.done == self.steps - 1  # true during the last of these steps


@pytest.fixture
def train_here(images: Path) -> Callable[..., bool]:
    """Return a function that trains in this process and stops after `stop` steps."""

    def run(config: RunConfig, out: Path, resume: bool = False, stop: int | None = None) -> bool:
        config = config.model_copy(update={"data": str(images)})
        return train(config, out, resume, TrainerCallback() if stop is None else StopAfter(stop))

    return run
