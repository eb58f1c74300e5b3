"""The model of a job: which maps it gives, and what tells it from another."""

from pathlib import Path

from gtsa_kit.export import Runner
from gtsa_kit.export.spec import FEATURE_MAP, SUFFIX, layer_output
from gtsa_kit.files import sha256_of


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
