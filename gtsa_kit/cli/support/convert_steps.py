"""Steps of `gtsa convert`. Imports torch."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from gtsa_kit.cli.support.opening import print_note
from gtsa_kit.data.labeled import read_classification_dataset
from gtsa_kit.evaluation.conversion import ConversionReport, compare_conversion
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.parity_images import load_parity_images
from gtsa_kit.export.source import open_imported
from gtsa_kit.files import sha256_of, write_json
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.patch_conversion import BASE_SIDE, to_patch
from gtsa_kit.models.weights import build_encoder, describe_encoder, save_weights


@dataclass(frozen=True)
class ConvertOptions:
    """Options of a conversion."""

    out: Path
    """Folder to write to."""
    patch: int | None
    """Side of the new patches in pixels; None keeps them."""
    images: Path | None
    """Folder of images to compare patches on; None takes a sample image."""
    probe: Path | None
    """Labeled images for the k-NN probe."""


def convert_weights(
    path: Path, facts: ImportOptions, options: ConvertOptions, console: Console
) -> ConversionReport | None:
    """Write encoder.safetensors and encoder.json, unless the exact part of the conversion is not exact.

    Returns:
        Comparison with the source; None if the patch size stays.

    Raises:
        ValueError: The weights can't be opened or have no such conversion, or images can't be read.
    """
    probe = read_classification_dataset(options.probe) if options.probe else None
    imported = open_imported(path, facts)
    print_note(path, imported.run_note if imported.origin == "gtsa-kit" else imported.note, console)
    before, report = imported.encoder, None
    encoder = before
    if options.patch is not None:
        weights, architecture = to_patch(before.vit.state_dict(), before.architecture, options.patch)
        preprocessing = replace(before.preprocessing, size=BASE_SIDE)  # that of the new grid of positions
        encoder = build_encoder(architecture, weights, path, preprocessing)
        report = compare_conversion(before, encoder, load_parity_images(options.images, preprocessing).images, probe)
        if not report.passed:
            return report
    conversion = {"source_sha256": sha256_of(imported.file), **(report.to_dict() if report else {})}
    _write(options.out, encoder, conversion)
    return report


def _write(folder: Path, encoder: Encoder, conversion: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "encoder.safetensors"
    save_weights(path, encoder.vit.state_dict())
    description = describe_encoder(encoder.architecture, encoder.preprocessing)
    write_json(path.with_suffix(".json"), description | {"conversion": conversion})
