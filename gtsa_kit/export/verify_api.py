"""The public function `verify`: the gates of an exported file again."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.export.gate_errors import raise_if_lower, score_beside

if TYPE_CHECKING:
    from gtsa_kit.export.folder_report import FolderReport
    from gtsa_kit.export.manifest import Manifest
    from gtsa_kit.export.open_options import ImportOptions
    from gtsa_kit.export.parity_report import ParityReport
    from gtsa_kit.export.source import Source


def verify(
    artifact: str | Path,
    against: str | Path | None = None,
    images: str | Path | None = None,
    device: str = "auto",
    import_options: "ImportOptions | None" = None,
    score: str | Path | None = None,
    max_drop: float = 0.5,
) -> "ParityReport":
    """Compare an exported file with the float32 encoder again, on this machine, as `gtsa verify` does.

    Args:
        artifact: .onnx, .ts, .pt2 or .xml; .engine where a GPU is present; or a folder that gtsa-kit exported, a
            checkpoint for another framework or a model of a Triton repository, whose files are also compared with the
            digests in its gtsa.json.
        against: Run folder or weights that it was exported from; by default the weights beside the file or in the
            folder above it, else those inside an ONNX file.
        images: Folder of images; by default those of the run, else a sample image.
        device: "auto", "cpu" or "cuda".
        import_options: Facts that the weights of another tool, named by `against`, do not contain.
        score: Labeled images on which the file and its float32 model are scored after the comparison, if that passed.
        max_drop: Largest loss of mIoU or top-1 in points.

    Returns:
        Report with `passed`, and the difference of every output at every input shape.

    Raises:
        ValueError: The file can't be opened, the weights that it was exported from are not found, or a file of the
            folder was changed.
        TaskScoreError: The file loses more than `max_drop`.
    """
    from gtsa_kit.export.folder_check import find_exported_folder, is_exported_folder

    path = Path(artifact)
    request = _Request(
        Path(against) if against else None,
        Path(images) if images else None,
        device,
        import_options,
        Path(score) if score else None,
        max_drop,
    )
    if is_exported_folder(path):
        return _verify_folder(find_exported_folder(path), request)
    return _verify_file(path, request)


@dataclass(frozen=True)
class _Request:
    """Arguments of `verify` but for the file."""

    against: Path | None
    images: Path | None
    device: str
    import_options: "ImportOptions | None"
    score: Path | None
    max_drop: float


def _verify_file(file: Path, request: _Request) -> "ParityReport":
    """Compare an exported file with the encoder."""
    from gtsa_kit.export.parity import check_parity
    from gtsa_kit.export.parity_images import load_parity_images
    from gtsa_kit.export.runtime.load import load

    runner = load(file, request.device)
    source = _open_reference(file, runner.manifest, request)
    report = check_parity(
        source.model, runner, load_parity_images(request.images or source.images, source.encoder.preprocessing)
    )
    if request.score and report.passed:
        raise_if_lower(file, score_beside(source, runner, request.score, request.max_drop))
    return report


def _verify_folder(folder: Path, request: _Request) -> "ParityReport":
    """Compare the files of an exported folder with their digests, and what they compute with the encoder."""
    from gtsa_kit.export.folder_check import served_file
    from gtsa_kit.export.folder_report import read_folder_report
    from gtsa_kit.export.formats.frameworks import check_folder_parity
    from gtsa_kit.export.parity_images import load_parity_images
    from gtsa_kit.models.run_folder import EXPORT_FILE

    report = read_folder_report(folder)
    if problem := report.problem(folder):
        raise ValueError(f"{folder}: {problem}; export it again")
    if file := served_file(report, folder):
        return _verify_file(file, request)
    if request.score:
        raise ValueError(f"{folder} is a checkpoint for {report.format}, which has no task to score; omit `score`")
    source = _open_reference(folder / EXPORT_FILE, report, request)
    images = load_parity_images(request.images or source.images, source.encoder.preprocessing)
    return check_folder_parity(source.encoder, report.format, folder, images)


def _open_reference(artifact: Path, manifest: "Manifest | FolderReport", request: _Request) -> "Source":
    from gtsa_kit.export.reference import missing_reference, open_reference

    source = open_reference(artifact, manifest, request.against, request.import_options)
    if source is None:
        raise ValueError(missing_reference(artifact, manifest).replace("--against", "`against`"))
    return source
