"""Source to artifact: write, open what was written, prove it, say so in the manifest."""

from collections.abc import Callable, Mapping
from pathlib import Path

from gtsa_kit.data.image_files import sample_images
from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.formats.onnx import export_onnx
from gtsa_kit.export.formats.onnx_file import embed_manifest
from gtsa_kit.export.formats.openvino import export_openvino
from gtsa_kit.export.formats.pt2 import export_pt2
from gtsa_kit.export.formats.quantize import Calibration
from gtsa_kit.export.formats.torchscript import export_torchscript
from gtsa_kit.export.manifest import Manifest, write_manifest
from gtsa_kit.export.parity import check_parity
from gtsa_kit.export.parity_images import ParityImages, load_parity_images
from gtsa_kit.export.runtime.load import load
from gtsa_kit.export.source import Source, SourceLocation
from gtsa_kit.export.spec import FORMATS, QUANTIZED, SUFFIX, SUPPORTED_PRECISIONS, ExportOptions
from gtsa_kit.models.encoder import Encoder

Writer = Callable[[Encoder, ExportOptions, Path], dict[str, str]]
WRITERS: Mapping[str, Writer] = {"torchscript": export_torchscript, "pt2": export_pt2}
CALIBRATED = {"onnx": export_onnx, "openvino": export_openvino}
CALIBRATION_IMAGES = 24


def artifact_path(source: SourceLocation, form: str, out: Path | None, force: bool) -> Path:
    """Where the artifact goes: `out` if it names a file, else `encoder` plus suffix in it or beside the source.

    Raises:
        ValueError: An unknown format, a name that does not fit it, or a file that is there already.
    """
    if form not in FORMATS:
        raise ValueError(f"unknown format {form!r}; choose one of {', '.join(FORMATS)}")
    suffix = SUFFIX[form]
    path = (out or source.folder) / f"encoder{suffix}" if out is None or not out.suffix or out.is_dir() else out
    if path.suffix != suffix:
        raise ValueError(f"{path} does not end in {suffix}, which {form} files do; choose another --out")
    if path.exists() and path.resolve() == source.path.resolve():
        raise ValueError(f"{path} is the source itself; choose another --out")
    if path.exists() and not force:
        raise ValueError(f"{path} exists; add --force to replace it, or choose another --out")
    return path


def check_supported(form: str, options: ExportOptions, calibrated: bool) -> None:
    """Raise `ValueError` for a precision that a format does not have, or int8 without images."""
    if options.precision not in SUPPORTED_PRECISIONS[form]:
        others = ", ".join(other for other in FORMATS if options.precision in SUPPORTED_PRECISIONS[other])
        raise ValueError(f"{form} is not offered in {options.precision}; choose {others} for it")
    if options.precision in QUANTIZED and not calibrated:
        raise ValueError(
            f"{options.precision} needs images to set its ranges; name a folder of typical ones with --calibrate"
        )


def read_calibration(folder: Path) -> Calibration:
    """Images for int8 and fp8, spread over a folder, else `ValueError`."""
    images, _ = sample_images(folder, CALIBRATION_IMAGES)
    return Calibration(images, f"{len(images)} images of {folder.name}")


def export_artifact(
    source: Source,
    form: str,
    path: Path,
    options: ExportOptions | None = None,
    images: ParityImages | None = None,
    calibration: Calibration | None = None,
    on_case: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Export to `path` and run the parity gate on what was written; the report is in the manifest that is returned.

    Nothing is deleted when the gate fails: the report says what is wrong with the file.

    Args:
        source: What to export.
        form: One of `FORMATS`.
        path: See `artifact_path`.
        options: Precision, sizes, layers and so on.
        images: Images for the gate; by default those of the run.
        calibration: Images for int8.
        on_case: Told (cases done, cases in all) by the gate.
    """
    options = options or ExportOptions()
    check_supported(form, options, calibration is not None)
    images = images or load_parity_images(source.images)  # before anything is written: it may be refused
    path.parent.mkdir(parents=True, exist_ok=True)
    if form in CALIBRATED:
        target = CALIBRATED[form](source.encoder, options, path, calibration)
    else:
        target = WRITERS[form](source.encoder, options, path)
    if calibration and options.precision in QUANTIZED:
        target["calibration"] = calibration.origin
    manifest = build_manifest(source.encoder, form, options, target, source.sha256)
    write_manifest(path, manifest)
    return prove(source, path, manifest, images, on_case)


def prove(
    source: Source, path: Path, manifest: Manifest, images: ParityImages, on_case: Callable[[int, int], None]
) -> Manifest:
    """Run the gate on the processor and put its report into the manifest, beside the file and in it."""
    report = check_parity(source.encoder, load(path, "cpu"), images, on_case)
    manifest = manifest.model_copy(update={"parity": report})
    if manifest.format == "onnx":
        embed_manifest(path, manifest)
    write_manifest(path, manifest)
    return manifest
