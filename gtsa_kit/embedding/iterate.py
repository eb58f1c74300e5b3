"""Embedding without files: an iterator over the features of images."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from gtsa_kit.data.channels.frames import Frames
from gtsa_kit.data.image_io import MAX_PIXELS, ImageError
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding.extract import BatchPlan, extract_features, extract_items
from gtsa_kit.embedding.in_memory import ImageLike, load_item, name_images
from gtsa_kit.embedding.input_index import list_inputs
from gtsa_kit.embedding.model import DEFAULT_BATCH_SIZE, check_frames, map_output_names
from gtsa_kit.embedding.preprocess import Preprocessor
from gtsa_kit.embedding.resize_policy import choose_resize_policy
from gtsa_kit.embedding.rows import FailedImage, FeatureRow
from gtsa_kit.export import Runner, load
from gtsa_kit.export.open_options import ImportOptions
from gtsa_kit.export.runtime.batching import require_features
from gtsa_kit.export.spec import FEATURE_MAP, layer_output
from gtsa_kit.hardware import available_cores
from gtsa_kit.models.outputs import Features


@dataclass(frozen=True)
class EmbeddedImage:
    """Features of one image."""

    path: str
    """Path relative to the source's folder; for a list its item, or its index if that is no path."""
    features: Features
    """`embedding` (D,), `feature_map` (D, h, w), `layers`, a map (D, h, w) for each block, and `class_token` (D,) if it
    is requested; float32."""
    transform: np.ndarray
    """Affine (2, 3) from the feature map to pixels of the stored image, see `gtsa_kit.feature_grid`."""
    width: int
    """Width of the upright image in pixels."""
    height: int
    """Height of the upright image in pixels."""


def embed(
    source: str | Path | Image.Image | np.ndarray | Iterable[ImageLike],
    model: str | Path | Runner,
    *,
    layers: tuple[int, ...] = (),
    size: tuple[int, int] | None = None,
    short_side: int | None = None,
    native: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    on_unreadable: Callable[[str, str], None] | None = None,
    device: str = "auto",
    import_options: ImportOptions | None = None,
    class_token: bool = False,
    frames: Frames = "first",
) -> Iterator[EmbeddedImage]:
    """Embed images, and yield each as soon as its batch is computed: a list in its order, others by their paths.

    The paths of all images are held in memory, and the pixels of a few batches.

    Args:
        source: A folder, glob, list, archive or URL, as for `gtsa embed`; or a PIL image, an array (H, W, 3) uint8, or
            a list (or generator) of paths, images and arrays.
        model: A model that `gtsa_kit.export.load` opens, or a runner that it returned.
        layers: Blocks whose maps are returned as well.
        size: (height, width) of the input; by default the model's.
        short_side: Short side of the input, with the image's aspect ratio, in place of `size`.
        native: Keep the image's own size, rounded to whole patches.
        batch_size: Images per call of the model; by default 32.
        workers: Threads that read and decode; by default one for each core.
        max_pixels: Larger images count as unreadable.
        on_unreadable: Called with (path, reason) of each unreadable image; by default the first one raises.
        device: auto, cpu or cuda.
        import_options: Facts that weights of another tool do not contain; see `gtsa_kit.load`.
        class_token: Whether the class token is returned as well; a runner returns it if it is among its outputs.
        frames: Whether the first frame of a file is embedded, or each of them, with a path such as `stack.tif#2`; for a
            model of other channels than 8-bit RGB.

    Raises:
        ValueError: There are no images, or options exclude each other.
        ImageError: An image is unreadable, and `on_unreadable` is not given.
    """
    if isinstance(model, Runner):
        runner = model
    else:
        runner = load(model, device, layers=layers, import_options=import_options, class_token=class_token)
    require_features(runner)
    check_frames(runner, frames)
    resize = choose_resize_policy(runner.manifest, size, short_side, native)
    batch = runner.manifest.range_of("batch").clamp(batch_size or DEFAULT_BATCH_SIZE["cpu"])
    plan = BatchPlan(batch, workers or available_cores(), map_output_names(runner, layers), "float32")
    preprocessor = Preprocessor.for_runner(runner, resize, max_pixels)
    map_names = {layer: layer_output(layer) for layer in layers or runner.manifest.layers}
    results: Iterator[FeatureRow | FailedImage]
    if isinstance(source, str | Path):
        opened = open_source(str(source))
        inputs = list_inputs(opened, not runner.preprocessing.is_rgb, frames)
        results = extract_features(inputs, opened, runner, preprocessor, plan)
    else:
        load_one = partial(load_item, preprocessor=preprocessor)
        results = extract_items(name_images(source), load_one, runner, preprocessor, plan)
    for result in results:
        if isinstance(result, FailedImage):
            if on_unreadable is None:
                raise ImageError(Path(result.path), result.reason)
            on_unreadable(result.path, result.reason)
            continue
        maps = {layer: result.maps[name] for layer, name in map_names.items()}
        features = Features(result.embedding, result.maps[FEATURE_MAP], maps, result.class_token)
        yield EmbeddedImage(result.path, features, result.grid_to_pixel, result.width, result.height)
