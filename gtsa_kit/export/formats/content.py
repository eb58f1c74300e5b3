"""Content of an artifact, and the manifest that belongs to it."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gtsa_kit.export.formats.onnx_digest import model_digest
from gtsa_kit.export.formats.onnx_file import metadata_value, read_model
from gtsa_kit.export.manifest import METADATA_KEY, Manifest, manifest_path, parse_manifest, read_manifest_text
from gtsa_kit.export.spec import SUFFIX
from gtsa_kit.files import sha256_of, shell_word
from gtsa_kit.progress import Note

if TYPE_CHECKING:
    from onnx import ModelProto

PLAN: Final = ".plan"
"""Suffix of an engine in a model repository of Triton."""
CHANGED: Final = "the file was changed after its export"
EDITED: Final = "its manifest was changed after the export"
UNBOUND: Final = "its manifest names no digest of the file, so its report may be that of another file"
UNREADABLE: Final = "its report was written by another version of gtsa-kit"


class ReportWarning(Note):
    """Issued when a file is opened whose parity report is not of this file."""


@dataclass(frozen=True)
class ArtifactManifest:
    """Manifest of an artifact; it holds a report only if that is of the artifact's present content."""

    manifest: Manifest
    problem: str = ""
    """Reason why the report was removed; "" if it is valid or there never was one."""
    note: str = ""
    """Remark about a manifest that was not used, for display."""

    def remark(self, path: Path) -> str:
        """Return what a user of the file must know, and after a semicolon what to do; "" if there is nothing."""
        if not self.problem:
            return f"{path}: {self.note}" if self.note else ""
        return f"{path} has no parity report: {self.problem}; gtsa verify compares it with the encoder again"


def content_digest(path: Path) -> str:
    """Return the SHA-256 of what an artifact computes.

    For ONNX that is graph and weights, for OpenVINO the digests of both files, for other formats that of the file.

    Raises:
        ValueError: The file is not readable as ONNX, or its weights are missing.
    """
    if path.suffix == SUFFIX["onnx"]:
        return model_digest(read_model(path))
    weights = path.with_suffix(".bin")
    parts = [path, weights] if path.suffix == SUFFIX["openvino"] and weights.exists() else [path]
    return "+".join(sha256_of(part) for part in parts)


def open_manifest(path: Path, model: "ModelProto | None" = None) -> ArtifactManifest:
    """Read the manifest of an artifact, and remove its report unless it is of the artifact's content.

    An ONNX file has a manifest inside, and one beside it, which is preferred if both belong to the file. Of two
    manifests with a false digest the one inside is taken: the one beside a file is exchanged more easily.

    Args:
        path: The artifact.
        model: The content of an ONNX file with its weights, if it was read already.

    Raises:
        ValueError: The artifact has no manifest of gtsa-kit, or that of another format.
    """
    if path.suffix != SUFFIX["onnx"]:
        opened = _bind(*_parse(read_manifest_text(path), manifest_path(path)), content_digest(path))
    else:
        opened = _open_onnx_manifest(path, model or read_model(path))
    if path.suffix not in (SUFFIX.get(opened.manifest.format), PLAN if opened.manifest.format == "trt" else None):
        raise ValueError(
            f"{manifest_path(path)} describes a file in {opened.manifest.format}, not {path.name}; copy both files "
            "again, or export again"
        )
    return replace(opened, manifest=_locate_source(opened.manifest, path))


def _locate_source(manifest: Manifest, path: Path) -> Manifest:
    """Return a manifest with the present path of the source, if artifact and source have moved together."""
    moved = path.parent / manifest.source.relative
    if not manifest.source.relative or not moved.exists():
        return manifest
    return manifest.model_copy(update={"source": manifest.source.model_copy(update={"path": str(moved.resolve())})})


def _open_onnx_manifest(path: Path, model: "ModelProto") -> ArtifactManifest:
    digest, embedded = model_digest(model), metadata_value(model, METADATA_KEY)
    beside = manifest_path(path)
    if embedded is None and not beside.exists():
        raise ValueError(
            f"{path} was not exported by gtsa-kit: no manifest is inside or beside it; if it holds a ViT, "
            f"gtsa convert {shell_word(path)} --out DIR writes its weights, which every command takes"
        )
    if embedded is None:
        return _bind(*_parse(read_manifest_text(path), beside), digest)
    inside = _bind(*_parse(embedded, path), digest)
    if not beside.exists():
        return inside
    try:
        other = _bind(*_parse(read_manifest_text(path), beside), digest)
    except ValueError as error:
        return replace(inside, note=f"{str(error).partition('; ')[0]}; the manifest inside {path.name} is used")
    if not other.problem:
        return other
    used = f"{beside.name} is not the manifest of this file, so that inside {path.name} is used"
    return replace(inside, note="" if inside.problem else used)


def _parse(text: str, origin: Path) -> tuple[Manifest, str]:
    """Parse a manifest; return it without its report, and the reason, if that alone can't be parsed."""
    try:
        return parse_manifest(text, str(origin)), ""
    except ValueError:
        try:
            content = json.loads(text)
            content["parity"] = None
            text = json.dumps(content)
        except (json.JSONDecodeError, TypeError):
            pass
        return parse_manifest(text, str(origin)), UNREADABLE


def _bind(manifest: Manifest, problem: str, digest: str) -> ArtifactManifest:
    """Remove the report of a manifest that is not of the content with this digest."""
    graph_parity = manifest.engine.graph.parity if manifest.engine else None
    if not problem and not manifest.content_sha256:
        problem = UNBOUND if manifest.parity or graph_parity else ""
    elif not problem and manifest.content_sha256 != digest:
        problem = CHANGED
    elif not problem and manifest.checksum != manifest.expected_checksum:
        problem = EDITED
    return ArtifactManifest(without_report(manifest) if problem else manifest, problem)


def without_report(manifest: Manifest) -> Manifest:
    """Return a manifest without its parity report and task score and, for an engine, without that of its graph."""
    engine = manifest.engine
    if engine:
        engine = engine.model_copy(update={"graph": engine.graph.model_copy(update={"parity": None})})
    return manifest.model_copy(update={"parity": None, "task_score": None, "engine": engine})
