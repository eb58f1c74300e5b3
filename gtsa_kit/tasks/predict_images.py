"""Predictions for images, in memory: images in, one result for each out, in the same order.

Threads read and decode ahead of the model and finish predictions behind it, and images of one shape go through the
model in batches. What a result is, the caller decides: `finish` makes it from a prediction as soon as its batch is
computed, so that masks of few images are in memory.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import file_digest, sha256
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np

from gtsa_kit.data.decode import decode
from gtsa_kit.data.entries import Entry, Source, read_entry
from gtsa_kit.data.image_files import bounded_map
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.data.label_map import VOID
from gtsa_kit.data.sources import open_entry
from gtsa_kit.embedding.extract import group_by_shape, load_image
from gtsa_kit.embedding.preprocess import PreparedImage, Preprocessor
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.embedding.torch_resize import use_one_thread
from gtsa_kit.models.channel_images import reader_of
from gtsa_kit.models.outputs import TaskOutput
from gtsa_kit.models.task_spec import Label
from gtsa_kit.tasks.detection_tiles import tiled_detections
from gtsa_kit.tasks.detections import SHOWN_SCORE, ImageDetections, to_detections
from gtsa_kit.tasks.masks import class_numbers, softmax
from gtsa_kit.tasks.predictor import Predictor, split_outputs
from gtsa_kit.tasks.scene import Scene
from gtsa_kit.tasks.tiles import NOT_FINITE, Tiling, tiled_mask

T = TypeVar("T")
Item = TypeVar("Item")

CHUNK: Final = 32
"""Images whose inputs are in memory together; batches are formed inside of a chunk."""


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image."""

    path: str
    """Path of the image, relative to its source."""
    width: int
    """Width of the upright image in pixels."""
    height: int
    """Height of the upright image in pixels."""
    labels: tuple[Label, ...]
    """Classes by class number."""
    mask: np.ndarray | None = None
    """Class numbers (height, width), uint8, 255 where the image has no data; None for a model of another task than
    segmentation."""
    probabilities: np.ndarray | None = None
    """Probabilities (K,), float32; None for a model of another task than classification."""
    detections: ImageDetections | None = None
    """Detections from the threshold on; None for a model that detects no objects."""
    sha256: str = ""
    """Digest of the file; "" for an image without one."""


class ReadImage(NamedTuple):
    """A decoded image."""

    path: str
    pixels: np.ndarray | Scene
    """Upright pixels (H, W, 3), uint8; of other channels a scene."""
    sha256: str = ""
    """Digest of the file; "" for an image without one."""


@dataclass(frozen=True)
class PredictPlan:
    """Inputs and batches of predictions."""

    preprocessor: Preprocessor
    batch_size: int
    """Images, or windows of one image, in one call of the model at its base size."""
    workers: int
    """Threads that read, decode and finish."""
    tiling: Tiling | None = None
    """Sliding windows; None predicts whole images."""
    threshold: float = SHOWN_SCORE
    """Lowest score of detections."""


def predict_items(
    items: Iterable[Item],
    load: Callable[[Item], PreparedImage | FailedImage],
    predictor: Predictor,
    plan: PredictPlan,
    finish: Callable[[Item, Prediction], T],
) -> Iterator[T | FailedImage]:
    """Predict whole images in batches, and yield what `finish` makes of them, in order.

    Batches depend only on the list of items from its start, in chunks of `CHUNK`: the last bits of a result depend on
    the other images of its batch, and a job that is resumed at a chunk gives the same ones.
    """
    with ThreadPoolExecutor(plan.workers, "gtsa-images", use_one_thread) as pool:
        images = bounded_map(pool, lambda item: (item, load(item)), items, CHUNK + plan.workers)
        while chunk := list(islice(images, CHUNK)):
            yield from _predict_chunk(chunk, predictor, plan, pool, finish)


def predict_tiled(
    items: Iterable[Item],
    read: Callable[[Item], ReadImage | FailedImage],
    predictor: Predictor,
    plan: PredictPlan,
    finish: Callable[[Item, Prediction], T],
) -> Iterator[T | FailedImage]:
    """Predict images by sliding windows, one image at a time, and yield what `finish` makes of them, in order.

    Args:
        items: The images.
        read: Returns the upright pixels of an item.
        predictor: The model.
        plan: Inputs and batches.
        finish: Makes a result of an item and its prediction.
    """
    assert plan.tiling is not None
    for item in items:
        image = read(item)
        if isinstance(image, FailedImage):
            yield image
            continue
        try:
            prediction = _predict_windows(image, predictor, plan, plan.tiling)
        except ImageError as error:
            yield FailedImage(image.path, error.reason)
            continue
        yield finish(item, prediction)


def _predict_windows(image: ReadImage, predictor: Predictor, plan: PredictPlan, tiling: Tiling) -> Prediction:
    (height, width), mask, detections = image.pixels.shape[:2], None, None
    if predictor.task == "detect":
        pixels = image.pixels.samples() if isinstance(image.pixels, Scene) else image.pixels
        detections = tiled_detections(pixels, predictor, tiling, plan.batch_size, plan.threshold)
    else:
        mask = tiled_mask(image.pixels, predictor, tiling, plan.batch_size)
    return Prediction(image.path, width, height, predictor.labels, mask, None, detections, image.sha256)


def load_entry(source: Source, plan: PredictPlan) -> Callable[[tuple[int, Entry]], PreparedImage | FailedImage]:
    """Return the function that reads and prepares one of the numbered entries of a source."""
    return lambda item: load_image(item[1], source, plan.preprocessor)


def read_pixels(source: Source, plan: PredictPlan) -> Callable[[tuple[int, Entry]], ReadImage | FailedImage]:
    """Return the function that reads and decodes one of the numbered entries of a source."""

    def read(item: tuple[int, Entry]) -> ReadImage | FailedImage:
        name = item[1].name
        try:
            if not plan.preprocessor.preprocessing.is_rgb:
                return read_scene(source, item[1], plan)
            content = read_entry(source, item[1])
            pixels, _ = decode(content, name, plan.preprocessor.max_pixels)
            return ReadImage(name, pixels, sha256(content).hexdigest())
        except ImageError as error:
            return FailedImage(name, error.reason)
        except MemoryError:
            return FailedImage(name, "does not fit in memory")

    return read


def read_scene(source: Source, entry: Entry, plan: PredictPlan) -> ReadImage:
    """Open an image of N channels, of which windows are read; raise `ImageError` if it can't be."""
    scene = Scene(source, entry, reader_of(plan.preprocessor.preprocessing, plan.preprocessor.max_pixels))
    with open_entry(source, entry) as file:
        content: Any = file
        return ReadImage(entry.name, scene, file_digest(content, "sha256").hexdigest())


def _predict_chunk(
    chunk: list[tuple[Item, PreparedImage | FailedImage]],
    predictor: Predictor,
    plan: PredictPlan,
    pool: ThreadPoolExecutor,
    finish: Callable[[Item, Prediction], T],
) -> Iterator[T | FailedImage]:
    images = [image for _, image in chunk]
    results: dict[int, T | FailedImage] = {i: image for i, image in enumerate(images) if isinstance(image, FailedImage)}

    def finish_one(index: int, output: TaskOutput) -> T | FailedImage:
        image = images[index]
        assert isinstance(image, PreparedImage)
        prediction = to_prediction(image, output, predictor.labels, plan.threshold)
        return prediction if isinstance(prediction, FailedImage) else finish(chunk[index][0], prediction)

    base = plan.preprocessor.preprocessing.size
    batch_size = min(plan.batch_size, predictor.batch_limit(base * base))
    for indices in group_by_shape(images, batch_size, base):
        batch = [image.pixels for i in indices if isinstance(image := images[i], PreparedImage)]
        outputs = split_outputs(predictor(np.stack(batch)))
        results |= dict(zip(indices, pool.map(finish_one, indices, outputs), strict=True))
    yield from (results[i] for i in range(len(chunk)))


def to_prediction(
    image: PreparedImage, output: TaskOutput, labels: tuple[Label, ...], threshold: float
) -> Prediction | FailedImage:
    """Return the prediction for an image from the outputs of the model for its input.

    A mask of a model that returns no logits is resized by the nearest pixel.

    Args:
        image: The input.
        output: Outputs without the batch axis.
        labels: Classes by class number.
        threshold: Lowest score of detections.
    """
    size, logits = (image.height, image.width), output.logits
    if output.boxes is not None:
        try:
            detections = to_detections(output, image.size, size, threshold)
        except ImageError as error:
            return FailedImage(image.path, error.reason)
        return Prediction(image.path, image.width, image.height, labels, None, None, detections, image.sha256)
    if logits is not None and not np.isfinite(logits).all():
        return FailedImage(image.path, NOT_FINITE)
    mask, probabilities = None, None
    if logits is None:
        assert output.mask is not None
        mask = resize_mask(output.mask, size)
    elif logits.ndim == 1:
        probabilities = softmax(logits)
    else:
        mask = class_numbers(logits, size)
    if mask is not None and image.nodata is not None:
        mask[image.nodata] = VOID
    return Prediction(image.path, image.width, image.height, labels, mask, probabilities, None, image.sha256)


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return class numbers (h, w) at another (height, width), each from the nearest pixel."""
    rows, columns = (
        np.minimum((np.arange(n) + 0.5) * old / n, old - 1).astype(np.intp)
        for n, old in zip(size, mask.shape, strict=True)
    )
    return mask[np.ix_(rows, columns)]
