"""Model repositories of NVIDIA Triton on the disk: each model appears in one whole, or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gtsa_kit.export.manifest import Manifest, write_manifest
from gtsa_kit.export.triton.config import MARK
from gtsa_kit.export.triton.pbtxt import Message, render
from gtsa_kit.files import atomic_write, sync_folder, write_text

FILES: Final = {"onnx": "model.onnx", "trt": "model.plan"}
"""What Triton's backends look for, by format."""
VERSION: Final = "1"


@dataclass(frozen=True)
class RepositoryModel:
    """One folder of the repository."""

    config: Message
    manifest: Manifest | None = None
    file: Path | None = None
    """What to copy as the model."""
    content: bytes = b""
    """The model itself, where it is no file."""

    @property
    def name(self) -> str:
        """Of the folder, and under which clients ask for it."""
        return str(self.config["name"])


def check_targets(repository: Path, names: list[str], force: bool) -> None:
    """Raise `ValueError` unless the models may be written: no file of others, nothing there unless it is forced."""
    if repository.exists() and not repository.is_dir():
        raise ValueError(f"{repository} is a file; name a folder with --out")
    for target in (repository / name for name in names):
        if not target.exists():
            continue
        if not _is_ours(target):
            raise ValueError(f"{target} was not written by gtsa export; choose another --name or --out")
        if not force:
            raise ValueError(f"{target} exists; add --force to replace it, or choose another --name")


def _is_ours(model: Path) -> bool:
    try:
        return f'key: "{MARK}"' in (model / "config.pbtxt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def write_repository(repository: Path, models: list[RepositoryModel], force: bool = False) -> list[Path]:
    """Write models into a repository; each appears, or replaces the one before, whole.

    Args:
        repository: Folder; others' models in it stay as they are.
        models: See `triton.repository_models`.
        force: Whether to replace what was written before.

    Returns:
        Their folders.

    Raises:
        ValueError: See `check_targets`.
        OSError: A full disk or the like; the repository is as it was.
    """
    check_targets(repository, [model.name for model in models], force)
    with _staging(repository) as staging:
        for model in models:
            _write_model(staging / model.name, model)
        for model in models:
            _publish(staging / model.name, repository / model.name, staging / f"{model.name}.old")
    sync_folder(repository)
    return [repository / model.name for model in models]


def _write_model(folder: Path, model: RepositoryModel) -> None:
    version = folder / VERSION
    version.mkdir(parents=True)
    if model.file:
        assert model.manifest is not None
        target = version / FILES[model.manifest.format]
        with open(model.file, "rb") as source, atomic_write(target) as file:
            shutil.copyfileobj(source, file)
        write_manifest(target, model.manifest)
    elif model.content:
        with atomic_write(version / FILES["onnx"]) as file:
            file.write(model.content)
    else:
        write_text(version / ".keep", "")  # an ensemble's version is empty, and empty folders get lost in copies
    write_text(folder / "config.pbtxt", render(model.config))


def _publish(staged: Path, target: Path, aside: Path) -> None:
    """Rename a finished model into its place; what was there comes back if that fails."""
    replaced = target.exists()
    if replaced:
        os.rename(target, aside)
    try:
        os.rename(staged, target)
    except BaseException:
        if replaced:
            os.rename(aside, target)
        raise


@contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """A folder to write in that Triton does not look into, from which a rename leads into the repository.

    It is beside the repository; inside, hidden, where the repository is a mount of its own.
    """
    made = not repository.exists()
    repository.mkdir(parents=True, exist_ok=True)
    folder = _make_staging(repository)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if made and not any(repository.iterdir()):
            repository.rmdir()


def _make_staging(repository: Path) -> Path:
    repository = repository.resolve()
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{repository.name}-", dir=repository.parent))
    except OSError:
        return Path(tempfile.mkdtemp(prefix=".gtsa-", dir=repository))
    probe, landed = folder / "probe", repository / folder.name
    try:
        probe.mkdir()
        os.rename(probe, landed)
        landed.rmdir()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=".gtsa-", dir=repository))
    return folder
