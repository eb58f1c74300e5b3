"""Heads of an ensemble that `gtsa export --format triton --head` writes. Imports torch."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.export_steps import progress_callback
from gtsa_kit.cli.support.parity_table import failure_message, parity_table
from gtsa_kit.cli.support.progress import Steps
from gtsa_kit.export.formats.content import open_manifest
from gtsa_kit.export.head_export import check_head_options, export_head_artifact
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.parity_images import load_parity_images
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import SUFFIX, ExportOptions
from gtsa_kit.export.triton.ensemble import ServedHead, open_served_head


def layers_of_heads(heads: Mapping[str, Path]) -> tuple[int, ...]:
    """Return the blocks whose maps heads take.

    Raises:
        ValueError: A path holds no head.
    """
    layers: set[int] = set()
    for path in heads.values():
        if path.suffix == SUFFIX["onnx"]:
            record = open_manifest(path).manifest.head
            layers |= set(record.layers if record else ())
        else:
            layers |= set(check_head_options(open_source(path), ExportOptions()).spec.layers)
    return tuple(sorted(layers))


def open_heads(
    heads: Mapping[str, Path], encoder: Manifest, folder: Path, images: Path | None, console: Console
) -> list[ServedHead]:
    """Open the files of heads; export those of runs to a folder first, through their gate.

    Exits with 1 if a head fails its gate.

    Args:
        heads: File or run folder of each head by its name.
        encoder: Manifest of the encoder, whose precision the heads of runs get where heads have it.
        folder: Folder for the exported files.
        images: Folder of images for the gate; None takes those of each run.
        console: Console for everything that is printed.

    Raises:
        ValueError: A path holds no head, or one that does not fit the encoder.
    """
    opened = []
    for name, path in heads.items():
        file = path
        if path.suffix != SUFFIX["onnx"]:
            file = folder / f"{name}.onnx"
            _export(name, path, file, encoder, images, console)
        opened.append(open_served_head(name, file, encoder))
    return opened


def _export(name: str, path: Path, file: Path, encoder: Manifest, images: Path | None, console: Console) -> None:
    source = replace(open_source(path), part="head")
    options = ExportOptions(precision="fp16" if encoder.precision == "fp16" else "fp32")
    check_head_options(source, options)
    parity_set = load_parity_images(require(images) if images else source.images)
    console.print(f"writing the head {name}")
    with Steps(console) as steps:
        manifest = export_head_artifact(
            replace(source, part="head"), file, options, parity_set, progress_callback(steps)
        )
    assert manifest.parity is not None
    console.print(parity_table(manifest.parity))
    if not manifest.parity.passed:
        fail(f"{failure_message(path, manifest.parity)}; no repository was written", 1)
