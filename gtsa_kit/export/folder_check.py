"""Checks of a folder that gtsa-kit exported: a checkpoint for another framework, or a model of NVIDIA Triton."""

from pathlib import Path

from gtsa_kit.export.folder_report import FolderReport
from gtsa_kit.export.manifest import manifest_path
from gtsa_kit.export.self_check import Check
from gtsa_kit.export.triton.repository import FILES
from gtsa_kit.models.run_folder import EXPORT_FILE, is_run

NO_SERVER = "not run in a Triton server; examples/triton_client.py compares the answers of one with the file"


def is_exported_folder(path: Path) -> bool:
    """Return whether gtsa export wrote a folder, or models of Triton inside it; False for files, and run folders."""
    return path.is_dir() and not is_run(path) and (any(path.glob(EXPORT_FILE)) or any(path.glob(f"*/{EXPORT_FILE}")))


def find_exported_folder(path: Path) -> Path:
    """Return the folder with the report: `path` itself, or the one model of a Triton repository.

    Raises:
        ValueError: There is no such folder, or there are several.
    """
    if (path / EXPORT_FILE).is_file():
        return path
    models = sorted(file.parent for file in path.glob(f"*/{EXPORT_FILE}"))
    if not models:
        raise ValueError(
            f"{path} holds no {EXPORT_FILE}: gtsa export did not write it; name an exported file, a folder for another "
            "framework, or a model of a Triton repository"
        )
    if len(models) > 1:
        names = ", ".join(model.name for model in models)
        raise ValueError(f"{path} holds several models ({names}); name one of their folders")
    return models[0]


def check_content(report: FolderReport, folder: Path) -> Check:
    """Compare the files of a folder, configurations included, with the digests in its report."""
    problem = report.problem(folder)
    return Check("content", not problem, problem or f"the {len(report.files)} files are those of the report")


def served_file(report: FolderReport, folder: Path) -> Path | None:
    """Return the exported file, with its manifest, that a model of Triton serves; None for another folder."""
    if report.format != "triton":
        return None
    files = (folder / name for name in report.files if Path(name).name in FILES.values())
    return next((file for file in files if manifest_path(file).is_file()), None)
