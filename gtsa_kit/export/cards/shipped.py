"""An artifact as a card describes it: a file with its manifest, or a folder with its report."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from gtsa_kit.export.folder_report import FolderReport
from gtsa_kit.export.manifest import Manifest, manifest_path, read_manifest
from gtsa_kit.export.manifest_records import TaskScoreRecord, TensorSpec
from gtsa_kit.export.parity_report import ParityReport
from gtsa_kit.files import sha256_of

FOLDER_CARD: Final = "README.md"
"""Card in a folder, where the Hub looks for it."""
FOLDER_BILL: Final = "gtsa.cdx.json"
"""Bill of materials in a folder."""


@dataclass(frozen=True)
class Shipped:
    """Artifact that is handed on."""

    path: Path
    """File or folder."""
    files: Mapping[str, str]
    """SHA-256 by name of each file of the artifact, its main file first."""
    format: str
    precision: str
    architecture: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    parity: ParityReport | None
    source_sha256: str
    """SHA-256 of the weights that it was exported from."""
    task: str | None = None
    labels: tuple[str, ...] = ()
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    target: Mapping[str, str] = field(default_factory=dict)
    task_score: TaskScoreRecord | None = None

    @property
    def folder(self) -> Path:
        """Folder of the files."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def card_path(self) -> Path:
        """Path of its model card."""
        beside = self.path.with_name(f"{self.path.name}.card.md")
        return self.path / FOLDER_CARD if self.path.is_dir() else beside

    @property
    def bill_path(self) -> Path:
        """Path of its bill of materials."""
        beside = self.path.with_name(f"{self.path.name}.cdx.json")
        return self.path / FOLDER_BILL if self.path.is_dir() else beside

    @classmethod
    def of_file(cls, path: Path, manifest: Manifest) -> "Shipped":
        """Describe an exported file, with the weights beside an OpenVINO file."""
        files = [path, *([path.with_suffix(".bin")] if path.suffix == ".xml" else [])]
        engine_parity = manifest.engine.graph.parity if manifest.engine else None
        return cls(
            path=path,
            files={file.name: sha256_of(file) for file in files},
            format=manifest.format,
            precision=manifest.precision,
            architecture=manifest.architecture,
            preprocessing=manifest.preprocessing,
            parity=manifest.parity or engine_parity,
            source_sha256=manifest.source_sha256,
            task=manifest.task,
            labels=tuple(label.name for label in manifest.labels),
            inputs=manifest.inputs,
            outputs=manifest.outputs,
            target=manifest.target,
            task_score=manifest.task_score,
        )

    @classmethod
    def of_folder(cls, path: Path, report: FolderReport) -> "Shipped":
        """Describe a folder with float32 weights for another framework, or a model of Triton with an exported file."""
        files = {name: sha256_of(path / name) for name in report.files}
        served = next((path / name for name in files if manifest_path(path / name).exists()), None)
        if served:
            return replace(cls.of_file(served, read_manifest(served)), path=path, files=files, format=report.format)
        return cls(
            path=path,
            files=files,
            format=report.format,
            precision="fp32",
            architecture=report.architecture,
            preprocessing=report.preprocessing,
            parity=report.parity,
            source_sha256=report.source_sha256,
        )
