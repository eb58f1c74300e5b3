"""Models that are compared: run folders, weights, exported files, and random weights beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from gtsa_kit.config import Arch
from gtsa_kit.export import Runner, load
from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.formats.onnx import has_weights
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.runtime.load import pick_device
from gtsa_kit.export.runtime.torch_runner import TorchRunner
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import SUFFIX, ExportOptions
from gtsa_kit.models.encoder import ARCHITECTURES, Encoder

NO_MODEL = "which model? name a run folder, weights or an exported file, or --random vit_small"


@dataclass(frozen=True)
class Model:
    """An opened model under the name that tables give it."""

    name: str
    runner: Runner
    source: Path | None
    """None for random weights."""


def open_models(
    sources: Sequence[Path],
    random: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    layers: tuple[int, ...] = (),
) -> list[Model]:
    """Open models to compare, those with random weights last.

    Args:
        sources: What `gtsa_kit.export.load` opens.
        random: Architectures to build with random weights, as training would start from.
        seed: Of these weights.
        device: auto, cpu or cuda.
        layers: Blocks whose maps are needed too.

    Raises:
        ValueError: No model at all, an unknown architecture, or something that can't be opened.
    """
    if not sources and not random:
        raise ValueError(NO_MODEL)
    sources, random = list(dict.fromkeys(sources)), list(dict.fromkeys(random))  # each once, under one name
    models = [
        Model(name, load(source, device, layers=layers), source)
        for name, source in zip(distinct_names(sources), sources, strict=True)
    ]
    return models + [Model(f"random {arch}", random_runner(arch, seed, device, layers), None) for arch in random]


def random_runner(arch: str, seed: int, device: str = "auto", layers: tuple[int, ...] = ()) -> Runner:
    """A model with the weights that training starts from."""
    encoder, options = random_encoder(arch, seed, layers), ExportOptions(layers=layers)
    manifest = build_manifest(encoder, "pytorch", options, {"torch": str(torch.__version__)}, f"random, seed {seed}")
    return TorchRunner(ExportGraph(encoder, options), manifest, pick_device(device))


def random_encoder(arch: str, seed: int, layers: tuple[int, ...] = ()) -> Encoder:
    """An encoder with the weights that training starts from; the caller's own random numbers stay as they were."""
    if arch not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {arch!r}; choose one of {', '.join(ARCHITECTURES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(cast(Arch, arch), layers=layers).eval()


def open_encoders(sources: Sequence[Path], random: Sequence[str] = (), seed: int = 0) -> list[tuple[str, Encoder]]:
    """Encoders to look into, under the names of `open_models`: only weights can be, or files that hold them.

    Raises:
        ValueError: As `open_models`; or an exported file that holds no weights of ours.
    """
    if not sources and not random:
        raise ValueError(NO_MODEL)
    sources, random = list(dict.fromkeys(sources)), list(dict.fromkeys(random))
    for source in sources:
        if not source.exists():
            raise ValueError(f"{source} does not exist")
        onnx = source.suffix == SUFFIX["onnx"]
        if source.is_file() and source.suffix in SUFFIX.values() and not (onnx and has_weights(source)):
            raise ValueError(
                f"{source} holds no float32 weights to look into; name the run folder or the .safetensors it came from"
            )
    encoders = [
        (name, open_source(source).encoder) for name, source in zip(distinct_names(sources), sources, strict=True)
    ]
    return encoders + [(f"random {arch}", random_encoder(arch, seed)) for arch in random]


def distinct_names(sources: Sequence[Path]) -> list[str]:
    """Short names of paths: their last parts, as many as it takes to tell them apart.

    A run's own files go by the run: `runs/x/encoder.safetensors` is `x/encoder.safetensors`, `runs/x` is `x`.
    """
    parts = [source.absolute().parts for source in sources]
    names = []
    for index, own in enumerate(parts):
        others = [other for place, other in enumerate(parts) if place != index]
        least = 1 if sources[index].is_dir() else 2
        count = next((n for n in range(least, len(own)) if all(other[-n:] != own[-n:] for other in others)), len(own))
        names.append("/".join(own[-count:]))
    return names
