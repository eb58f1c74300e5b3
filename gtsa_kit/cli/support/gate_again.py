"""Parity gate of a file that was changed after its export, before anything is built on it."""

from pathlib import Path

from rich.console import Console

from gtsa_kit.cli.support.common import fail, require
from gtsa_kit.cli.support.export_steps import progress_callback
from gtsa_kit.cli.support.parity_table import failure_message, parity_table
from gtsa_kit.cli.support.progress import Steps
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.parity_images import load_parity_images
from gtsa_kit.export.pipeline import measure_again
from gtsa_kit.export.reference import missing_reference, open_reference


def gate_again(path: Path, problem: str, manifest: Manifest, images: Path | None, console: Console) -> Manifest:
    """Compare a file with its encoder anew, and print the report; exit with 1 if it fails.

    Args:
        path: The file.
        problem: Reason why it has no report.
        manifest: Its manifest.
        images: Folder of images; None takes those of the run.
        console: Console for messages.

    Returns:
        The manifest with the new report.

    Raises:
        ValueError: The weights that it was exported from are not found.
    """
    console.print(f"{path} has no parity report: {problem}; it is compared with the encoder now", soft_wrap=True)
    source = open_reference(path, manifest)
    if source is None:
        reason, _, _ = missing_reference(path, manifest).partition("; ")
        raise ValueError(f"{reason}; put them beside it, or export them again")
    parity_set = load_parity_images(require(images) if images else source.images, source.encoder.preprocessing)
    with Steps(console) as steps:
        manifest = measure_again(source, path, manifest, parity_set, progress_callback(steps))
    assert manifest.parity is not None
    if not manifest.parity.passed:
        console.print(parity_table(manifest.parity))
        fail(f"{failure_message(path, manifest.parity)}; nothing was built from it", 1)
    return manifest
