"""Predictions without files: an iterator over the masks, classes or detections of images."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from gtsa_kit.data.entries import Entry
from gtsa_kit.data.image_io import MAX_PIXELS, ImageError
from gtsa_kit.data.sources import FileSource, open_source
from gtsa_kit.embedding.in_memory import ImageLike, load_item, name_images, read_item
from gtsa_kit.embedding.input_index import list_inputs
from gtsa_kit.embedding.rows import FailedImage
from gtsa_kit.export.open_options import LoadOptions
from gtsa_kit.tasks.predict_images import (
    Prediction,
    PredictPlan,
    ReadImage,
    load_entry,
    predict_items,
    predict_tiled,
    read_pixels,
    read_scene,
)
from gtsa_kit.tasks.predict_plan import PredictOptions, plan_prediction
from gtsa_kit.tasks.predictor import Predictor, open_predictor

__all__ = ["Prediction", "predict"]


def predict(
    model: str | Path | Predictor,
    source: str | Path | Image.Image | np.ndarray | Iterable[ImageLike],
    *,
    size: tuple[int, int] | None = None,
    short_side: int | None = None,
    native: bool = False,
    tile: int | None = None,
    overlap: int | None = None,
    threshold: float | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    on_unreadable: Callable[[str, str], None] | None = None,
    device: str = "auto",
) -> Iterator[Prediction]:
    """Predict classes of pixels or images, or detect objects; yield each image's result as soon as it is computed.

    Args:
        model: Run folder of `gtsa finetune`, or a file that was exported from one.
        source: A folder, glob, list, archive or URL, as for `gtsa predict`; or a PIL image, an array (H, W, 3) uint8,
            or a list (or generator) of paths, images and arrays.
        size: (height, width) of the input; by default that of the model's training.
        short_side: Short side of the input, with the image's aspect ratio, in place of `size`.
        native: Keep the image's own size, rounded to whole patches.
        tile: Side of sliding windows, in pixels of the image at its own resolution, for large images.
        overlap: Overlap of the windows in pixels; by default a quarter of the tile.
        threshold: Lowest score of detections; by default 0.5.
        batch_size: Images, or windows, per call of the model; by default 8, on a GPU 32.
        workers: Threads that read and decode; by default one for each core.
        max_pixels: Larger images count as unreadable.
        on_unreadable: Called with (path, reason) of each unreadable image; by default the first one raises.
        device: auto, cpu or cuda.

    Raises:
        ValueError: There are no images, the model is no task model, or options exclude each other.
        ImageError: An image is unreadable, and `on_unreadable` is not given.
    """
    predictor = model if isinstance(model, Predictor) else open_predictor(Path(model), LoadOptions(device))
    options = PredictOptions(size, short_side, native, tile, overlap, threshold=threshold, max_pixels=max_pixels)
    plan = plan_prediction(predictor, replace(options, batch_size=batch_size, workers=workers))
    for result in _results(source, predictor, plan):
        if not isinstance(result, FailedImage):
            yield result
        elif on_unreadable is None:
            raise ImageError(Path(result.path), result.reason)
        else:
            on_unreadable(result.path, result.reason)


def _results(
    source: str | Path | Image.Image | np.ndarray | Iterable[ImageLike], predictor: Predictor, plan: PredictPlan
) -> Iterator[Prediction | FailedImage]:
    if isinstance(source, str | Path):
        opened = open_source(str(source))
        entries = enumerate(list_inputs(opened, not plan.preprocessor.preprocessing.is_rgb))
        if plan.tiling is not None:
            return predict_tiled(entries, read_pixels(opened, plan), predictor, plan, _keep)
        return predict_items(entries, load_entry(opened, plan), predictor, plan, _keep)
    items = name_images(source)
    if plan.tiling is None:
        return predict_items(items, lambda item: load_item(item, plan.preprocessor), predictor, plan, _keep)

    def read(item: tuple[str, ImageLike]) -> ReadImage | FailedImage:
        try:
            if isinstance(item[1], str | Path) and not plan.preprocessor.preprocessing.is_rgb:
                path = Path(item[1])
                return read_scene(FileSource(path.parent), Entry(item[0], str(path)), plan)
            return ReadImage(item[0], read_item(item, plan.preprocessor.max_pixels)[0])
        except ImageError as error:
            return FailedImage(item[0], error.reason)

    return predict_tiled(items, read, predictor, plan, _keep)


def _keep(_: object, prediction: Prediction) -> Prediction:
    return prediction
