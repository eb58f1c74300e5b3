"""The public function that trains an encoder."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtsa_kit.training.trainer import TrainerCallback


def pretrain(
    images: str | Path,
    out: str | Path,
    *,
    preset: str = "coco",
    method: str = "gtsa",
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    callback: "TrainerCallback | None" = None,
) -> Path:
    """Train an encoder on images without labels, as `gtsa train` does.

    Args:
        images: Folder, glob, list, archive or URL.
        out: Run folder; new, or with `resume` that of an earlier call.
        preset: "coco" (the paper's settings), "ade20k" or "quick".
        method: "gtsa", "dino" or "mocov3".
        settings: Other settings by dotted key, such as {"train.batch_size": 64}.
        resume: Continue the run in `out` from its newest checkpoint.
        callback: Called at the image check, the start and every step; its `should_stop` ends the run early.

    Returns:
        The run folder; it holds encoder.safetensors if the run finished.

    Raises:
        ValueError: A setting or a folder is invalid; training was not started.
        RunFailedError: Training was started and cannot continue, for example because too many images are unreadable.
    """
    from gtsa_kit.config import load_config
    from gtsa_kit.training.run import train
    from gtsa_kit.training.trainer import TrainerCallback

    overrides = {"data": str(images), "method": method, **(settings or {})}
    config = load_config(preset, overrides=overrides)
    train(config, Path(out), resume, callback or TrainerCallback())
    return Path(out)
