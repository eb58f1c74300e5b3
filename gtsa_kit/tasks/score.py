"""Score of a task model, or of a file exported from one, on labeled images: mIoU, top-1 or AP in percent."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np

from gtsa_kit.data.channels.reader import ImageReader, read_pixels
from gtsa_kit.data.label_map import MaskOptions
from gtsa_kit.data.labeled import read_classification_dataset
from gtsa_kit.data.labeled_masks import read_segmentation_dataset
from gtsa_kit.embedding.preprocess import PreparedImage, Preprocessor
from gtsa_kit.embedding.resize_policy import choose_resize_policy
from gtsa_kit.export import Runner
from gtsa_kit.export.manifest_records import TaskScoreRecord
from gtsa_kit.export.runtime.batching import predict_in_batches, select
from gtsa_kit.models.task_spec import MaskFormat
from gtsa_kit.progress import ProgressCallback, no_progress
from gtsa_kit.tasks.detect_scoring import DetectScorer
from gtsa_kit.tasks.detections import to_detections
from gtsa_kit.tasks.labeled_objects import read_labeled_objects
from gtsa_kit.tasks.predict_images import resize_mask
from gtsa_kit.tasks.predictor import BATCH_BYTES
from gtsa_kit.tasks.scoring import ClassifyScorer, SegmentScorer, make_scorer

CHUNK: Final = 8
"""Maximum number of images in memory; those of one shape go through the model together."""
METRICS: Final = {"miou": "mIoU", "top1": "top-1", "ap": "AP", "mask_ap": "mask AP"}
"""Names of the scores that are compared."""


class LabelLike(Protocol):
    """Class of a task, of a `TaskSpec` or of a manifest."""

    @property
    def id(self) -> int:
        """Value of the class in masks."""

    @property
    def name(self) -> str:
        """Name of the class."""

    @property
    def aliases(self) -> tuple[int, ...]:
        """Further values of the class in masks."""


@dataclass(frozen=True)
class LabeledImages:
    """Images whose classes, or whose pixels' classes, are known by the class numbers of a model."""

    task: str
    name: str
    """Name of the data, for display."""
    paths: Sequence[Path]
    read_label: Callable[[int], Any]
    """Function from the index of an image to its class number (), those of its pixels (H, W) with `VOID`, or its
    `Objects`."""
    classes: int
    """Number of classes of the model."""
    masks: bool = False
    """True if detections are scored by their masks, too."""
    reader: ImageReader = field(default_factory=ImageReader)
    """Reader of the images."""

    @property
    def main_score(self) -> str:
        """Key of the score that is compared."""
        return "mask_ap" if self.masks else {"segment": "miou", "classify": "top1", "detect": "ap"}[self.task]


def read_labeled_images(
    data: Path,
    task: str,
    labels: Sequence[LabelLike],
    label_masks: MaskFormat = "index",
    on_progress: ProgressCallback = no_progress,
    masks: bool = True,
    annotations: Path | None = None,
    reader: ImageReader | None = None,
) -> LabeledImages:
    """Read labeled images as `gtsa finetune` does: those of the validation split, else all.

    Args:
        data: Folder with images and masks, or with a folder for each class; a CSV of classes; or objects in a format
            of `read_instance_dataset`.
        task: "segment", "classify" or "detect".
        labels: Classes of the model by class number. In masks of segmentation their ids and aliases are the classes,
            all other values are void; elsewhere their names are.
        label_masks: Meaning of these values.
        on_progress: Progress callback.
        masks: Whether a detector gives masks.
        annotations: JSON file of COCO, for images with objects in the folder `data`.
        reader: Reader of the images for the model; None reads 8-bit RGB.

    Raises:
        ValueError: The data can't be read, or has other classes.
    """
    reader = reader or ImageReader()
    if task == "classify":
        return _read_classes(data, [label.name for label in labels], reader)
    if task == "detect":
        own = [label.name for label in labels]
        objects = read_labeled_objects(data, own, masks, annotations, on_progress, reader)
        masks = masks and objects.masks
        return LabeledImages(task, data.name, objects.paths, objects.read, len(labels), masks, reader)
    names = {value: label.name for label in labels for value in (label.id, *label.aliases)}
    options = MaskOptions(names=names, in_color=label_masks == "color")
    dataset = read_segmentation_dataset(data, None, options, on_progress, reader=reader)
    pairs = [pair for pair in dataset.pairs if pair.split in (None, "val")]
    paths = [pair.image for pair in pairs]
    return LabeledImages(task, data.name, paths, lambda i: dataset.labels(pairs[i]), len(labels), reader=reader)


def _read_classes(data: Path, names: Sequence[str], reader: ImageReader) -> LabeledImages:
    dataset = read_classification_dataset(data, reader=reader)
    if unknown := [name for name in dataset.classes if name not in names]:
        raise ValueError(f"{data} has the class {unknown[0]!r}, the model has {', '.join(names)}; give data with these")
    numbers = np.array([names.index(name) for name in dataset.classes])[dataset.labels]
    chosen = np.flatnonzero(dataset.validation) if dataset.validation is not None else np.arange(len(numbers))
    paths = [dataset.paths[i] for i in chosen]
    return LabeledImages("classify", data.name, paths, lambda i: numbers[chosen[i]], len(names), reader=reader)


def score(runner: Runner, data: LabeledImages, on_progress: ProgressCallback = no_progress) -> float:
    """Score a task model on labeled images, in percent: the main one of `score_all`.

    Raises:
        ValueError: The model is for another task, or nothing can be scored.
    """
    value = float(score_all(runner, data, on_progress)[data.main_score])
    if math.isnan(value):
        what = "images have no objects" if data.task == "detect" else "masks are void"
        raise ValueError(f"nothing in {data.name} can be scored: its {what}; give labels of the model's classes")
    return value


def score_all(runner: Runner, data: LabeledImages, on_progress: ProgressCallback = no_progress) -> dict[str, Any]:
    """Compute all scores of a task model on labeled images at their own size, in percent; errors as `add_images`."""
    return add_images(runner, data, on_progress).scores()


def add_images(
    runner: Runner, data: LabeledImages, on_progress: ProgressCallback = no_progress
) -> SegmentScorer | ClassifyScorer | DetectScorer:
    """Return a scorer with the outputs of a task model for labeled images at their own size.

    Logits are resized to the size of the mask (bilinear), and the largest one is the class; a file that gives masks has
    them resized to the nearest pixel. Boxes of detections are scaled to the image, and their masks pasted.

    Raises:
        ValueError: The model is for another task, or there are no images.
    """
    if runner.manifest.task != data.task:
        raise ValueError(f"{data.name} is for the task {data.task}, the model for {runner.manifest.task}")
    scorer = _empty_scorer(data)
    for done, (index, output) in enumerate(_outputs(runner, data), 1):
        on_progress("scoring", done, len(data.paths))
        label = data.read_label(index)
        if isinstance(scorer, SegmentScorer) and output.dtype == np.uint8:
            scorer.add_mask(resize_mask(output, (label.shape[0], label.shape[1])), label)
        else:
            scorer.add(output, label)
    return scorer


def _empty_scorer(data: LabeledImages) -> SegmentScorer | ClassifyScorer | DetectScorer:
    if data.task == "detect":
        return DetectScorer(data.classes, data.masks)
    return make_scorer("segment" if data.task == "segment" else "classify", data.classes)


def _outputs(runner: Runner, data: LabeledImages) -> Iterator[tuple[int, Any]]:
    """Yield the index of each image with its logits (K,) or (K, h, w), its mask (h, w), or its detections, in order."""
    manifest = runner.manifest
    fixed = manifest.range_of("height").fixed
    policy = choose_resize_policy(manifest, None, None if fixed else manifest.short_side)
    preprocessor = Preprocessor.for_runner(runner, policy)
    numbered = enumerate(data.paths)
    side = max(manifest.short_side or 0, runner.preprocessing.size)
    step = max(1, min(CHUNK, BATCH_BYTES // (4 * data.classes * side * side)))
    while chunk := list(islice(numbered, step)):
        images = {i: preprocessor.prepare(path.name, read_pixels(path, data.reader)) for i, path in chunk}
        results: dict[int, Any] = {}
        for shape in dict.fromkeys(image.pixels.shape for image in images.values()):
            results |= _run_shape(runner, {i: image for i, image in images.items() if image.pixels.shape == shape})
        yield from sorted(results.items())


def _run_shape(runner: Runner, images: dict[int, PreparedImage]) -> dict[int, Any]:
    output = predict_in_batches(runner, np.stack([image.pixels for image in images.values()]))
    if output.boxes is None:
        return dict(zip(images, output.mask if output.logits is None else output.logits, strict=True))
    return {
        index: to_detections(select(output, i), image.size, (image.height, image.width), 0.0)
        for i, (index, image) in enumerate(images.items())
    }


def compare_scores(source: float, artifact: float, data: LabeledImages, max_drop: float) -> TaskScoreRecord:
    """Return the record of two scores; it passed if the artifact's is at most `max_drop` points lower."""
    drop = source - artifact
    return TaskScoreRecord(
        metric=METRICS[data.main_score],
        source=source,
        artifact=artifact,
        drop=drop,
        max_drop=max_drop,
        images=len(data.paths),
        data=data.name,
        passed=drop <= max_drop,
    )
