"""Bytes of an image to its part of an answer: decode, model, choose, cast."""

import asyncio
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np
import torch
from PIL import Image

from gtsa_kit.config import PATCH
from gtsa_kit.data.decode import decode
from gtsa_kit.data.image_io import ImageError
from gtsa_kit.embedding.preprocess import takes_bytes, to_input
from gtsa_kit.export import Runner
from gtsa_kit.export.spec import EMBEDDING, FEATURE_MAP
from gtsa_kit.feature_grid import grid_to_pixel
from gtsa_kit.service.batcher import Batcher, Result
from gtsa_kit.service.errors import Refusal, invalid
from gtsa_kit.service.metrics import Metrics
from gtsa_kit.service.query import Ask
from gtsa_kit.service.regions import boxes_in_cells, point_features, points_in_cells, roi_features
from gtsa_kit.service.request_parsing import Blob
from gtsa_kit.service.serialization import Item
from gtsa_kit.service.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

LIGHT: Final = 1 << 20
"""Bytes that the event loop handles by itself: some tenths of a millisecond."""

PIECE: Final = 1 << 15
"""Numbers that torch casts in the thread that asks; it would share out more, and wait for threads to wake."""

# What our own reader of images says; decoders' words would name libraries.
_OWN_WORDS: Final = re.compile(r"empty file$|not an image|[0-9]+ x [0-9]+ is [0-9]+ megapixels")


@dataclass(frozen=True)
class Prepared:
    """An image of the model's input, and where its cells lie on the image."""

    image: np.ndarray
    width: int
    """Of the image as its file stores it."""
    height: int
    orientation: int
    matrix: np.ndarray
    seconds: float

    def about(self, ask: Ask) -> dict[str, Any]:
        """Facts for the answer."""
        return {
            "width": self.width,
            "height": self.height,
            "orientation": self.orientation,
            "input": list(ask.size),
            "grid": [side // PATCH for side in ask.size],
            "stride": PATCH,
            "grid_to_pixel": self.matrix.tolist(),
        }


@dataclass
class Timing:
    """Seconds of a request by stage; the longest of its images."""

    stages: dict[str, float] = field(default_factory=dict)
    batch: int = 0

    def note(self, stage: str, seconds: float) -> None:
        """Keep the longest."""
        self.stages[stage] = max(seconds, self.stages.get(stage, 0.0))

    def header(self) -> str:
        """As `Server-Timing`."""
        parts = [f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in self.stages.items()]
        return ", ".join([*parts, f'batch;desc="{self.batch}"'])


class Extractor:
    """Decoding and encoding in a few threads, the model in the batcher's."""

    def __init__(self, runner: Runner, settings: Settings, metrics: Metrics) -> None:
        self.runner, self.settings, self.metrics = runner, settings, metrics
        self.batcher = Batcher(runner, settings.max_batch, settings.max_wait_ms / 1000, metrics)
        # As many as cores: each may hold one image at its full size.
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "gtsa-images")

    async def close(self) -> None:
        """End the threads."""
        await self.batcher.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def in_pool(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it in a thread of the pool; cancelled before its turn, it is not done."""
        future = self._pool.submit(work, *args, **kwargs)
        return await asyncio.wrap_future(future)

    async def near(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Do it here if it handles few bytes, which takes less than the way to a thread and back; else in the pool."""
        if size <= LIGHT:
            return work(*args, **kwargs)
        return await self.in_pool(work, *args, **kwargs)

    def answer_bytes(self, ask: Ask) -> int:
        """Of the arrays that one image gives, as float32; regions cost more than their bytes."""
        cells = (ask.size[0] // PATCH) * (ask.size[1] // PATCH)
        regions = 16 * (len(ask.boxes) * ask.roi_size**2 + len(ask.points)) * len(ask.region_maps)
        return 4 * self.runner.manifest.dim * (cells * len(ask.outputs) + regions)

    def memory(self, ask: Ask) -> int:
        """Bytes that one image holds, from its input to its answer."""
        cells = (ask.size[0] // PATCH) * (ask.size[1] // PATCH)
        maps = 4 * self.runner.manifest.dim * cells
        regions = 4 * self.runner.manifest.dim * (len(ask.boxes) * ask.roi_size**2 + len(ask.points))
        asked = len(ask.region_maps)
        return 12 * ask.size[0] * ask.size[1] + maps * (len(self.runner.manifest.outputs) + 2 * asked) + regions * asked

    async def item(self, blob: Blob, ask: Ask, timing: Timing) -> Item:
        """One image's part of an answer.

        Raises:
            Refusal: The image can't be used.
        """
        if blob.refusal is not None:
            raise blob.refusal
        with self.batcher.expect():
            prepared = await self.in_pool(self._prepare, blob, ask)
        result = await self.batcher(prepared.image)
        item = await self.near(self.answer_bytes(ask), self._finish, prepared, result, ask)
        self.metrics.images.inc()
        timing.note("decode", prepared.seconds)
        timing.note("queue", result.queue_seconds)
        timing.note("model", result.model_seconds)
        timing.batch = max(timing.batch, result.batch)
        return item

    async def items(self, blobs: list[Blob], ask: Ask, timing: Timing) -> list[Item]:
        """Several, each with its own error if it has one."""

        async def one(blob: Blob) -> Item:
            try:
                item = await self.item(blob, ask, timing)
            except Refusal as refusal:
                self.metrics.errors.labels(refusal.code).inc()
                return Item({"name": blob.name, "status": refusal.status, "error": refusal.about()})
            return Item({"name": blob.name, "status": 200, **item.about}, item.arrays)

        return list(await asyncio.gather(*map(one, blobs)))

    def _prepare(self, blob: Blob, ask: Ask) -> Prepared:
        started = time.monotonic()
        pixels, orientation = read_image(blob, self.settings.max_pixels)
        height, width = pixels.shape[:2]
        preprocessing = self.runner.preprocessing
        # The values of `runner.prepare`; a faster resize would be a level off here and there, and its features with it.
        resized = preprocessing.resized(Image.fromarray(pixels), ask.size)
        image = to_input(resized, preprocessing, takes_bytes(self.runner))
        matrix = grid_to_pixel(width, height, (ask.size[0] // PATCH, ask.size[1] // PATCH), orientation)
        if orientation >= 5:
            width, height = height, width
        seconds = time.monotonic() - started
        self.metrics.stage["decode"].observe(seconds)
        return Prepared(image, width, height, orientation, matrix, seconds)

    def _finish(self, prepared: Prepared, result: Result, ask: Ask) -> Item:
        arrays = {name: pick(result, name) for name in ask.outputs}
        for name in ask.region_maps:
            arrays |= regions_of(pick(result, name), name, prepared.matrix, ask)
        cast = {name: cast_to(values, ask.dtype) for name, values in arrays.items()}
        if not all(finite(values) for values in cast.values()):
            raise Refusal(503, "model_failed", f"the features of this image do not fit into {ask.dtype}")
        return Item(prepared.about(ask), cast)


def read_image(blob: Blob, max_pixels: int) -> tuple[np.ndarray, int]:
    """Upright (H, W, 3) uint8, and the file's EXIF orientation.

    Raises:
        Refusal: 422; more than `max_pixels` is known from the header, before anything is decoded.
    """
    try:
        return decode(blob.content, "image", max_pixels)
    except ImageError as broken:
        own = _OWN_WORDS.match(broken.reason)
        message = broken.reason if own else "damaged, or of a kind that is not known here"
        raise Refusal(422, "undecodable_image", message, "image") from broken


def cast_to(values: np.ndarray, dtype: str) -> np.ndarray:
    """As numpy's `astype`; to float16 by torch, which uses the processor's own instruction for it."""
    if dtype == "float16" and values.dtype == np.float32:
        cast = np.empty(values.shape, np.float16)
        source, target = torch.from_numpy(np.ascontiguousarray(values)).view(-1), torch.from_numpy(cast).view(-1)
        for i in range(0, len(source), PIECE):
            target[i : i + PIECE].copy_(source[i : i + PIECE])
        return cast
    return values.astype(dtype)


def finite(values: np.ndarray) -> bool:
    """Whether all are; of float16 told from the bits of its exponent, ten times as fast."""
    if values.dtype == np.float16:
        return not ((values.view(np.uint16) & 0x7C00) == 0x7C00).any()
    return bool(np.isfinite(values).all())


def pick(result: Result, name: str) -> np.ndarray:
    """An output by its name."""
    features = result.features
    if name in (EMBEDDING, FEATURE_MAP):
        return np.asarray(getattr(features, name))
    return np.asarray(features.layers[int(name.removeprefix(f"{FEATURE_MAP}_"))])


def regions_of(feature_map: np.ndarray, name: str, matrix: np.ndarray, ask: Ask) -> dict[str, np.ndarray]:
    """`NAME.boxes` (N, D, side, side) and `NAME.points` (N, D), as far as they are asked for.

    Raises:
        Refusal: 422, one lies outside the image.
    """
    found: dict[str, np.ndarray] = {}
    grid = feature_map.shape[1], feature_map.shape[2]
    try:
        if len(ask.boxes):
            found[f"{name}.boxes"] = roi_features(feature_map, boxes_in_cells(matrix, ask.boxes, grid), ask.roi_size)
        if len(ask.points):
            found[f"{name}.points"] = point_features(feature_map, points_in_cells(matrix, ask.points, grid))
    except ValueError as error:
        raise invalid(ask.fields[0 if str(error).startswith("box") else 1], str(error)) from error
    return found
