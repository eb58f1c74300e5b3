"""The result of a run, and its early end: the teacher's encoder of the last checkpoint becomes the result."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.files import read_json_lines
from gtsa_kit.models.weights import save_encoder
from gtsa_kit.training.checkpoint import load_checkpoint

TEACHER_PREFIX = "teacher.encoder.vit."


def save_result(run_dir: Path, config: RunConfig, checkpoint: Mapping[str, Any]) -> Path:
    """Write the encoder of a checkpoint's teacher, and its description, into the run folder.

    Args:
        run_dir: Run folder with metrics.jsonl.
        config: Settings of the run.
        checkpoint: Content of a checkpoint: `step`, `model`, `schedule`, `extensions` and `initial_share`.
    """
    rows = [row for row in read_json_lines(run_dir / "metrics.jsonl") if row["step"] <= checkpoint["step"]]
    summary = {
        "method": config.method,
        "weights": "teacher",
        "images": checkpoint["schedule"]["images"],
        "unreadable": len(read_json_lines(run_dir / "errors.jsonl")),
        "steps": checkpoint["step"],
        "planned_steps": checkpoint["schedule"]["steps"],
        "extensions": checkpoint["extensions"],
        "batch": checkpoint["schedule"]["batch"],
        "initial_share": checkpoint["initial_share"],
        "last": rows[-1] if rows else None,
        "settings": config.model_dump(mode="json"),
    }
    model: Mapping[str, Tensor] = checkpoint["model"]
    weights = {
        name.removeprefix(TEACHER_PREFIX): tensor for name, tensor in model.items() if name.startswith(TEACHER_PREFIX)
    }
    return save_encoder(run_dir, weights, config.model.arch, summary)


def finish_run(run_dir: Path) -> tuple[int, int]:
    """Write encoder.safetensors of a run from its last checkpoint; return its step and the length of the run.

    The run can still be resumed afterwards.

    Raises:
        ValueError: The folder holds no run, or no checkpoint that can be read.
    """
    if not (run_dir / "config.yaml").exists():
        raise ValueError(f"{run_dir} holds no run; give the folder of one with --out")
    checkpoint = load_checkpoint(run_dir)
    if checkpoint is None:
        raise ValueError(f"{run_dir} holds no checkpoint yet; continue it with: gtsa train --resume --out {run_dir}")
    save_result(run_dir, load_config(file=run_dir / "config.yaml"), checkpoint)
    return checkpoint["step"], checkpoint["schedule"]["steps"]
