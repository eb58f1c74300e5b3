"""Models to compare: run folders, weights, exported files, and random weights."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from gtsa_kit.config import Arch
from gtsa_kit.evaluation import NO_MODEL
from gtsa_kit.export import Runner, load
from gtsa_kit.export.build_manifest import build_manifest
from gtsa_kit.export.formats.onnx import has_weights
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.runtime.batching import require_features
from gtsa_kit.export.runtime.load import pick_device
from gtsa_kit.export.runtime.torch_runner import TorchRunner
from gtsa_kit.export.source import Source, open_source
from gtsa_kit.export.spec import SUFFIX, ExportOptions
from gtsa_kit.models.architecture import ARCHITECTURES, EMBEDDING_NAMES, Architecture
from gtsa_kit.models.channel_images import reader_of
from gtsa_kit.models.encoder import Encoder
from gtsa_kit.models.input_channels import require_rgb
from gtsa_kit.models.preprocessing import Preprocessing


@dataclass(frozen=True)
class Model:
    """An opened model with its name in tables."""

    name: str
    runner: Runner
    source: Path | None
    """File or folder of the model; None for random weights."""


def open_models(
    sources: Sequence[Path],
    random: Sequence[str] = (),
    seed: int = 0,
    device: str = "auto",
    layers: tuple[int, ...] = (),
    opener: Callable[[Path], Runner] | None = None,
    baseline: bool = False,
    channels: bool = False,
) -> list[Model]:
    """Open models to compare, those with random weights last.

    Args:
        sources: Files or folders that `gtsa_kit.export.load` opens; repeated ones are opened once.
        random: Architectures to build with random weights, as at the start of training.
        seed: Seed of the random weights.
        device: auto, cpu or cuda.
        layers: Blocks whose feature maps the models return too.
        opener: Function that opens a source in place of `load`, with the layers.
        baseline: Whether to add random weights of the first known architecture of the sources, if `random` is empty.
        channels: Whether models of other channels than 8-bit RGB may be compared, all of the same ones.

    Raises:
        ValueError: No model is given, an architecture is unknown, a source cannot be opened, or models take channels
            that can't be evaluated.
    """
    if not sources and not random:
        raise ValueError(NO_MODEL)
    sources, random = list(dict.fromkeys(sources)), list(dict.fromkeys(random))
    models = [
        Model(name, opener(source) if opener else load(source, device, layers=layers), source)
        for name, source in zip(distinct_names(sources), sources, strict=True)
    ]
    for model in models:
        require_features(model.runner)
        if not channels:
            require_rgb(model.name, model.runner.preprocessing, "this evaluation reads")
    models += [Model(f"random {arch}", random_runner(arch, seed, device, layers), None) for arch in random]
    if baseline and not random:
        models += _baseline([model.runner for model in models], seed, device, layers)
    _check_same_channels([(model.name, model.runner.preprocessing) for model in models])
    return models


def _check_same_channels(models: Sequence[tuple[str, Preprocessing]]) -> None:
    """Raise `ValueError` if models, by name, read the same images differently."""
    first, *others = [(name, reader_of(preprocessing).layout) for name, preprocessing in models]
    for name, layout in others:
        if not layout.has_samples_of(first[1]):
            raise ValueError(f"{first[0]} takes {first[1]}, and {name} {layout}; compare models of the same channels")


def embedding_settings(models: Sequence[Model]) -> dict[str, dict[str, str]]:
    """Return what the embedding of each model is, by its name, for the settings of a report."""
    kinds = {model.name: model.runner.manifest.embedding for model in models}
    return {"embedding": {name: EMBEDDING_NAMES.get(kind, kind) for name, kind in kinds.items()}}


def _baseline(runners: Sequence[Runner], seed: int, device: str, layers: tuple[int, ...]) -> list[Model]:
    """Return a model with random weights of the first known architecture, or nothing for graphs of other projects."""
    for runner in runners:
        if architecture := known_architecture(runner.manifest.architecture):
            random = random_runner(architecture, seed, device, layers, runner.preprocessing)
            return [Model(f"random {architecture.name}", random, None)]
    return []


def known_architecture(description: Mapping[str, Any]) -> Architecture | None:
    """Return the architecture that a manifest describes, or None if it names none that can be built."""
    try:
        return Architecture.from_dict(description)
    except KeyError:
        return None


def random_runner(
    arch: str | Architecture,
    seed: int,
    device: str = "auto",
    layers: tuple[int, ...] = (),
    preprocessing: Preprocessing | None = None,
) -> Runner:
    """Build a runner with random weights, as at the start of training."""
    return encoder_runner(random_encoder(arch, seed, layers, preprocessing), f"random, seed {seed}", device)


def encoder_runner(encoder: Encoder, source_sha256: str, device: str = "auto") -> Runner:
    """Wrap an encoder as a runner; `source_sha256` names its weights in the manifest."""
    options = ExportOptions(layers=encoder.layers)
    manifest = build_manifest(encoder, "pytorch", options, {"torch": str(torch.__version__)}, source_sha256)
    return TorchRunner(ExportGraph(encoder, options), manifest, pick_device(device))


def random_encoder(
    arch: str | Architecture,
    seed: int,
    layers: tuple[int, ...] = (),
    preprocessing: Preprocessing | None = None,
) -> Encoder:
    """Build an encoder with random weights, as at the start of training; torch's global random state is unchanged.

    Raises:
        ValueError: The architecture is unknown.
    """
    if isinstance(arch, str) and arch not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {arch!r}; choose one of {', '.join(ARCHITECTURES)}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Encoder(cast(Arch | Architecture, arch), layers=layers, preprocessing=preprocessing).eval()


def open_encoders(
    sources: Sequence[Path],
    random: Sequence[str] = (),
    seed: int = 0,
    opener: Callable[[Path], Source] = open_source,
    baseline: bool = False,
) -> list[tuple[str, Encoder]]:
    """Open encoders whose internals are inspected, under the names of `open_models`.

    Args:
        sources: Weights, or files and folders that hold float32 weights.
        random: Architectures to build with random weights.
        seed: Seed of the random weights.
        opener: Function that opens a source.
        baseline: Whether to add random weights of the first source's architecture, if `random` is empty.

    Raises:
        ValueError: See `open_models`; or an exported file holds no float32 weights of this project.
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
                f"{source} holds no float32 weights to inspect; name the run folder or the .safetensors it came from"
            )
    encoders = [(name, opener(source).encoder) for name, source in zip(distinct_names(sources), sources, strict=True)]
    encoders += [(f"random {arch}", random_encoder(arch, seed)) for arch in random]
    if baseline and not random:
        first = encoders[0][1]
        random_weights = random_encoder(first.architecture, seed, preprocessing=first.preprocessing)
        encoders.append((f"random {first.architecture.name}", random_weights))
    _check_same_channels([(name, encoder.preprocessing) for name, encoder in encoders])
    return encoders


def distinct_names(sources: Sequence[Path]) -> list[str]:
    """Return short names of paths: the shortest suffixes of path components that make each name unique.

    The name of a file contains its folder (`runs/x/encoder.safetensors` is `x/encoder.safetensors`), that of a folder
    does not (`runs/x` is `x`).
    """
    parts = [source.absolute().parts for source in sources]
    names = []
    for index, path_parts in enumerate(parts):
        rest = [other for other_index, other in enumerate(parts) if other_index != index]
        shortest = 1 if sources[index].is_dir() else 2
        unique = (n for n in range(shortest, len(path_parts)) if all(other[-n:] != path_parts[-n:] for other in rest))
        count = next(unique, len(path_parts))
        names.append("/".join(path_parts[-count:]))
    return names
