"""Properties of a model that an embedding depends on: its maps, its batch size and its digest."""

from pathlib import Path

from gtsa_kit.export import Runner
from gtsa_kit.export.spec import FEATURE_MAP, SUFFIX, layer_output
from gtsa_kit.models.checkpoint_import.shard_index import sha256_of_weights

DEFAULT_BATCH_SIZE = {"cpu": 32, "cuda": 128}
"""Images per call of the model, by the kind of device."""


def map_output_names(runner: Runner, layers: tuple[int, ...]) -> tuple[str, ...]:
    """Return the names of the last map and the maps of `layers`, by default of all blocks whose maps the model has."""
    return (FEATURE_MAP, *(layer_output(layer) for layer in layers or runner.manifest.layers))


def check_frames(runner: Runner, frames: str) -> None:
    """Raise `ValueError` if all frames of files are to be embedded by a model of 8-bit RGB, which reads the first."""
    if frames == "all" and runner.preprocessing.is_rgb:
        raise ValueError(
            "--frames all needs a model of other channels than 8-bit RGB, trained with --channels; omit it, or save "
            "the frames as files"
        )


def choose_batch_size(runner: Runner, requested: int | None = None) -> int:
    """Return the requested batch size, or the device's default, within the range that the model accepts."""
    default = DEFAULT_BATCH_SIZE["cuda" if "cuda" in runner.provider.lower() else "cpu"]
    return runner.manifest.range_of("batch").clamp(requested or default)


def model_digest(path: Path, runner: Runner) -> str:
    """Return the sha256 of a model file, or of the weights in a run folder.

    OpenVINO keeps weights in a second file; then both digests are joined by "+".
    """
    if path.is_dir():
        return runner.manifest.source_sha256
    weights = path.with_suffix(".bin")
    parts = [path, weights] if path.suffix == SUFFIX["openvino"] and weights.exists() else [path]
    return "+".join(sha256_of_weights(part) for part in parts)
