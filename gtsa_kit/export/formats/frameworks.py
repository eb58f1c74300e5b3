"""Export of the encoder as a checkpoint of another framework, which is read back and compared with the encoder."""

from dataclasses import asdict
from itertools import cycle, islice
from pathlib import Path
from typing import Final

import numpy as np
import torch
from torch import Tensor

from gtsa_kit.export.comparison import compare_output
from gtsa_kit.export.folder_report import FolderReport, write_folder_report
from gtsa_kit.export.formats.framework_files import MAPS_ALONE, WRITERS, native_size
from gtsa_kit.export.formats.reference_models import LOADERS
from gtsa_kit.export.manifest_records import SourceRecord
from gtsa_kit.export.parity_cases import ParityCase
from gtsa_kit.export.parity_images import ParityImages
from gtsa_kit.export.parity_report import ParityReport
from gtsa_kit.export.spec import EMBEDDING, FEATURE_MAP, FRAMEWORKS
from gtsa_kit.export.tolerances import TOLERANCES
from gtsa_kit.files import staged
from gtsa_kit.models.checkpoint_import.key_maps import key_map
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.outputs import Features
from gtsa_kit.models.run_folder import EXPORT_FILE
from gtsa_kit.models.weights import describe_encoder

BATCH: Final = 2
"""Number of images in the comparison."""
REFERENCE: Final = "gtsa-kit encoder, float32, PyTorch"
DETECTRON2_REFERENCE: Final = (
    f"{REFERENCE}, without class token and final norm, which detectron2's ViT lacks, and scaled to unit RMS"
)


def export_framework(
    encoder: Encoder,
    framework: str,
    folder: Path,
    images: ParityImages,
    force: bool = False,
    source_sha256: str = "",
    record: SourceRecord | None = None,
) -> FolderReport:
    """Write the files of one framework into a folder, run them from there, and write the comparison to `gtsa.json`.

    The files stay when the comparison fails; the report says so.

    Args:
        encoder: The encoder; it is converted to float32 on the CPU.
        framework: One of `FRAMEWORKS`.
        folder: Folder to write to; it is created if it is missing.
        images: Images to compare on, at `native_size`.
        force: Whether to replace existing files.
        source_sha256: SHA-256 of the weights that the encoder was read from.
        record: How they were opened.

    Raises:
        ValueError: The framework is unknown, or a file exists and `force` is False.
    """
    _check_folder(framework, folder, force)
    _check_encoder(encoder, framework)
    write, files = WRITERS[framework]
    encoder = encoder.to("cpu").float().eval()
    with staged(folder / EXPORT_FILE) as report_file:
        work = report_file.parent
        write(encoder, {name: tensor.contiguous() for name, tensor in encoder.vit.state_dict().items()}, work)
        description = describe_encoder(encoder.architecture, encoder.preprocessing)
        report = FolderReport(
            format=framework,
            files=files,
            architecture=description["architecture"],
            preprocessing=description["preprocessing"],
            parity=check_folder_parity(encoder, framework, work, images),
            source_sha256=source_sha256,
            source=(record or SourceRecord()).model_copy(update={"path": ""}),
        )
        return write_folder_report(work, report)


def _is_plain(encoder: Encoder) -> bool:
    """Return whether an encoder is a ViT that every library has: a class token and a square grid with positions."""
    weights, (rows, columns) = encoder.vit.state_dict(), encoder.grid
    plain = weights.keys() == key_map("timm", encoder.architecture.depth).keys()
    return plain and rows == columns and weights["pos_embed"].shape[1] == 1 + rows * columns


def _check_folder(framework: str, folder: Path, force: bool) -> None:
    if framework not in FRAMEWORKS:
        raise ValueError(f"unknown framework {framework!r}; choose one of {', '.join(FRAMEWORKS)}")
    if folder.is_file():
        raise ValueError(f"{folder} is a file; choose a folder")
    _, files = WRITERS[framework]
    existing = [name for name in (*files, EXPORT_FILE) if (folder / name).exists()]
    if existing and not force:
        raise ValueError(f"{folder / existing[0]} exists; add --force to replace it, or choose another --out")


def _check_encoder(encoder: Encoder, framework: str) -> None:
    """Raise `ValueError` if the files of a framework can't hold an encoder."""
    if framework not in ("timm", "hf") and encoder.architecture.activation != "gelu":
        raise ValueError(
            f"files for {framework} can't name an activation, and this encoder computes "
            f"{encoder.architecture.activation}; choose timm or hf"
        )
    if framework != "timm" and not _is_plain(encoder):
        raise ValueError(
            f"files for {framework} hold a plain ViT with a square grid of positions, and "
            f"{encoder.architecture.name} is none; choose timm"
        )
    if encoder.architecture.rotary_periods:
        raise ValueError(
            f"files for {framework} can't hold the periods of rotary positions of {encoder.architecture.name}, which "
            "differ from those that timm computes; choose onnx, openvino, torchscript or pt2"
        )
    if framework == "hf" and encoder.architecture.embedding == "norm of mean":
        raise ValueError(
            "ViTModel of transformers has no norm of the mean, which is this encoder's embedding; choose timm, or "
            "--embedding mean"
        )


def check_folder_parity(encoder: Encoder, framework: str, folder: Path, images: ParityImages) -> ParityReport:
    """Compare the files on disk with the encoder, or with the part of the encoder that the framework has.

    Args:
        encoder: The encoder, float32 on the CPU.
        framework: One of `FRAMEWORKS`.
        folder: Folder with the files.
        images: Images to compare on, at `native_size`.
    """
    size, tolerance, detectron2 = native_size(encoder), TOLERANCES["fp32"], framework == "detectron2"
    case = ParityCase(BATCH, *size)
    samples, names = list(islice(cycle(images.images), BATCH)), list(islice(cycle(images.names), BATCH))
    batch = torch.from_numpy(np.stack([encoder.preprocessing(image, size) for image in samples]))
    runtime, network = LOADERS[framework](folder, encoder.architecture)
    with torch.inference_mode():
        expected = detectron2_features(encoder, batch) if detectron2 else encoder(batch)
        embedding, feature_map = network(batch)
    reference = expected.feature_map.mean((2, 3)) if framework in MAPS_ALONE else expected.embedding
    # Tolerances are for features of unit scale, which the final norm gives.
    scale = expected.feature_map.square().mean().sqrt() if detectron2 else 1
    pairs = {
        EMBEDDING: (reference, embedding),
        FEATURE_MAP: (expected.feature_map, feature_map),
    }
    differences = tuple(
        compare_output(output, (ours / scale).numpy(), (theirs / scale).numpy(), case, tolerance, names)
        for output, (ours, theirs) in pairs.items()
    )
    return ParityReport(
        reference=DETECTRON2_REFERENCE if detectron2 else REFERENCE,
        runtime=runtime,
        images=images.origin,
        tolerance=asdict(tolerance),
        passed=all(difference.passed for difference in differences),
        differences=differences,
    )


def detectron2_features(encoder: Encoder, images: Tensor) -> Features:
    """Compute the features of detectron2's ViT with the encoder's weights.

    Args:
        encoder: The encoder.
        images: Normalized (B, N, H, W), of `native_size`.
    """
    vit = encoder.vit
    patches = vit.patch_embed.proj(images)
    x = patches.flatten(2).transpose(1, 2) + vit.pos_embed[:, 1:]
    for block in vit.blocks:
        x = block(x)
    return Features(x.mean(dim=1), x.transpose(1, 2).reshape(patches.shape))
