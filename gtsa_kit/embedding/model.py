"""The model of a job: what opens it, and what tells it from another."""

from pathlib import Path

import torch

from gtsa_kit.export import Runner, load
from gtsa_kit.export.backends import TorchRunner
from gtsa_kit.export.describe import describe
from gtsa_kit.export.graph import ExportGraph
from gtsa_kit.export.runtime import pick_device
from gtsa_kit.export.source import open_source
from gtsa_kit.export.spec import FEATURE_MAP, SUFFIX, Options, layer_output
from gtsa_kit.files import sha256_of


def open_model(path: Path, device: str = "auto", layers: tuple[int, ...] = ()) -> Runner:
    """Open a model whose outputs hold the maps of `layers`.

    Raises:
        ValueError: It can't be opened, or its outputs were fixed at export without them.
    """
    if layers and (path.is_dir() or path.suffix not in SUFFIX.values()):
        opened, options = open_source(path), Options(layers=layers)
        encoder = opened.encoder
        if any(layer >= encoder.architecture.depth for layer in layers):
            raise ValueError(f"layers lie between 0 and {encoder.architecture.depth - 1}, got {layers}")
        encoder.layers = layers
        manifest = describe(encoder, "pytorch", options, {"torch": str(torch.__version__)}, opened.sha256)
        return TorchRunner(ExportGraph(encoder, options), manifest, pick_device(device))
    runner = load(path, device)
    if missing := [layer for layer in layers if layer not in runner.manifest.layers]:
        wanted = ",".join(map(str, layers))
        raise ValueError(f"{path} has no map of layer {missing[0]}; export it with --layers {wanted}")
    return runner


def map_outputs(runner: Runner, layers: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the maps to keep: the last and those of `layers`, by default all that the model gives."""
    return (FEATURE_MAP, *(layer_output(layer) for layer in layers or runner.manifest.layers))


def model_digest(path: Path, runner: Runner) -> str:
    """Of the file; of weights in a folder, their own. OpenVINO keeps its weights in a second file."""
    if path.is_dir():
        return runner.manifest.source_sha256
    weights = path.with_suffix(".bin")
    parts = [path, weights] if path.suffix == SUFFIX["openvino"] and weights.exists() else [path]
    return "+".join(sha256_of(part) for part in parts)
