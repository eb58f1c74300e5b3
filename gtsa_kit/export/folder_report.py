"""Report in a folder of several files: a checkpoint of another framework, or a model of NVIDIA Triton."""

from pathlib import Path
from typing import Any, Final

import pydantic
from pydantic import Field

from gtsa_kit.export.manifest_records import SourceRecord
from gtsa_kit.export.parity_report import ParityReport, Record
from gtsa_kit.files import sha256_of, write_json
from gtsa_kit.models.run_folder import EXPORT_FILE
from gtsa_kit.version import __version__

SCHEMA: Final = 1


class FolderReport(Record):
    """Content of `gtsa.json`, which describes the files beside it."""

    schema_version: int = SCHEMA
    gtsa_kit: str = __version__
    format: str
    files: tuple[str, ...]
    """Paths of the files from the folder; those of other models that a Triton model uses begin with `..`."""
    sha256: dict[str, str] = Field(default_factory=dict)
    """SHA-256 by file: the report is of these contents alone."""
    architecture: dict[str, Any]
    preprocessing: dict[str, Any]
    parity: ParityReport | None
    source_sha256: str = ""
    """SHA-256 of the source weights."""
    source: SourceRecord = SourceRecord()
    """Options that the source weights were opened with, without their path: such folders are handed on."""

    def problem(self, folder: Path) -> str:
        """Return why the report is not of the files in a folder; "" if it is."""
        for name in self.files:
            if name not in self.sha256:
                return f"it names no digest of {name}"
            if not (folder / name).is_file():
                return f"{name} is missing"
            if sha256_of(folder / name) != self.sha256[name]:
                return f"{name} was changed after its export"
        return ""


def write_folder_report(folder: Path, report: FolderReport) -> FolderReport:
    """Write `gtsa.json` with the digests of the files; return the report as it was written."""
    report = report.model_copy(update={"sha256": {name: sha256_of(folder / name) for name in report.files}})
    write_json(folder / EXPORT_FILE, report.model_dump(mode="json"))
    return report


def read_folder_report(folder: Path) -> FolderReport:
    """Read `gtsa.json`.

    Raises:
        ValueError: The file is missing or invalid.
    """
    path = folder / EXPORT_FILE
    try:
        return FolderReport.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, pydantic.ValidationError) as error:
        raise ValueError(f"{path} is not a readable report of gtsa export; export the folder again") from error
