"""Options and plan of predictions, and the record that a job is resumed by."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from gtsa_kit.data.image_io import MAX_PIXELS
from gtsa_kit.embedding.input_index import InputIndex
from gtsa_kit.embedding.preprocess import Preprocessor
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.hardware import available_cores
from gtsa_kit.models.preprocessing import Preprocessing
from gtsa_kit.tasks.detections import SHOWN_SCORE
from gtsa_kit.tasks.geotiff import has_rasterio
from gtsa_kit.tasks.predict_images import PredictPlan
from gtsa_kit.tasks.predictor import Predictor, choose_task_size
from gtsa_kit.tasks.tiles import choose_tiling
from gtsa_kit.version import __version__

BATCH_SIZE: Final = {"cpu": 8, "cuda": 32}
"""Images per call of the model, by the kind of device."""


@dataclass(frozen=True)
class PredictOptions:
    """Options of `gtsa predict`."""

    size: tuple[int, int] | None = None
    """Input (height, width) in pixels; by default that of the model's training."""
    short_side: int | None = None
    """Short side of the input in pixels; the aspect ratio is kept."""
    native: bool = False
    """Keep each image's own size, rounded to multiples of the patch size."""
    tile: int | None = None
    """Side of sliding windows in pixels of the image; None predicts whole images."""
    overlap: int | None = None
    """Overlap of windows in pixels; by default a quarter of the tile."""
    overlay: bool = False
    """Also write the images under their masks."""
    rle: bool = False
    """Also write the masks as COCO's run lengths."""
    threshold: float | None = None
    """Lowest score of detections; None takes `SHOWN_SCORE`."""
    ids: Path | None = None
    """COCO file whose image ids the results take, by file name; None counts images from 1."""
    batch_size: int | None = None
    """Images per call of the model; None chooses by the device."""
    workers: int | None = None
    """Threads that read, decode and write, or workers of the Ray cluster; None chooses by the machine."""
    fail_on_unreadable: bool = False
    """Stop at the first image that can't be used."""
    resume: bool = False
    """Continue the job in the output folder."""
    max_pixels: int = MAX_PIXELS
    """Larger images are rejected before they are decoded."""
    engine: Literal["local", "ray"] = "local"
    """Predict in this process, or on a Ray cluster."""
    load: LoadOptions = field(default_factory=LoadOptions)
    """Options to open the model with."""


def plan_prediction(predictor: Predictor, options: PredictOptions) -> PredictPlan:
    """Choose sizes and batches.

    Raises:
        ValueError: Options exclude each other, or the model does not support one.
    """
    if predictor.task == "classify" and (options.tile or options.overlay or options.rle):
        raise ValueError("--tile, --overlay and --rle are for masks; this model classifies images")
    if predictor.task == "detect" and options.rle:
        raise ValueError("predictions.json holds the run lengths of a detector's masks; omit --rle")
    if predictor.task != "detect" and options.ids:
        raise ValueError(f"--ids is for results of COCO; this model's task is to {predictor.task} images")
    if options.overlap is not None and options.tile is None:
        raise ValueError("--overlap is that of windows; add --tile")
    if options.tile is not None and (options.size or options.short_side or options.native):
        raise ValueError("--tile takes windows of the image's own resolution; omit --size, --short-side and --native")
    tiling = None if options.tile is None else choose_tiling(predictor.manifest, options.tile, options.overlap)
    resize = choose_task_size(predictor, options.size, options.short_side, options.native)
    preprocessing = Preprocessing.from_dict(predictor.manifest.preprocessing)
    preprocessor = Preprocessor(preprocessing, resize, predictor.manifest.input_format, options.max_pixels)
    device = "cuda" if "cuda" in predictor.runner.provider.lower() else "cpu"
    batch_size = predictor.manifest.range_of("batch").clamp(options.batch_size or BATCH_SIZE[device])
    workers, threshold = options.workers or available_cores(), choose_threshold(predictor, options.threshold)
    return PredictPlan(preprocessor, batch_size, workers, tiling, threshold)


def choose_threshold(predictor: Predictor, threshold: float | None) -> float:
    """Return the lowest score of detections, by default `SHOWN_SCORE`.

    Raises:
        ValueError: The model detects no objects, or drops detections of that score itself.
    """
    if threshold is None:
        return SHOWN_SCORE
    if predictor.task != "detect":
        raise ValueError(f"--threshold is for scores of detections; this model's task is to {predictor.task} images")
    lowest = predictor.manifest.score_threshold or 0.0
    if not lowest <= threshold <= 1:
        raise ValueError(f"--threshold must lie between {lowest:g}, from which on the model gives detections, and 1")
    return threshold


def job_record(
    predictor: Predictor,
    plan: PredictPlan,
    options: PredictOptions,
    inputs: InputIndex,
    ids: Mapping[str, int] | None,
) -> dict[str, Any]:
    """Return the content of job.json but for the locations: everything that the results depend on.

    Args:
        predictor: The model.
        plan: Sizes and batches.
        options: Options of the command.
        inputs: The images.
        ids: Ids of the images by name; None counts them.
    """
    return {
        "gtsa_kit": __version__,
        "kind": "predict",
        "inputs": {"entries": inputs.count, "sha256": inputs.digest},
        "model": {"sha256": predictor.digest},
        "preprocessing": predictor.manifest.preprocessing,
        "resize": asdict(plan.preprocessor.resize),
        "tiling": asdict(plan.tiling) if plan.tiling else None,
        "batch_size": plan.batch_size,
        "max_pixels": options.max_pixels,
        "threshold": plan.threshold if predictor.task == "detect" else None,
        "ids": None if ids is None else hashlib.sha256(json.dumps(ids, sort_keys=True).encode()).hexdigest(),
        "overlay": options.overlay,
        "rle": options.rle,
        "geotiff": has_rasterio() if predictor.task == "segment" else None,
    }
