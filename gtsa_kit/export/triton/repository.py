"""Model repositories of NVIDIA Triton on disk: each model is published by a rename, completely or not at all."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gtsa_kit.export.folder_report import FolderReport, write_folder_report
from gtsa_kit.export.manifest import Manifest, write_manifest
from gtsa_kit.export.triton.config import WRITER_KEY
from gtsa_kit.export.triton.pbtxt import Message, to_pbtxt
from gtsa_kit.files import atomic_write, sync_folder, write_text

FILES: Final = {"onnx": "model.onnx", "trt": "model.plan"}
"""File name that Triton's backends expect, by format."""
VERSION: Final = "1"


@dataclass(frozen=True)
class RepositoryModel:
    """One model, which is one folder of the repository."""

    config: Message
    manifest: Manifest | None = None
    file: Path | None = None
    """File to copy as the model."""
    content: bytes = b""
    """Serialized model, where there is no file."""

    @property
    def name(self) -> str:
        """Name of the folder, and of the model in requests."""
        return str(self.config["name"])


def check_targets(repository: Path, names: list[str], force: bool) -> None:
    """Raise `ValueError` if a model exists (without `force`) or was written by another program."""
    if repository.exists() and not repository.is_dir():
        raise ValueError(f"{repository} is a file; give a folder with --out")
    for target in (repository / name for name in names):
        if not target.exists():
            continue
        if not _written_by_gtsa(target):
            raise ValueError(f"{target} was not written by gtsa export; choose another --name or --out")
        if not force:
            raise ValueError(f"{target} exists; add --force to replace it, or choose another --name")


def _written_by_gtsa(model: Path) -> bool:
    try:
        return f'key: "{WRITER_KEY}"' in (model / "config.pbtxt").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False


def write_repository(repository: Path, models: list[RepositoryModel], force: bool = False) -> list[Path]:
    """Write models into a repository; each appears, or replaces an existing one, completely.

    Args:
        repository: Folder of the repository; other models in it are not changed.
        models: Models to write (`models.repository_models`).
        force: Whether to replace models that gtsa-kit wrote before.

    Returns:
        Folders of the models.

    Raises:
        ValueError: A model can't be written (`check_targets`).
        OSError: Writing failed, for example on a full disk; the repository is unchanged.
    """
    check_targets(repository, [model.name for model in models], force)
    with _staging(repository) as staging:
        for model in models:
            _write_model(staging / model.name, model)
        _write_report(staging / models[-1].name, models)
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
        write_text(version / ".keep", "")  # an ensemble has no model file, and copies may drop empty folders
    write_text(folder / "config.pbtxt", to_pbtxt(model.config))


def _write_report(folder: Path, models: list[RepositoryModel]) -> None:
    """Write the report of the last model, with the digests of all files of all models."""
    described = next(model.manifest for model in models if model.manifest)
    files = [
        Path("..", model.name, name).as_posix() if model.name != folder.name else name
        for model in models
        for name in ("config.pbtxt", *_model_files(model))
    ]
    engine = described.engine
    report = FolderReport(
        format="triton",
        files=tuple(files),
        architecture=described.architecture,
        preprocessing=described.preprocessing,
        parity=described.parity or (engine.graph.parity if engine else None),
    )
    write_folder_report(folder, report)


def _model_files(model: RepositoryModel) -> list[str]:
    name = FILES[model.manifest.format] if model.file and model.manifest else FILES["onnx"] if model.content else ""
    return [f"{VERSION}/{name}"] if name else []


def _publish(staged: Path, target: Path, backup: Path) -> None:
    """Rename a finished model into the repository; restore the previous one if that fails."""
    replaced = target.exists()
    if replaced:
        os.rename(target, backup)
    try:
        os.rename(staged, target)
    except BaseException:
        if replaced:
            os.rename(backup, target)
        raise


@contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """Create a folder on the same file system that Triton does not read, and remove it at the end.

    It is beside the repository, or hidden inside of it where the repository is a mount point.
    """
    created = not repository.exists()
    repository.mkdir(parents=True, exist_ok=True)
    folder = _make_staging(repository)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if created and not any(repository.iterdir()):
            repository.rmdir()


def _make_staging(repository: Path) -> Path:
    repository = repository.resolve()
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{repository.name}-", dir=repository.parent))
    except OSError:
        return Path(tempfile.mkdtemp(prefix=".gtsa-", dir=repository))
    probe, renamed = folder / "probe", repository / folder.name
    try:
        probe.mkdir()
        os.rename(probe, renamed)
        renamed.rmdir()
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        return Path(tempfile.mkdtemp(prefix=".gtsa-", dir=repository))
    return folder
