"""Source of an export: a run, weights of gtsa-kit or another tool, or a float32 ONNX file exported before."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import yaml
from torch import Tensor

from gtsa_kit.config import load_config
from gtsa_kit.export.formats.content import open_manifest
from gtsa_kit.export.formats.onnx_file import read_model
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.manifest_records import SourceRecord
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.source_facts import check_no_import_options, is_exported_file
from gtsa_kit.export.spec import SUFFIX
from gtsa_kit.files import sha256_of
from gtsa_kit.models.architecture import Architecture
from gtsa_kit.models.checkpoint_import import ImportedEncoder, open_weights
from gtsa_kit.models.checkpoint_import.shard_index import sha256_of_weights
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.models.run_folder import MODEL, check_finished, is_task_run
from gtsa_kit.models.task_model import TaskModel, load_task_model
from gtsa_kit.models.weights import build_encoder, weights_digest


class SourceLocation(Protocol):
    """Location of the file or folder that artifacts are made from."""

    @property
    def path(self) -> Path:
        """File or folder."""

    @property
    def folder(self) -> Path:
        """Default folder of artifacts."""

    @property
    def stem(self) -> str:
        """Default name of artifacts without their suffix."""


@dataclass(frozen=True)
class Source:
    """Float32 encoder or task model to export, and reference of the parity gate."""

    path: Path
    encoder: Encoder
    sha256: str
    """SHA-256 of the file with the weights; for an exported file, the one in its manifest."""
    note: str = ""
    """Summary of an imported checkpoint: weights used, keys skipped, values assumed. For a run of gtsa-kit: which
    checkpoint and branch, or "" for the teacher of a finished one."""
    origin: str = "gtsa-kit"
    """Tool that wrote the weights; see `ImportedEncoder.origin`."""
    record: SourceRecord = field(default_factory=SourceRecord)
    """Location of the weights, and how they were opened, for manifests."""
    task: TaskModel | None = None
    """Task model whose encoder `encoder` is; None for an encoder alone."""
    part: str = ""
    """Part of the task model to export, which names the file; "" for the whole model."""

    @property
    def model(self) -> Encoder | TaskModel:
        """Model to export, the reference of the parity gate."""
        return self.task or self.encoder

    @property
    def stem(self) -> str:
        """Name of exported files without their suffix."""
        return self.part or ("model" if self.task else "encoder")

    @property
    def folder(self) -> Path:
        """Default folder of artifacts: that of the weights."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def images(self) -> Path | None:
        """Training images of the run, if its config.yaml names them and they exist."""
        settings = self.folder / "config.yaml"
        if not settings.exists():
            return None
        if self.task:
            return task_images(settings)
        data = Path(load_config(file=settings).data)
        return data if data.exists() else None


def open_source(path: Path, import_options: ImportOptions | None = None) -> Source:
    """Open a run folder, weights of any tool that `checkpoint_import` reads, or a float32 `.onnx` of gtsa-kit.

    A fine-tuned run is opened with its head.

    Args:
        path: File or folder.
        import_options: Facts that a checkpoint of another tool does not contain.

    Raises:
        ValueError: The path holds no encoder that can be exported, or states a fact of the import options itself.
    """
    given = import_options or ImportOptions()
    if is_task_run(path):
        check_no_import_options(path, given)
        return _open_task(path)
    check_finished(path)
    if is_exported_file(path):
        check_no_import_options(path, given)
    if path.is_file() and path.suffix == SUFFIX["onnx"]:
        return _open_onnx(path)
    if path.suffix in SUFFIX.values():
        raise ValueError(f"{path} can't be exported again; name the run or the weights that it was exported from")
    imported = open_imported(path, given)
    note = imported.run_note if imported.origin == "gtsa-kit" else imported.note
    record = SourceRecord(path=str(imported.file.resolve()), **asdict(given))
    return Source(path, imported.encoder, sha256_of_weights(imported.file), note, imported.origin, record)


def _open_task(path: Path) -> Source:
    model, file = load_task_model(path), path / MODEL if path.is_dir() else path
    record = SourceRecord(path=str(file.resolve()))
    return Source(path, model.encoder, sha256_of(file), record=record, task=model)


def task_images(settings: Path) -> Path | None:
    """Return the folder of validation or training images, without masks, of a fine-tuned run's config.yaml."""
    content = yaml.safe_load(settings.read_text(encoding="utf-8")) or {}
    named = content.get("data")
    data = Path(str(named.get("source", ""))) if isinstance(named, dict) else settings
    if not data.is_dir():
        return None
    candidates = (data / "val" / "images", data / "images" / "val", data / "images")
    return next((folder for folder in candidates if folder.is_dir()), data)


def open_imported(path: Path, given: ImportOptions) -> ImportedEncoder:
    """Open weights with the facts of an import.

    Raises:
        ValueError: They can't be opened, or gtsa-kit wrote them and a fact is given that its runs state themselves.
    """
    imported = open_weights(path, **asdict(given))
    if imported.origin == "gtsa-kit":
        check_no_import_options(path, given.stated_by_runs)
    return imported


def _open_onnx(path: Path) -> Source:
    """Open the weights inside an ONNX file of gtsa-kit.

    Weights that were changed after the export are used as they are; the source then has the hash of the file itself.
    """
    model = read_model(path)
    opened = open_manifest(path, model)
    from gtsa_kit.export.formats.onnx import read_weights

    weights = read_weights(model, path)
    encoder = _rebuild(opened.manifest, weights, path)
    if weights_digest(weights) == opened.manifest.weights_sha256:
        return Source(path, encoder, opened.manifest.source_sha256, record=opened.manifest.source)
    note = f"the weights in {path.name} are used as they are: {opened.problem or 'their digest is not in the manifest'}"
    return Source(path, encoder, sha256_of(path), note, record=SourceRecord(path=str(path.resolve())))


def _rebuild(manifest: Manifest, weights: dict[str, Tensor], path: Path) -> Encoder:
    architecture = Architecture.from_dict(manifest.architecture)
    return build_encoder(architecture, weights, path, Preprocessing.from_dict(manifest.preprocessing))
