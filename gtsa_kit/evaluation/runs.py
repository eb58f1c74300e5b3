"""Training of several runs to compare, one after the other; finished runs are kept."""

from collections.abc import Callable, Mapping
from pathlib import Path

from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.training.resume import diff_configs
from gtsa_kit.training.run import train
from gtsa_kit.training.trainer import TrainerCallback


class TrainingStoppedError(Exception):
    """Raised when a callback stopped a training run; the same call to `train_all` continues it."""


def train_all(
    configs: Mapping[str, RunConfig], folder: Path, make_callback: Callable[[str], TrainerCallback]
) -> dict[str, Path]:
    """Train each run in `folder / name`: resume unfinished runs and keep finished ones.

    Args:
        configs: Settings by name; the names become folder names.
        folder: Parent of the run folders; it is created if needed.
        make_callback: Function of a run's name that returns the callback of its training.

    Returns:
        Run folders by name.

    Raises:
        TrainingStoppedError: A callback stopped the training.
        ValueError: A folder holds a run with other settings.
        RunFailedError: See `gtsa_kit.training.run.train`.
    """
    paths = {name: folder / name for name in configs}
    configs = {name: _with_saved_precision(paths[name], config) for name, config in configs.items()}
    for name, config in configs.items():
        run = paths[name]
        if (run / "encoder.safetensors").exists():
            continue
        if not train(config, run, (run / "config.yaml").exists(), make_callback(name)):
            raise TrainingStoppedError(name)
    return paths


def _with_saved_precision(run: Path, config: RunConfig) -> RunConfig:
    """Return the settings, with what an existing run recorded: its precision for `auto`, the digest of its start."""
    if not (run / "config.yaml").exists():
        return config
    saved = load_config(file=run / "config.yaml")
    if changed := diff_configs(saved, config):
        raise ValueError(
            f"{run} holds a run with other settings (saved, requested: {'; '.join(changed)}); "
            "choose another --out, or remove that folder"
        )
    config = config.model_copy(update={"init": saved.init})
    if config.train.precision != "auto":
        return config
    return config.model_copy(update={"train": config.train.model_copy(update={"precision": saved.train.precision})})
