"""Result of `gtsa export --json`: one object on standard output."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtsa_kit.export.folder_report import FolderReport
    from gtsa_kit.export.manifest import Manifest
    from gtsa_kit.export.parity_report import ParityReport


@dataclass
class ExportResult:
    """Artifacts that an export has written so far."""

    artifacts: list[dict[str, Any]] = field(default_factory=list)
    more: dict[str, Any] = field(default_factory=dict)
    """Facts that only some formats have: speeds, rejected nodes."""
    written: "list[tuple[Path, Manifest | FolderReport]]" = field(default_factory=list)
    """Path and description of each artifact."""

    def add_file(self, path: Path, manifest: "Manifest") -> None:
        """Add an exported file; an engine that can't run here has the result of its graph."""
        self.written.append((path, manifest))
        report = manifest.parity or (manifest.engine.graph.parity if manifest.engine else None)
        self._add(path, size_in_bytes(path), report, manifest=manifest.model_dump(mode="json"))

    def add_folder(self, path: Path, report: "FolderReport") -> None:
        """Add a folder for another framework or a model of Triton."""
        self.written.append((path, report))
        size = sum((path / name).stat().st_size for name in report.files)
        self._add(path, size, report.parity, folder=report.model_dump(mode="json"))

    def _add(self, path: Path, size: int, report: "ParityReport | None", **content: Any) -> None:
        passed = report.passed if report else None
        self.artifacts.append({"path": str(path), "size": size, "passed": passed, **content})


@contextmanager
def printed_result(as_json: bool) -> Iterator[ExportResult]:
    """Yield a result to fill, and print it as JSON at the end of the block, also if that exits: `passed` is then false.

    After a `ValueError`, which is wrong use, nothing is printed.
    """
    result, passed = ExportResult(), False
    try:
        yield result
        passed = True
    except SystemExit:
        _print(result, passed, as_json)
        raise
    _print(result, passed, as_json)


def _print(result: ExportResult, passed: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"passed": passed, "artifacts": result.artifacts, **result.more}, indent=2))


def size_in_bytes(path: Path) -> int:
    """Return the size of an exported file, with the weights beside an OpenVINO file."""
    weights = path.with_suffix(".bin")
    return path.stat().st_size + (weights.stat().st_size if path.suffix == ".xml" else 0)
