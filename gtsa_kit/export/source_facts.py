"""Kinds of paths, told without opening them and without torch: exported files, runs and weights."""

from pathlib import Path

from gtsa_kit.export.open_options import RUN_FACTS, ImportOptions
from gtsa_kit.export.spec import SUFFIX
from gtsa_kit.models.checkpoint_import.run_files import check_stated_facts, is_run_file
from gtsa_kit.models.run_folder import ENCODER, is_run, is_task_run


def is_exported_file(path: Path) -> bool:
    """Return whether a path has the suffix of an exported file, and is no folder."""
    return path.suffix in SUFFIX.values() and not path.is_dir()


def takes_import_options(path: Path) -> bool:
    """Return whether a path holds weights that all facts of an import apply to: neither a run nor an exported file."""
    if is_exported_file(path) or not path.exists() or is_task_run(path):
        return False
    if is_run(path):
        return (path / ENCODER).exists() and not is_run_file(path / ENCODER)
    return not is_run_file(path)


def facts_of_own(path: Path) -> tuple[str, ...]:
    """Return the names of the facts of an import that a run or a file of gtsa-kit takes."""
    if is_exported_file(path) or not path.exists() or is_task_run(path):
        return ()
    return RUN_FACTS if is_run(path) else ("embedding",)


def check_no_import_options(path: Path, given: ImportOptions) -> None:
    """Raise `ValueError` if a fact is given that the file of gtsa-kit states itself."""
    check_stated_facts(path, given.given)
