"""Teacher and student of a run at each of its checkpoints: how much of what the student learned the teacher has."""

from collections.abc import Iterator
from pathlib import Path

import torch

from gtsa_kit.config import load_config
from gtsa_kit.evaluation.models import Model, encoder_runner
from gtsa_kit.methods import make_method
from study.settings import CHECKPOINTS

BRANCHES = ("teacher", "student")


def stages(run: Path) -> Iterator[tuple[str, dict[str, object], Model]]:
    """Yield each branch of the checkpoints at equal distances: a name for its results, what it is, and the model."""
    steps = load_config(file=run / "config.yaml").train.steps
    for step in (steps * (i + 1) // CHECKPOINTS for i in range(CHECKPOINTS)):
        path = run / "checkpoints" / f"step_{step:08d}.ckpt"
        for branch in BRANCHES:
            yield f"step-{step}-{branch}", {"step": step, "branch": branch}, open_branch(run, path, branch)


def open_branch(run: Path, checkpoint: Path, branch: str) -> Model:
    """Open the encoder of teacher or student in one checkpoint of a run."""
    method = make_method(load_config(file=run / "config.yaml")).eval()
    method.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["model"])
    return Model(branch, encoder_runner(getattr(method, branch).encoder, checkpoint.name), run)
