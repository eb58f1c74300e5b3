"""What can be exported: a run, its weights, or a file that was exported before."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from gtsa_kit.checkpoint import build_encoder, find_weights, load_encoder
from gtsa_kit.config import load_config
from gtsa_kit.encoder import Architecture, Encoder, Preprocessing
from gtsa_kit.export.graph import WEIGHT_PREFIX
from gtsa_kit.export.manifest import Manifest
from gtsa_kit.export.runtime import load, load_torchscript
from gtsa_kit.export.spec import SUFFIX
from gtsa_kit.export.to_onnx import read_weights
from gtsa_kit.files import sha256_of


@dataclass(frozen=True)
class Source:
    """The float32 encoder to export, which is also the reference of the parity gate."""

    path: Path
    encoder: Encoder
    sha256: str
    """Of the `.safetensors` file; an exported file hands on what its manifest says."""

    @property
    def folder(self) -> Path:
        """Where artifacts go unless told otherwise: beside the weights."""
        return self.path if self.path.is_dir() else self.path.parent

    @property
    def photographs(self) -> Path | None:
        """What the run was trained on, if the folder still says so and it is still there."""
        settings = self.folder / "config.yaml"
        data = Path(load_config(file=settings).data) if settings.exists() else None
        return data if data and data.exists() else None


def open_source(path: Path) -> Source:
    """Open a run folder, a `.safetensors` of ours, or a file exported by us.

    Raises:
        ValueError: Nothing usable there.
    """
    if path.suffix == SUFFIX["onnx"] and path.is_file():
        manifest = load(path, "cpu").manifest
        return Source(path, _rebuild(manifest, read_weights(path), path), manifest.source_sha256)
    if path.suffix == SUFFIX["torchscript"] and path.is_file():
        manifest = load(path, "cpu").manifest
        state = load_torchscript(path).state_dict()
        weights = {name.removeprefix(WEIGHT_PREFIX): tensor for name, tensor in state.items()}
        return Source(path, _rebuild(manifest, weights, path), manifest.source_sha256)
    encoder = load_encoder(path)
    return Source(path, encoder, sha256_of(find_weights(path)))


def _rebuild(manifest: Manifest, weights: dict[str, Tensor], path: Path) -> Encoder:
    architecture = Architecture.from_dict(manifest.architecture)
    return build_encoder(architecture, weights, path, preprocessing=Preprocessing.from_dict(manifest.preprocessing))
