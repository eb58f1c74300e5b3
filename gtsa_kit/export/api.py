"""The public functions on exported files: write one, verify one, open an encoder."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gtsa_kit.export.folder_report import FolderReport
    from gtsa_kit.export.manifest import Manifest
    from gtsa_kit.export.open_options import ImportOptions
    from gtsa_kit.export.parity_report import ParityReport
    from gtsa_kit.export.source import Source
    from gtsa_kit.models.encoder import Encoder

__all__ = ["ParityError", "export", "load_encoder", "verify"]


class ParityError(RuntimeError):
    """Raised when an exported file differs from the float32 encoder by more than the tolerance of its precision.

    The file and its manifest stay on disk, so that the report can be read.
    """

    def __init__(self, path: Path, report: "ParityReport") -> None:
        worst = report.worst
        detail = f": {report.preprocessing or report.problem}"
        if worst.problem:
            detail = f": {worst.output}: {report.advice or worst.problem}"
        elif not worst.passed:
            unit = "pixels" if worst.detections is None else "detections"
            share = f"{1 - (worst.agreement or 0):.2%} of the {unit}"
            detail = f": {worst.output} differs by {share if worst.max_abs is None else format(worst.max_abs, '.2g')}"
        super().__init__(f"{path} failed the parity gate{detail}; do not use it")
        self.path = path
        self.report = report


def export(
    source: str | Path,
    *,
    format: str = "onnx",
    out: str | Path | None = None,
    precision: str = "fp32",
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    layers: tuple[int, ...] = (),
    input: str = "float32",
    images: str | Path | None = None,
    calibrate: str | Path | None = None,
    overwrite: bool = False,
    import_options: "ImportOptions | None" = None,
    class_token: bool = False,
    output: str | None = None,
    keep_float: tuple[str, ...] = (),
) -> Path:
    """Export an encoder or a fine-tuned model to a file and compare the file with it, as `gtsa export` does.

    Args:
        source: Run folder, weights (.safetensors, .pth, a Hugging Face or timm folder), or a float32 ONNX file.
        format: "onnx", "torchscript", "pt2" or "openvino".
        out: File or folder; by default beside the weights, as encoder.onnx, model.onnx (fine-tuned) and so on.
        precision: "fp32", "fp16", "bf16", "int8" or "fp8"; not every format supports each of them.
        size: (height, width) in pixels to fix; by default any multiple of the patch size.
        batch: Number of images to fix; by default any.
        layers: Indices of blocks whose feature maps become outputs, from 0.
        input: "float32" for normalized (B, 3, H, W), "uint8" for RGB (B, H, W, 3).
        images: Folder of images for the comparison; by default those of the run, else a sample image.
        calibrate: Folder of typical images; int8 and fp8 take their ranges from it.
        overwrite: Replace an existing file.
        import_options: Facts that weights of another tool do not contain; see `gtsa_kit.load`.
        class_token: Whether the class token after the final norm becomes an output.
        output: "logits" or "mask" of a fine-tuned model; by default logits.
        keep_float: Parts that stay float32 in fp16, int8 and fp8: "head"; in int8 and fp8 also names of layers.

    Returns:
        Path of the file. Its manifest, with the parity report, is beside it as FILE.json.

    Raises:
        ValueError: An argument is invalid or the format does not support it; nothing was written.
        ParityError: The file failed the parity gate.
    """
    from gtsa_kit.export.parity_images import load_parity_images
    from gtsa_kit.export.pipeline import artifact_path, export_artifact, read_calibration
    from gtsa_kit.export.source import open_source
    from gtsa_kit.export.spec import ANY_BATCH, ANY_SIZE, ExportOptions, Range

    opened = open_source(Path(source), import_options)
    height, width = (Range(side, side) for side in size) if size else (ANY_SIZE, ANY_SIZE)
    options = ExportOptions(
        precision=precision,  # type: ignore[arg-type]
        height=height,
        width=width,
        batch=Range(batch, batch) if batch else ANY_BATCH,
        layers=layers,
        class_token=class_token,
        input=input,  # type: ignore[arg-type]
        output=output or "features",  # type: ignore[arg-type]
        keep_float=keep_float,
    )
    if format == "trt":
        raise ValueError("this function builds no TensorRT engines; use the command gtsa export SOURCE --format trt")
    path = artifact_path(opened, format, Path(out) if out else None, overwrite)
    parity_set = load_parity_images(Path(images) if images else opened.images)
    calibration = read_calibration(Path(calibrate)) if calibrate else None
    manifest = export_artifact(opened, format, path, options, parity_set, calibration)
    assert manifest.parity is not None
    if not manifest.parity.passed:
        raise ParityError(path, manifest.parity)
    return path


def verify(
    artifact: str | Path,
    against: str | Path | None = None,
    images: str | Path | None = None,
    device: str = "auto",
    import_options: "ImportOptions | None" = None,
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

    Returns:
        Report with `passed`, and the difference of every output at every input shape.

    Raises:
        ValueError: The file can't be opened, the weights that it was exported from are not found, or a file of the
            folder was changed.
    """
    from gtsa_kit.export.folder_check import find_exported_folder, is_exported_folder

    path = Path(artifact)
    given = (Path(against) if against else None, Path(images) if images else None, device, import_options)
    if is_exported_folder(path):
        return _verify_folder(find_exported_folder(path), *given)
    return _verify_file(path, *given)


def load_encoder(
    source: str | Path, layers: tuple[int, ...] = (), import_options: "ImportOptions | None" = None
) -> "Encoder":
    """Open an encoder as a torch module in evaluation mode, on the CPU.

    Args:
        source: Run folder, weights of gtsa-kit or of another tool, or a float32 ONNX file that gtsa-kit wrote.
        layers: Indices of blocks whose feature maps are returned too, from 0.
        import_options: Facts that weights of another tool do not contain; see `gtsa_kit.load`.

    Returns:
        Module that takes (B, 3, H, W) float32, normalized by its `preprocessing`, and returns `Features`.

    Raises:
        ValueError: The source holds no supported encoder, or a layer does not exist.
    """
    from gtsa_kit.export.source import open_source
    from gtsa_kit.models.architecture import check_layers

    encoder = open_source(Path(source), import_options).encoder.eval()
    check_layers(layers, encoder.architecture)
    encoder.layers = layers
    return encoder


def _verify_file(
    file: Path, against: Path | None, images: Path | None, device: str, import_options: "ImportOptions | None"
) -> "ParityReport":
    """Compare an exported file with the encoder."""
    from gtsa_kit.export.parity import check_parity
    from gtsa_kit.export.parity_images import load_parity_images
    from gtsa_kit.export.runtime.load import load

    runner = load(file, device)
    source = _open_reference(file, runner.manifest, against, import_options)
    return check_parity(source.model, runner, load_parity_images(images or source.images))


def _verify_folder(
    folder: Path, against: Path | None, images: Path | None, device: str, import_options: "ImportOptions | None"
) -> "ParityReport":
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
        return _verify_file(file, against, images, device, import_options)
    source = _open_reference(folder / EXPORT_FILE, report, against, import_options)
    return check_folder_parity(source.encoder, report.format, folder, load_parity_images(images or source.images))


def _open_reference(
    artifact: Path,
    manifest: "Manifest | FolderReport",
    against: Path | None,
    import_options: "ImportOptions | None",
) -> "Source":
    from gtsa_kit.export.reference import missing_reference, open_reference

    source = open_reference(artifact, manifest, against, import_options)
    if source is None:
        raise ValueError(missing_reference(artifact, manifest).replace("--against", "`against`"))
    return source
