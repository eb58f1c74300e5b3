"""What can be exported: a run, weights of ours or of others, or a float32 ONNX file that was exported before."""

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
from gtsa_kit.models.checkpoint_import import Branch, open_weights
from gtsa_kit.models.encoder import Architecture, Encoder, Preprocessing
from gtsa_kit.models.weights import build_encoder, find_weights


class SourceLocation(Protocol):
    """Something on the disk that artifacts are made from."""

    @property
    def path(self) -> Path:
        """The file or folder."""

    @property
    def folder(self) -> Path:
        """Where artifacts go unless told otherwise."""


@dataclass(frozen=True)
class Source:
    """The float32 encoder to export, which is also the reference of the parity gate."""

    path: Path
    encoder: Encoder
    sha256: str
    """Of the file with the weights; an exported file hands on what its manifest says."""
    note: str = ""
    """What was taken out of a foreign checkpoint, and what was assumed."""

    @property
    def folder(self) -> Path:
        """Where artifacts go unless told otherwise: beside the weights."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def images(self) -> Path | None:
        """What the run was trained on, if the folder still says so and it is still there."""
        settings = self.folder / "config.yaml"
        data = Path(load_config(file=settings).data) if settings.exists() else None
        return data if data and data.exists() else None


@dataclass(frozen=True)
class ImportOptions:
    """What a foreign checkpoint does not say of itself."""

    branch: Branch | None = None
    heads: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


def open_source(path: Path, hints: ImportOptions | None = None) -> Source:
    """Open a run folder, weights (`gtsa_kit.models.checkpoint_import`), or a float32 `.onnx` exported by us.

    Raises:
        ValueError: Nothing usable there.
    """
    if path.is_file() and path.suffix == SUFFIX["onnx"]:
        manifest = read_onnx_manifest(path)
        return Source(path, _rebuild(manifest, read_weights(path), path), manifest.source_sha256)
    if path.suffix in SUFFIX.values():
        raise ValueError(f"{path} holds no weights to export again; name the run or the weights that it came from")
    hints = hints or ImportOptions()
    file = find_weights(path) if (path / "encoder.safetensors").exists() or (path / "checkpoints").exists() else path
    opened = open_weights(file, hints.branch, hints.heads, hints.mean, hints.std)
    return Source(path, opened.encoder, sha256_of(opened.file), "" if opened.layout == "gtsa-kit" else opened.note)


def find_reference(artifact: Path, manifest: Manifest) -> Source | None:
    """The encoder that an artifact came from: the weights beside it, else those inside it; None if neither is there."""
    for folder in (artifact.parent, artifact.parent.parent):
        weights = folder / "encoder.safetensors"
        if weights.exists() and sha256_of(weights) == manifest.source_sha256:
            return open_source(weights)
    holder = graph_path(artifact) if manifest.format == "trt" else artifact
    has_them = manifest.format in ("onnx", "trt") and holder.exists() and has_weights(holder)
    return open_source(holder) if has_them else None


def _rebuild(manifest: Manifest, weights: dict[str, Tensor], path: Path) -> Encoder:
    architecture = Architecture.from_dict(manifest.architecture)
    return build_encoder(architecture, weights, path, preprocessing=Preprocessing.from_dict(manifest.preprocessing))
