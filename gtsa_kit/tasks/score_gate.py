"""Task score of a file beside that of the float32 model that it was exported from, on labeled images."""

from pathlib import Path

import torch

from gtsa_kit.export import Runner
from gtsa_kit.export.manifest_records import TaskScoreRecord
from gtsa_kit.export.runtime.weights_runner import open_model
from gtsa_kit.export.source import Source
from gtsa_kit.export.spec import ExportOptions, Range
from gtsa_kit.models.channel_images import reader_of
from gtsa_kit.progress import ProgressCallback, no_progress
from gtsa_kit.tasks.score import LabeledImages, compare_scores, read_labeled_images, score


def read_images_for(source: Source, data: Path, on_progress: ProgressCallback = no_progress) -> LabeledImages:
    """Read labeled images with the classes of a model.

    Raises:
        ValueError: The model is no fine-tuned one, or the images can't be read.
    """
    if source.task is None:
        raise ValueError(f"{source.path} is an encoder, which has no task to score; omit --score")
    spec = source.task.spec
    gives_masks = bool(spec.detector and spec.detector.masks)
    reader = reader_of(source.encoder.preprocessing)
    facts = spec.task, spec.labels, spec.label_masks
    return read_labeled_images(data, *facts, on_progress, gives_masks, reader=reader)


def score_model(
    source: Source, images: LabeledImages, height: Range, width: Range, on_progress: ProgressCallback = no_progress
) -> float:
    """Score the float32 model at the heights and widths that a file takes."""
    model = open_model(source, torch.device("cpu"), ExportOptions(height=height, width=width))
    return score(model, images, on_progress)


def score_beside(source: Source, runner: Runner, data: Path, max_drop: float) -> TaskScoreRecord:
    """Score a file and its float32 model.

    Raises:
        ValueError: See `read_images_for`.
    """
    images = read_images_for(source, data)
    own = score_model(source, images, runner.manifest.range_of("height"), runner.manifest.range_of("width"))
    return compare_scores(own, score(runner, images), images, max_drop)
