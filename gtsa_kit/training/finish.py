"""The result of a run, and its early end: the teacher's encoder of the last checkpoint becomes the result."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from gtsa_kit.config import RunConfig
from gtsa_kit.files import read_json_lines, shell_word
from gtsa_kit.models.encoder_spec import EncoderSpec
from gtsa_kit.models.weights import build_encoder, save_encoder
from gtsa_kit.training.channels import image_reader
from gtsa_kit.training.checkpoint import load_checkpoint
from gtsa_kit.training.fixed_images import load_fixed_images
from gtsa_kit.training.image_list import load_image_list
from gtsa_kit.training.learning import Learning, measure_learning
from gtsa_kit.training.notices import lag_notices

TEACHER_PREFIX = "teacher.encoder.vit."


def save_result(
    run_dir: Path, config: RunConfig, checkpoint: Mapping[str, Any], learning: Learning | None = None
) -> Path:
    """Write the encoder of a checkpoint's teacher, and its description, into the run folder.

    Args:
        run_dir: Run folder with metrics.jsonl.
        config: Settings of the run.
        checkpoint: Content of a checkpoint: see `TrainState.checkpoint_content`.
        learning: What the run has learned, if it was measured.
    """
    rows = _rows_until(run_dir, checkpoint["step"])
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
        "learning": learning.to_dict() if learning else None,
        "last": rows[-1] if rows else None,
        "settings": config.model_dump(mode="json"),
    }
    return save_encoder(run_dir, teacher_weights(checkpoint), EncoderSpec.from_dict(checkpoint), summary)


def teacher_weights(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of the teacher's encoder in a checkpoint, by timm's keys."""
    model: Mapping[str, Tensor] = checkpoint["model"]
    return {
        name.removeprefix(TEACHER_PREFIX): tensor for name, tensor in model.items() if name.startswith(TEACHER_PREFIX)
    }


def finish_run(run_dir: Path) -> list[str]:
    """Write encoder.safetensors of a run from its last checkpoint; the run can still be resumed afterwards.

    Returns:
        Sentences about the result: its step, whether the run has learned anything, whether its teacher lags.

    Raises:
        ValueError: The folder holds no run, or no checkpoint that can be read.
    """
    checkpoint = load_checkpoint(run_dir)
    if checkpoint is None and not (run_dir / "config.yaml").exists():
        raise ValueError(f"{run_dir} holds no run; give the folder of one with --out")
    if checkpoint is None:
        raise ValueError(
            f"{run_dir} holds no checkpoint yet; continue it with: gtsa train --resume --out {shell_word(run_dir)}"
        )
    config, step = RunConfig.model_validate(checkpoint["settings"]), checkpoint["step"]
    spec = EncoderSpec.from_dict(checkpoint)
    encoder = build_encoder(spec.architecture, teacher_weights(checkpoint), run_dir, spec.preprocessing)
    images = load_image_list(run_dir, config.data, check=False)
    _, pixels = load_fixed_images(images, config.views.global_size, image_reader(config), spec.preprocessing)
    learning = measure_learning(config, _rows_until(run_dir, step), encoder, pixels, run_dir)
    save_result(run_dir, config, checkpoint, learning)
    length = (
        f"written from the checkpoint of step {step} of {checkpoint['schedule']['steps']}; --resume continues the run"
    )
    return [
        length,
        *([learning.sentence()] if learning else []),
        *lag_notices(checkpoint["initial_share"], run_dir, config),
    ]


def _rows_until(run_dir: Path, step: int) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl up to a step."""
    return [row for row in read_json_lines(run_dir / "metrics.jsonl") if row["step"] <= step]
