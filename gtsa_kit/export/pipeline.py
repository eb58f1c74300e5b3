"""Source to artifact: write, open what was written, prove it, say so in the manifest."""

from collections.abc import Callable
from pathlib import Path

from gtsa_kit.export.manifest import Manifest, describe, write_manifest
from gtsa_kit.export.parity import check_parity, parity_images
from gtsa_kit.export.runtime import load
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import FORMATS, SUFFIX
from gtsa_kit.export.to_onnx import embed_manifest, export_onnx
from gtsa_kit.export.to_torchscript import export_torchscript

WRITERS = {"onnx": export_onnx, "torchscript": export_torchscript}


def artifact_path(source: Source, form: str, out: Path | None, force: bool) -> Path:
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


def export_artifact(
    source: Source,
    form: str,
    path: Path,
    images: Path | None = None,
    on_case: Callable[[int, int], None] = lambda *_: None,
) -> Manifest:
    """Export to `path` and run the parity gate on what was written; the report is in the manifest that is returned.

    Nothing is deleted when the gate fails: the report says what is wrong with the file.

    Args:
        source: What to export.
        form: One of `FORMATS`.
        path: See `artifact_path`.
        images: Photographs for the gate; by default those of the run.
        on_case: Told (cases done, cases in all) by the gate.
    """
    photographs = parity_images(images or source.photographs)  # before anything is written: it may be refused
    path.parent.mkdir(parents=True, exist_ok=True)
    target = WRITERS[form](source.encoder, path)
    manifest = describe(source.encoder, form, "fp32", target, source.sha256)
    write_manifest(path, manifest)
    report = check_parity(source.encoder, load(path, "cpu"), photographs, on_case)
    manifest = manifest.model_copy(update={"parity": report})
    if form == "onnx":
        embed_manifest(path, manifest)
    write_manifest(path, manifest)
    return manifest
