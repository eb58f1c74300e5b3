"""The public functions on exported files: write one, open an encoder."""

from pathlib import Path
from typing import TYPE_CHECKING

from gtsa_kit.export.gate_errors import ParityError, raise_if_lower, score_beside

if TYPE_CHECKING:
    from gtsa_kit.export.open_options import ImportOptions
    from gtsa_kit.models.encoder import Encoder


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
    score: str | Path | None = None,
    max_drop: float = 0.5,
) -> Path:
    """Export an encoder or a fine-tuned model to a file and compare the file with it, as `gtsa export` does.

    Args:
        source: Run folder, weights (.safetensors, .pth, a Hugging Face or timm folder), a float32 ONNX file of an
            encoder, or an ONNX file of a fine-tuned model whose run is where the manifest says.
        format: "onnx", "torchscript", "pt2" or "openvino".
        out: File or folder; by default beside the weights, as encoder.onnx, model.onnx (fine-tuned) and so on.
        precision: "fp32", "fp16", "bf16", "int8" or "fp8"; not every format supports each of them.
        size: (height, width) in pixels to fix; by default any multiple of the patch size.
        batch: Number of images to fix; by default any.
        layers: Indices of blocks whose feature maps become outputs, from 0.
        input: "float32" for normalized (B, N, H, W). For samples (B, H, W, N) that the graph normalizes: "uint8" of RGB
            and of other 8-bit channels, "uint16", or "float32-samples", which are the samples of any file as float32.
        images: Folder of images for the comparison; by default those of the run, else a sample image.
        calibrate: Folder of typical images; int8 and fp8 take their ranges from it.
        overwrite: Replace an existing file.
        import_options: Facts that weights of another tool do not contain; see `gtsa_kit.load`.
        class_token: Whether the class token after the final norm becomes an output.
        output: "logits" or "mask" of a fine-tuned model; by default logits.
        keep_float: Parts that stay float32 in fp16, int8 and fp8: "head"; in int8 and fp8 also names of layers.
        score: Labeled images, as for `finetune`, on which the file of a fine-tuned model is scored beside the model.
        max_drop: Largest loss of mIoU or top-1 in points.

    Returns:
        Path of the file. Its manifest, with the parity report and the score, is beside it as FILE.json.

    Raises:
        ValueError: An argument is invalid or the format does not support it; nothing was written.
        ParityError: The file failed the parity gate.
        TaskScoreError: The file loses more than `max_drop`.
    """
    from gtsa_kit.export.parity_images import load_parity_images
    from gtsa_kit.export.pipeline import artifact_path, export_artifact, read_calibration, record_task_score
    from gtsa_kit.export.reference import open_exportable
    from gtsa_kit.export.runtime.load import load
    from gtsa_kit.export.spec import ANY_BATCH, ANY_SIZE, ExportOptions, Range

    opened = open_exportable(Path(source), import_options)
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
    parity_set = load_parity_images(Path(images) if images else opened.images, opened.encoder.preprocessing)
    calibration = read_calibration(Path(calibrate), opened.encoder.preprocessing) if calibrate else None
    manifest = export_artifact(opened, format, path, options, parity_set, calibration)
    assert manifest.parity is not None
    if not manifest.parity.passed:
        raise ParityError(path, manifest.parity)
    if score is not None:
        record = score_beside(opened, load(path, "cpu"), Path(score), max_drop)
        record_task_score(path, manifest, record)
        raise_if_lower(path, record)
    return path


def load_encoder(
    source: str | Path, layers: tuple[int, ...] = (), import_options: "ImportOptions | None" = None
) -> "Encoder":
    """Open an encoder as a torch module in evaluation mode, on the CPU.

    Args:
        source: Run folder, weights of gtsa-kit or of another tool, or a float32 ONNX file that gtsa-kit wrote.
        layers: Indices of blocks whose feature maps are returned too, from 0.
        import_options: Facts that weights of another tool do not contain; see `gtsa_kit.load`.

    Returns:
        Module that takes (B, N, H, W) float32, normalized by its `preprocessing`, and returns `Features`.

    Raises:
        ValueError: The source holds no supported encoder, or a layer does not exist.
    """
    from gtsa_kit.export.source import open_source
    from gtsa_kit.models.architecture import check_layers

    encoder = open_source(Path(source), import_options).encoder.eval()
    check_layers(layers, encoder.architecture)
    encoder.layers = layers
    return encoder
