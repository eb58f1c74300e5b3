"""Feature extraction in memory: images in, one result for each image out, in the same order.

Threads read and decode images ahead of the model, and images of one shape go through the model in batches. This
module knows neither output files nor shards: `iterate` yields the results to the caller, and `run` writes them
to a dataset folder.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np

from gtsa_kit.data.channels.frames import FrameFiles
from gtsa_kit.data.entries import Entry, Source
from gtsa_kit.data.image_files import bounded_map
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.embedding.preprocess import PreparedImage, Preprocessor
from gtsa_kit.embedding.rows import FailedImage, FeatureRow
from gtsa_kit.embedding.torch_resize import use_one_thread
from gtsa_kit.export import Runner
from gtsa_kit.export.runtime.batching import run_in_batches
from gtsa_kit.export.spec import FEATURE_MAP, layer_output
from gtsa_kit.feature_grid import grid_to_pixel

T = TypeVar("T")

PREFETCH_BATCHES = 3
"""Batches that are decoded ahead of the model, at most."""
GROUPED_BATCHES = 8
"""Size of a window in batches, where shapes vary: images of one shape are collected from a whole window."""

TOO_LARGE = "a feature is larger than float16 holds (65,504); --dtype float32 holds it"
NOT_FINITE = "the model's features are not finite (NaN or infinity); another precision (bf16 or fp32) may hold them"


@dataclass(frozen=True)
class BatchPlan:
    """Batch size, threads and kept maps of an extraction."""

    batch_size: int
    """Images per call of the model at its base size. Batches of larger images hold fewer, with as many patches."""
    workers: int
    """Threads that read and decode."""
    map_names: tuple[str, ...] = ()
    """Names of the feature maps to keep."""
    map_dtype: str = "float32"
    """Data type of the feature maps that are kept."""
    vector_dtype: str = "float32"
    """Data type of the vectors."""


def extract_features(
    entries: Iterable[Entry],
    source: Source,
    runner: Runner,
    preprocessor: Preprocessor,
    plan: BatchPlan,
    begins_window: Callable[[int], bool] | None = None,
) -> Iterator[FeatureRow | FailedImage]:
    """Extract features of images, a bounded number of them in memory, and yield them in the order of the entries.

    Args:
        entries: The images.
        source: Reads their contents.
        runner: The model.
        preprocessor: Converts file contents to inputs of the model.
        plan: Batch size, threads and kept maps.
        begins_window: See `split_into_windows`.
    """
    load = partial(load_image, source=source, preprocessor=preprocessor, read=FrameFiles())
    return extract_items(entries, load, runner, preprocessor, plan, begins_window)


def extract_items(
    items: Iterable[T],
    load: Callable[[T], PreparedImage | FailedImage],
    runner: Runner,
    preprocessor: Preprocessor,
    plan: BatchPlan,
    begins_window: Callable[[int], bool] | None = None,
) -> Iterator[FeatureRow | FailedImage]:
    """Extract features of items that `load` turns into inputs, in threads; see `extract_features`."""
    size = plan.batch_size * (1 if preprocessor.resize.kind == "fixed" else GROUPED_BATCHES)
    # One torch thread for each worker: images are decoded in parallel, so one image needs no parallel resize.
    with ThreadPoolExecutor(plan.workers, "gtsa-decode", use_one_thread) as pool:
        images = bounded_map(
            pool,
            load,
            items,
            window=PREFETCH_BATCHES * plan.batch_size + plan.workers,
        )
        yield from extract_prepared(images, runner, plan, size, begins_window)


def extract_prepared(
    images: Iterable[PreparedImage | FailedImage],
    runner: Runner,
    plan: BatchPlan,
    window_size: int,
    begins_window: Callable[[int], bool] | None = None,
) -> Iterator[FeatureRow | FailedImage]:
    """Extract features of decoded images, and yield one result for each, in order."""
    for window in split_into_windows(images, window_size, begins_window):
        yield from _extract_window(window, runner, plan)


def load_image(
    entry: Entry, source: Source, preprocessor: Preprocessor, read: FrameFiles | None = None
) -> PreparedImage | FailedImage:
    """Read and decode one image."""
    try:
        content, digest = (read or FrameFiles())(source, entry)
        return preprocessor(entry.name, content, entry.stamp, digest)
    except ImageError as error:
        return FailedImage(entry.name, error.reason)
    except MemoryError:
        return FailedImage(entry.name, "does not fit in memory")


def split_into_windows(
    images: Iterable[PreparedImage | FailedImage], size: int, begins_window: Callable[[int], bool] | None = None
) -> Iterator[list[PreparedImage | FailedImage]]:
    """Split images into windows of at most `size` readable ones. Batches are formed inside of a window.

    The last bits of an image's features depend on the other images of its batch. Windows depend only on the list of
    images, so an interrupted and resumed job gives the same bits as an uninterrupted one.

    Args:
        images: Decoded and failed images, in order.
        size: Readable images of a window, at most.
        begins_window: Called with the number of patches of every readable image, in order. It returns True if the
            image must not share a batch with the images before it.
    """
    window: list[PreparedImage | FailedImage] = []
    readable = 0
    for image in images:
        if isinstance(image, PreparedImage):
            begins = begins_window is not None and begins_window(image.patches)
            if begins or readable == size:
                yield window
                window, readable = [], 0
            readable += 1
        window.append(image)
        if readable == 0 and len(window) > size:  # bounds the memory of a long run of unreadable images
            yield window
            window = []
    if window:
        yield window


def group_by_shape(images: Sequence[PreparedImage | FailedImage], batch_size: int, base: int) -> Iterator[list[int]]:
    """Yield batches as indices of readable images of one shape.

    Args:
        images: A window.
        batch_size: Images of a batch of `base` x `base` pixels; batches of larger images hold fewer.
        base: The model's base size in pixels.
    """
    groups: dict[tuple[int, int], list[int]] = {}
    for index, image in enumerate(images):
        if isinstance(image, PreparedImage):
            groups.setdefault(image.size, []).append(index)
    for (height, width), indices in groups.items():
        count = max(1, min(batch_size, batch_size * base * base // (height * width)))
        yield from (indices[i : i + count] for i in range(0, len(indices), count))


def _extract_window(
    window: Sequence[PreparedImage | FailedImage], runner: Runner, plan: BatchPlan
) -> Iterator[FeatureRow | FailedImage]:
    results: list[PreparedImage | FeatureRow | FailedImage] = list(window)
    for indices in group_by_shape(window, plan.batch_size, runner.preprocessing.size):
        batch = [image for index in indices if isinstance(image := window[index], PreparedImage)]
        for index, row in zip(indices, _extract_batch(batch, runner, plan), strict=True):
            results[index] = row
    for result in results:
        assert not isinstance(result, PreparedImage), "every readable image is in a batch"
        yield result


def _extract_batch(
    batch: Sequence[PreparedImage], runner: Runner, plan: BatchPlan
) -> Iterator[FeatureRow | FailedImage]:
    features = run_in_batches(runner, np.stack([image.pixels for image in batch]))
    maps = {FEATURE_MAP: features.feature_map} | {layer_output(n): m for n, m in features.layers.items()}
    for i, image in enumerate(batch):
        row = FeatureRow(
            image.path,
            image.sha256,
            image.stamp,
            image.width,
            image.height,
            _cast(features.embedding[i], plan.vector_dtype),
            grid_to_pixel(image.width, image.height, image.grid, image.orientation),
            {name: _cast(maps[name][i], plan.map_dtype) for name in plan.map_names},
            None if features.class_token is None else _cast(features.class_token[i], plan.vector_dtype),
        )
        if _all_finite(*row.vectors.values(), *row.maps.values()):
            yield row
            continue
        whole = (features.embedding, features.class_token, *(maps[name] for name in plan.map_names))
        outputs = [values[i] for values in whole if values is not None]
        yield FailedImage(row.path, TOO_LARGE if _all_finite(*outputs) else NOT_FINITE, row.patches)


def _cast(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return a copy in a data type; values above its range become infinite."""
    with np.errstate(over="ignore"):
        return values.astype(dtype)


def _all_finite(*arrays: np.ndarray) -> bool:
    return all(np.isfinite(values).all() for values in arrays)
