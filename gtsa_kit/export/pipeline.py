"""Export pipeline: write an artifact, open it again, run the parity gate, and put the report into the manifest."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from gtsa_kit.data.image_files import sample_images
from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.formats.content import ReportWarning, content_digest
from gtsa_kit.export.formats.onnx import export_onnx
from gtsa_kit.export.formats.onnx_file import embed_manifest
from gtsa_kit.export.formats.openvino import export_openvino
from gtsa_kit.export.formats.pt2 import export_pt2
from gtsa_kit.export.formats.quantize import Calibration
from gtsa_kit.export.formats.torchscript import export_torchscript
from gtsa_kit.export.manifest import Manifest, write_manifest
from gtsa_kit.export.manifest_records import TaskScoreRecord
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.source import Source, SourceLocation
from gtsa_kit.export.spec import FORMATS, QUANTIZED, SUFFIX, SUPPORTED_PRECISIONS, ExportOptions
from gtsa_kit.export.task_graph import options_for
from gtsa_kit.files import staged
from gtsa_kit.models.channel_images import sample_channels
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.preprocessing import InputImage, Preprocessing
from gtsa_kit.models.task_model import TaskModel
from gtsa_kit.models.weights import weights_digest

Exporter = Callable[[Encoder | TaskModel, ExportOptions, Path, Calibration | None], dict[str, str]]
EXPORTERS: Final[Mapping[str, Exporter]] = {
    "torchscript": lambda model, options, path, _: export_torchscript(model, options, path),
    "pt2": lambda model, options, path, _: export_pt2(model, options, path),
    "onnx": export_onnx,
    "openvino": export_openvino,
}
"""Functions that write an artifact and return the manifest's `target`, by format."""
CALIBRATION_IMAGES: Final = 24
"""Maximum number of calibration images."""


def artifact_path(source: SourceLocation, file_format: str, out: Path | None, force: bool) -> Path:
    """Return the path of the artifact: `out` if it names a file, else the name of the source plus the suffix.

    The latter lies in the folder `out`, by default in the folder of the source.

    Args:
        source: Source of the export.
        file_format: One of `FORMATS`.
        out: File or folder.
        force: Whether an existing file may be replaced.

    Raises:
        ValueError: The format is unknown, `out` has another suffix, or the file exists and `force` is False.
    """
    if file_format not in FORMATS:
        raise ValueError(f"unknown format {file_format!r}; choose one of {', '.join(FORMATS)}")
    suffix = SUFFIX[file_format]
    path = (out or source.folder) / f"{source.stem}{suffix}" if out is None or not out.suffix or out.is_dir() else out
    if path.suffix != suffix:
        raise ValueError(f"{path} does not end in {suffix}, the suffix of {file_format} files; choose another --out")
    if path.exists() and path.resolve() == source.path.resolve():
        raise ValueError(f"{path} is the source itself; choose another --out")
    if path.exists() and not force:
        raise ValueError(f"{path} exists; add --force to replace it, or choose another --out")
    return path


def check_supported(file_format: str, options: ExportOptions, calibrated: bool) -> None:
    """Check that a format supports the precision, and that int8 and fp8 have calibration images.

    Raises:
        ValueError: The precision is not supported, or calibration images are missing.
    """
    if options.precision not in SUPPORTED_PRECISIONS[file_format]:
        others = ", ".join(other for other in FORMATS if options.precision in SUPPORTED_PRECISIONS[other])
        raise ValueError(f"{file_format} does not support {options.precision}; choose {others}, or another --precision")
    if options.precision in QUANTIZED and not calibrated:
        raise ValueError(
            f"{options.precision} needs images to set the ranges of activations; name a folder of typical images with "
            "--calibrate"
        )


def read_calibration(folder: Path, preprocessing: Preprocessing | None = None) -> Calibration:
    """Read calibration images for int8 and fp8, evenly spaced over a folder; by default images of 8-bit RGB.

    Raises:
        ValueError: No image in the folder can be read.
    """
    images: Sequence[InputImage]
    if preprocessing is None or preprocessing.is_rgb:
        images = sample_images(folder, CALIBRATION_IMAGES)[0]
    else:
        images = sample_channels(folder, CALIBRATION_IMAGES, preprocessing)[0]
    return Calibration(images, f"{len(images)} images of {folder.name}")


def export_artifact(
    source: Source,
    file_format: str,
    path: Path,
    options: ExportOptions | None = None,
    images: ParityImages | None = None,
    calibration: Calibration | None = None,
    on_case: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Export to `path` and run the parity gate on the written file.

    The file stays when the gate fails; the report in the manifest says what differs. After an error nothing is left of
    it, and an earlier file at `path` is unchanged.

    Args:
        source: The encoder or task model to export.
        file_format: One of `EXPORTERS`.
        path: The file to write, see `artifact_path`.
        options: Precision, sizes, layers and input type; by default those of `ExportOptions`.
        images: Images for the gate; by default the training images of the run.
        calibration: Images for int8 and fp8.
        on_case: Called by the gate with (cases done, all cases).

    Returns:
        The manifest with the parity report.

    Raises:
        ValueError: The options are not supported by the format, or the images can't be read.
    """
    options = options_for(source.model, options or ExportOptions())
    check_supported(file_format, options, calibration is not None)
    images = images or load_parity_images(
        source.images, source.encoder.preprocessing
    )  # before anything is written: it may raise
    with staged(path) as work:
        target = EXPORTERS[file_format](source.model, options, work, calibration)
        if calibration and options.precision in QUANTIZED:
            target["calibration"] = calibration.origin
        manifest = build_manifest(source.model, file_format, options, target, source.sha256)
        manifest = write_manifest(work, bind_manifest(manifest, work, source))
        return run_parity_gate(source, work, manifest, images, on_case)


def bind_manifest(manifest: Manifest, path: Path, source: Source) -> Manifest:
    """Return a manifest with the digests of a file and its source, and with the location of the source."""
    return manifest.model_copy(
        update={
            "source_sha256": source.sha256,
            "source": source.record,
            "weights_sha256": weights_digest(dict(source.encoder.vit.state_dict())),
            "content_sha256": content_digest(path),
            "parity": None,
        }
    )


def run_parity_gate(
    source: Source, path: Path, manifest: Manifest, images: ParityImages, on_case: Callable[[int, int], None]
) -> Manifest:
    """Run the parity gate on the CPU, and write its report into the manifest beside the file and inside an ONNX file.

    Args:
        source: The encoder that was exported.
        path: The written file.
        manifest: Its manifest.
        images: Images for the gate.
        on_case: Called with (cases done, all cases).

    Returns:
        The manifest with the parity report.
    """
    report = check_parity(source.model, load(path, "cpu"), images, on_case)
    manifest = write_manifest(path, manifest.model_copy(update={"parity": report}))
    if manifest.format == "onnx":
        embed_manifest(path, manifest)
    return manifest


def record_task_score(path: Path, manifest: Manifest, record: TaskScoreRecord) -> Manifest:
    """Write a task score into the manifest beside a file and inside an ONNX file; return the manifest."""
    manifest = write_manifest(path, manifest.model_copy(update={"task_score": record}))
    if manifest.format == "onnx":
        embed_manifest(path, manifest)
    return manifest


def measure_again(
    source: Source, path: Path, manifest: Manifest, images: ParityImages, on_case: Callable[[int, int], None]
) -> Manifest:
    """Run the parity gate on a file whose report is not of its content; nothing is written.

    Args:
        source: The encoder that the file was exported from, or that it holds.
        path: The file.
        manifest: Its manifest.
        images: Images for the gate.
        on_case: Called with (cases done, all cases).

    Returns:
        The manifest with the digests of the present content and the new report.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ReportWarning)  # the missing report is made here
        runner = load(path, "cpu")
    report = check_parity(source.model, runner, images, on_case)
    return bind_manifest(manifest, path, source).model_copy(update={"parity": report})
