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
        out: Run folder; new, or with `resume` one that an earlier call began.
        preset: "coco" (the paper's settings), "ade20k" or "quick".
        method: "gtsa", "dino" or "mocov3".
        settings: Further settings by their dotted names, such as {"train.batch_size": 64}.
        resume: Continue the run in `out` from its newest checkpoint.
        callback: Notified of the scan, the start and every step; its `stop` ends the run early.

    Returns:
        The run folder, which holds encoder.safetensors, if the run has ended.

    Raises:
        ValueError: A setting or a folder is wrong; nothing was started.
        RunFailedError: The run started and can't continue, for example because too many images are unreadable.
    """
    from gtsa_kit.config import load_config
    from gtsa_kit.training.run import train
    from gtsa_kit.training.trainer import TrainerCallback

    overrides = {"data": str(images), "method": method, **(settings or {})}
    config = load_config(preset, overrides=overrides)
    train(config, Path(out), resume, callback or TrainerCallback())
    return Path(out)
