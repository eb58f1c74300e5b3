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
    "train.log_every": 1,
}


@pytest.fixture
def settings() -> Callable[..., RunConfig]:
    """Settings of a method, in small; keys with two underscores for the dot."""

    def make(method: str, **changes: Any) -> RunConfig:
        changed = {key.replace("__", "."): value for key, value in changes.items()}
        return load_config("quick", overrides={"method": method, **SMALL, **changed})

    return make


@pytest.fixture
def views() -> Views:
    """Noise: 4 images, 2 global views and 2 local ones."""
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
        return self.done == self.steps - 1  # asked during the last of them


@pytest.fixture
def train_here(images: Path) -> Callable[..., bool]:
    """Train in this process; `stop` after that many steps."""

    def run(config: RunConfig, out: Path, resume: bool = False, stop: int | None = None) -> bool:
        config = config.model_copy(update={"data": str(images)})
        return train(config, out, resume, TrainerCallback() if stop is None else StopAfter(stop))

    return run
