"""Training several runs that are to be compared, one after the other; what is done is not done again."""

from collections.abc import Callable, Mapping
from pathlib import Path

from gtsa_kit.config import RunConfig, load_config
from gtsa_kit.training.run import diff_configs, train
from gtsa_kit.training.trainer import TrainerCallback


class StoppedError(Exception):
    """The watcher asked to stop; the same call goes on where it was."""


def train_all(runs: Mapping[str, RunConfig], folder: Path, watch: Callable[[str], TrainerCallback]) -> dict[str, Path]:
    """Train each run into `folder / name`, going on with those that were begun and keeping those that have ended.

    Args:
        runs: Settings by name; names are folders' names.
        folder: Is made.
        watch: Called with a run's name before it is trained.

    Returns:
        Run folders by name.

    Raises:
        StoppedError: A watcher asked to stop.
        ValueError: A folder holds a run with other settings.
        RunFailedError: As `gtsa_kit.training.run.train`.
    """
    paths = {name: folder / name for name in runs}
    runs = {name: _as_begun(paths[name], config) for name, config in runs.items()}
    for name, config in runs.items():
        run = paths[name]
        if (run / "encoder.safetensors").exists():
            continue
        if not train(config, run, (run / "config.yaml").exists(), watch(name)):
            raise StoppedError(name)
    return paths


def _as_begun(run: Path, config: RunConfig) -> RunConfig:
    """The settings; in the precision that the run settled on where it was begun."""
    if not (run / "config.yaml").exists():
        return config
    saved = load_config(file=run / "config.yaml")
    if changed := diff_configs(saved, config):
        raise ValueError(
            f"{run} holds a run with other settings (its, now: {'; '.join(changed)}); "
            "choose another --out, or remove that folder"
        )
    if config.train.precision != "auto":
        return config
    return config.model_copy(update={"train": config.train.model_copy(update={"precision": saved.train.precision})})
