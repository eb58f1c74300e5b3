"""Checks of inputs, outputs and installed extras that commands make before they import torch."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.cli.support.common import is_first_process, require
from gtsa_kit.evaluation import NO_MODEL
from gtsa_kit.extras import EXTRAS

if TYPE_CHECKING:
    from gtsa_kit.config import RunConfig

PACKAGES = {"sklearn": "scikit-learn", "cyclonedx": "cyclonedx-python-lib"}
"""Packages of modules that have another name."""


def require_module(module: str) -> None:
    """Raise `ValueError` with the command that installs a module if it is missing; it is not imported."""
    if find_spec(module) is None:
        package = PACKAGES.get(module, module)
        raise ValueError(f"{package} is not installed; pip install 'gtsa-kit[{EXTRAS[module]}]'")


def check_training(config: "RunConfig", run_dir: Path, resume: bool) -> None:
    """Check method, run folder and source of a run, in the first of its processes.

    Raises:
        ValueError: A package is missing, the folder can't be used, or the source can't be opened or holds no image.
    """
    if not is_first_process():
        return
    from gtsa_kit.data.image_files import check_source
    from gtsa_kit.models.run_folder import check_run_dir
    from gtsa_kit.training.loggers.opening import require_loggers

    if config.method != "gtsa":
        require_module("lightly")
    require_loggers(config.train.logger)
    if not check_run_dir(run_dir, resume):
        check_source(config.data, channels=not config.channels.is_rgb)


def check_evaluation(out: Path, models: list[Path] | None, random: list[str] | None, module: str | None = None) -> None:
    """Check the output, the models and the extra of an evaluation.

    Raises:
        ValueError: The output is a file, no model is given, one does not exist, or the module is missing.
    """
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; name a folder with --out")
    if not models and not random:
        raise ValueError(NO_MODEL)
    for model in models or []:
        require(model)
    if module:
        require_module(module)


def check_labeled_evaluation(
    images: Path, out: Path, models: list[Path] | None, random: list[str] | None, module: str | None = None
) -> None:
    """Make the checks of `check_evaluation` and find images, which can be read only when the models are open.

    Raises:
        ValueError: As for `check_evaluation`, or there are no images.
    """
    require(images)
    check_evaluation(out, models, random, module)
    if images.is_dir():
        from gtsa_kit.data.image_files import list_images

        list_images(str(images), channels=True)


def find_evaluation_images(
    images: Path,
    out: Path,
    models: list[Path] | None,
    random: list[str] | None,
    module: str | None = None,
    channels: bool = False,
) -> list[Path]:
    """Make the checks of `check_evaluation`, and return the image files of a folder or list.

    With `channels`, formats count that are read with all of their channels alone.

    Raises:
        ValueError: As for `check_evaluation`, or there are no images.
    """
    require(images)
    check_evaluation(out, models, random, module)
    from gtsa_kit.data.image_files import find_images

    return find_images(images, channels).paths
