"""Float32 encoder that an artifact was exported from: where it lies, and whether it is the one of the manifest."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path

from gtsa_kit.export.folder_report import FolderReport
from gtsa_kit.export.formats.content import open_manifest
from gtsa_kit.export.manifest import Manifest, graph_path
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.source import Source, open_source
from gtsa_kit.export.source_facts import check_no_import_options
from gtsa_kit.export.spec import SUFFIX
from gtsa_kit.models.checkpoint_import.shard_index import sha256_of_weights
from gtsa_kit.models.run_folder import ENCODER, MODEL


def open_reference(
    artifact: Path,
    manifest: Manifest | FolderReport,
    against: Path | None = None,
    given: ImportOptions | None = None,
) -> Source | None:
    """Open the encoder that an artifact was exported from.

    The weights are looked for where the manifest says (relative to the artifact, then the absolute path), beside the
    artifact and in the folder above, each checked by the hash in the manifest; then inside an ONNX file, or in the
    graph beside an engine. Weights of other tools are opened with the options of the export.

    Args:
        artifact: The exported file, or the report in an exported folder.
        manifest: Its manifest, or that report.
        against: Run or weights to compare with in place of these, whatever their hash.
        given: Facts that the weights of `against` do not contain; by default those of the export.

    Returns:
        The source, or None if the weights are in none of these.

    Raises:
        ValueError: `against` holds no encoder.
    """
    if against:
        return open_source(against, given) if given and given.given else _open_given(against, manifest)
    weights = next((file for file in _candidates(artifact, manifest) if _has_hash(file, manifest.source_sha256)), None)
    if weights:
        return open_source(weights, _import_options(manifest))
    if isinstance(manifest, FolderReport) or manifest.format not in ("onnx", "trt"):
        return None
    from gtsa_kit.export.formats.onnx import has_weights

    onnx_file = graph_path(artifact) if manifest.format == "trt" else artifact
    return _open_inside(onnx_file, manifest) if onnx_file.exists() and has_weights(onnx_file) else None


def open_exportable(path: Path, given: ImportOptions | None = None) -> Source:
    """Open the source of an export; an exported ONNX file of a task model stands for the run that it came from.

    Such a file has the head's batch norms folded into its convolutions, so that its weights are not those of the run.

    Raises:
        ValueError: See `open_source`; or the run of an ONNX file is not found, or the file was changed later.
    """
    if path.suffix != SUFFIX["onnx"] or not path.is_file():
        return open_source(path, given)
    opened = open_manifest(path)
    if opened.manifest.kind != "task":
        return open_source(path, given)
    check_no_import_options(path, given or ImportOptions())
    if opened.problem:
        raise ValueError(f"{path} stands for its run no more: {opened.problem}; name the run")
    source = open_reference(path, opened.manifest)
    if source is None:
        reason, _, _ = missing_reference(path, opened.manifest).partition("; ")
        raise ValueError(f"{reason}; name the run or its model.safetensors in place of the file")
    return replace(source, note=f"{path}: the float32 weights of {source.path.resolve()} are exported again")


def _open_given(against: Path, manifest: Manifest | FolderReport) -> Source:
    """Open weights that the user names; with the options of the export if these are the weights of the export."""
    options = _import_options(manifest)
    if options.given:
        with suppress(ValueError):
            source = open_source(against, options)
            if source.sha256 == manifest.source_sha256:
                return source
    return open_source(against)


def missing_reference(artifact: Path, manifest: Manifest | FolderReport) -> str:
    """Return why an artifact can't be compared, with the places that were searched, and what to do."""
    searched = [*map(str, manifest.source.candidates(artifact)), f"beside {artifact.name} and in the folder above it"]
    return (
        f"the weights that {artifact} was exported from (sha256 {manifest.source_sha256[:12]}) were not found: looked "
        f"at {', '.join(dict.fromkeys(searched))}; name them with --against"
    )


def _candidates(artifact: Path, manifest: Manifest | FolderReport) -> Iterator[Path]:
    yield from manifest.source.candidates(artifact)
    for folder in (artifact.parent, artifact.parent.parent):
        yield folder / (ENCODER if isinstance(manifest, FolderReport) or manifest.task is None else MODEL)


def _has_hash(file: Path, sha256: str) -> bool:
    return file.is_file() and sha256_of_weights(file) == sha256


def _import_options(manifest: Manifest | FolderReport) -> ImportOptions:
    record = manifest.source
    facts = (field.name for field in fields(ImportOptions))
    return ImportOptions(**{name: getattr(record, name) for name in facts})


def _open_inside(path: Path, manifest: Manifest) -> Source | None:
    """Open the weights inside an ONNX file unless another tool removed or changed some of them.

    Manifests of earlier versions have no digest of the weights; then they are taken as they are.
    """
    try:
        source = open_source(path)
    except ValueError:
        return None
    trusted = source.sha256 == manifest.source_sha256 or not manifest.weights_sha256
    return source if trusted else None
