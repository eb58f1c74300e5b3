"""Source of an export: a run, weights of gtsa-kit or another tool, or a float32 ONNX file exported before."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from gtsa_kit.config import load_config
from gtsa_kit.export.formats.onnx import has_weights, read_weights
from gtsa_kit.export.formats.onnx_file import read_onnx_manifest
from gtsa_kit.export.manifest import Manifest, graph_path
from gtsa_kit.export.spec import SUFFIX
from gtsa_kit.files import sha256_of
from gtsa_kit.models.checkpoint_import import open_weights
from gtsa_kit.models.encoder import Architecture, Encoder, Preprocessing
from gtsa_kit.models.run_folder import Branch
from gtsa_kit.models.weights import build_encoder


class SourceLocation(Protocol):
    """Location of the file or folder that artifacts are made from."""

    @property
    def path(self) -> Path:
        """File or folder."""

    @property
    def folder(self) -> Path:
        """Default folder of artifacts."""


@dataclass(frozen=True)
class Source:
    """Float32 encoder to export, and reference of the parity gate."""

    path: Path
    encoder: Encoder
    sha256: str
    """SHA-256 of the file with the weights; for an exported file, the one in its manifest."""
    note: str = ""
    """Summary of an imported checkpoint: weights used, keys skipped, values assumed. For a run of gtsa-kit: which
    checkpoint and branch, or "" for the teacher of a finished one."""

    @property
    def folder(self) -> Path:
        """Default folder of artifacts: that of the weights."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def images(self) -> Path | None:
        """Training images of the run, if its config.yaml names them and they exist."""
        settings = self.folder / "config.yaml"
        data = Path(load_config(file=settings).data) if settings.exists() else None
        return data if data and data.exists() else None


@dataclass(frozen=True)
class ImportOptions:
    """Facts that the checkpoint of another tool does not contain; None leaves one to `open_weights`."""

    branch: Branch | None = None
    heads: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


def open_source(path: Path, import_options: ImportOptions | None = None) -> Source:
    """Open a run folder, weights of any tool that `checkpoint_import` reads, or a float32 `.onnx` of gtsa-kit.

    Args:
        path: File or folder.
        import_options: Facts that a checkpoint of another tool does not contain.

    Raises:
        ValueError: The path holds no encoder that can be exported.
    """
    if path.is_file() and path.suffix == SUFFIX["onnx"]:
        manifest = read_onnx_manifest(path)
        return Source(path, _rebuild(manifest, read_weights(path), path), manifest.source_sha256)
    if path.suffix in SUFFIX.values():
        raise ValueError(f"{path} can't be exported again; name the run or the weights that it was exported from")
    given = import_options or ImportOptions()
    imported = open_weights(path, given.branch, given.heads, given.mean, given.std)
    note = imported.run_note if imported.origin == "gtsa-kit" else imported.note
    return Source(path, imported.encoder, sha256_of(imported.file), note)


def find_reference(artifact: Path, manifest: Manifest) -> Source | None:
    """Open the encoder that an artifact was exported from.

    The weights are looked for beside the artifact, in the folder above, and inside the artifact (only ONNX; for an
    engine, in the graph beside it).

    Returns:
        The source, or None if the weights are in none of these.
    """
    for folder in (artifact.parent, artifact.parent.parent):
        weights = folder / "encoder.safetensors"
        if weights.exists() and sha256_of(weights) == manifest.source_sha256:
            return open_source(weights)
    onnx_file = graph_path(artifact) if manifest.format == "trt" else artifact
    usable = manifest.format in ("onnx", "trt") and onnx_file.exists() and has_weights(onnx_file)
    return open_source(onnx_file) if usable else None


def _rebuild(manifest: Manifest, weights: dict[str, Tensor], path: Path) -> Encoder:
    architecture = Architecture.from_dict(manifest.architecture)
    return build_encoder(architecture, weights, path, Preprocessing.from_dict(manifest.preprocessing))
