"""Embedding for notebooks: images in, features out as they are made, no files."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gtsa_kit.data.image_io import MAX_PIXELS, ImageError
from gtsa_kit.data.sources import open_source
from gtsa_kit.embedding.engine import LocalEngine, Plan
from gtsa_kit.embedding.input_index import write_listing
from gtsa_kit.embedding.job import BATCH
from gtsa_kit.embedding.model import map_outputs
from gtsa_kit.embedding.preprocess import Decoder
from gtsa_kit.embedding.resize_policy import size_rule
from gtsa_kit.embedding.rows import Failure, ShardRule
from gtsa_kit.export import Runner, load
from gtsa_kit.export.spec import FEATURE_MAP, layer_output
from gtsa_kit.hardware import available_cores
from gtsa_kit.models.encoder import Features


@dataclass(frozen=True)
class Embedded:
    """One image."""

    path: str
    """Relative to the folder."""
    features: Features
    """embedding (D,), feature_map (D, h, w), and `layers` of that shape by block; float32."""
    transform: np.ndarray
    """(2, 3): from cells of the map to pixels of the file, see `gtsa_kit.feature_grid`."""
    width: int
    height: int
    """Of the upright image."""


def embed(
    source: str | Path,
    model: str | Path | Runner,
    *,
    layers: tuple[int, ...] = (),
    size: tuple[int, int] | None = None,
    short_side: int | None = None,
    native: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    on_broken: Callable[[str, str], None] | None = None,
    device: str = "auto",
) -> Iterator[Embedded]:
    """Embed images one after the other, in natural order of their paths, yielding as they are done.

    Args:
        source: A folder, a glob, a list, an archive or a URL, as `gtsa embed` takes it.
        model: What `gtsa_kit.export.load` opens, or what it returned.
        layers: Blocks whose maps are wanted too.
        size: (height, width) of the input; by default the model's.
        short_side: Keep the aspect, with this short side, in place of `size`.
        native: Each at its own size, to the nearest multiple of 16.
        batch_size: Images that the model takes at a time.
        workers: Threads that read and decode.
        max_pixels: Larger images count as broken.
        on_broken: Told (path, reason) of each file that can't be used; without it the first one raises.
        device: auto, cpu or cuda.

    Raises:
        ValueError: Nothing there, or wrong use.
        ImageError: A file that can't be used, unless `on_broken` is given.
    """
    runner = model if isinstance(model, Runner) else load(model, device, layers=layers)
    opened, sizes = open_source(str(source)), size_rule(runner.manifest, size, short_side, native)
    batch = runner.manifest.range_of("batch").clamp(batch_size or BATCH["cpu"])
    outputs = map_outputs(runner, layers)
    plan = Plan(batch, workers or available_cores(), ShardRule(2**31), outputs, "float32")
    decoder = Decoder(runner.preprocessing, sizes, runner.manifest.inputs[0].dtype == "uint8", max_pixels)
    named = {layer: layer_output(layer) for layer in layers or runner.manifest.layers}
    with tempfile.TemporaryDirectory(prefix="gtsa-") as folder:
        listing = write_listing(opened, Path(folder, "listing.sqlite"))
        for row in LocalEngine(opened, runner, decoder, plan)(listing.read(0, listing.count)):
            if isinstance(row, Failure):
                if on_broken is None:
                    raise ImageError(Path(row.name), row.reason)
                on_broken(row.name, row.reason)
                continue
            found = {layer: row.maps[name] for layer, name in named.items()}
            features = Features(row.embedding, row.maps[FEATURE_MAP], found)
            yield Embedded(row.name, features, row.grid_to_pixel, row.width, row.height)
