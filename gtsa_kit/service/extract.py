"""Feature extraction of uploaded images: decode, resize, model, pooling of regions and cast."""

import asyncio
import math
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final, ParamSpec, TypeVar

import numpy as np

from gtsa_kit.embedding.preprocess import to_input
from gtsa_kit.export.spec import CLASS_TOKEN, EMBEDDING, FEATURE_MAP
from gtsa_kit.feature_grid import grid_to_pixel
from gtsa_kit.service.batcher import Batcher, InferenceResult
from gtsa_kit.service.decoding import decode_upload
from gtsa_kit.service.errors import APIError, invalid_parameter
from gtsa_kit.service.metrics import ServiceMetrics
from gtsa_kit.service.query import FeatureRequest
from gtsa_kit.service.regions import point_features, project_boxes, project_points, roi_features
from gtsa_kit.service.request_parsing import UploadedImage
from gtsa_kit.service.serialization import ImageResult
from gtsa_kit.service.served_model import ServedModel
from gtsa_kit.service.settings import ServiceSettings

P = ParamSpec("P")
T = TypeVar("T")

MAX_INLINE_BYTES: Final = 1 << 20
"""Maximum bytes that are processed in the event loop, which takes some tenths of a millisecond."""

CAST_CHUNK: Final = 1 << 15
"""Numbers that torch casts per call: few enough that it uses the calling thread alone and wakes no others."""


@dataclass(frozen=True)
class ModelInput:
    """Preprocessed image, and the geometry that relates its feature map to the file."""

    image: np.ndarray
    """Model input without the batch axis."""
    width: int
    """Width of the image as stored in its file, pixels."""
    height: int
    """Height of the image as stored in its file, pixels."""
    orientation: int
    """EXIF orientation, 1 to 8."""
    grid_to_pixel: np.ndarray
    """Affine (2, 3) from positions on the feature map to pixels of the file."""
    patch: int
    """Side of a patch, pixels of the model's input."""
    decode_seconds: float

    def metadata(self, request: FeatureRequest) -> dict[str, Any]:
        """Return the metadata of the image's arrays."""
        return {
            "width": self.width,
            "height": self.height,
            "orientation": self.orientation,
            "input_size": list(request.size),
            "grid": [side // self.patch for side in request.size],
            "stride": self.patch,
            "grid_to_pixel": self.grid_to_pixel.tolist(),
        }


@dataclass
class RequestTiming:
    """Seconds of a request by stage, each the maximum over its images, and the size of the largest batch."""

    stages: dict[str, float] = field(default_factory=dict)
    batch_size: int = 0

    def record(self, stage: str, seconds: float) -> None:
        """Keep the maximum of the stage."""
        self.stages[stage] = max(seconds, self.stages.get(stage, 0.0))

    def record_image(self, decode_seconds: float, inference: InferenceResult) -> None:
        """Record the stages of one image."""
        self.record("decode", decode_seconds)
        self.record("queue", inference.queue_seconds)
        self.record("model", inference.model_seconds)
        self.batch_size = max(self.batch_size, inference.batch_size)

    def header(self) -> str:
        """Return the value of the `Server-Timing` header."""
        parts = [f"{stage};dur={1000 * seconds:.2f}" for stage, seconds in self.stages.items()]
        return ", ".join([*parts, f'batch;desc="{self.batch_size}"'])


class FeatureExtractor:
    """Feature extraction: decoding and encoding run in a thread pool, the model in the batcher's thread."""

    def __init__(self, model: ServedModel, settings: ServiceSettings, metrics: ServiceMetrics) -> None:
        self.model, self.settings, self.metrics = model, settings, metrics
        self.batcher = Batcher(model, settings.max_batch or model.default_batch, settings.max_wait_ms / 1000, metrics)
        # No more threads than cores, because each may hold one image at its full size.
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "gtsa-images")

    async def close(self) -> None:
        """End the threads."""
        await self.batcher.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    async def run_in_pool(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in a thread of the pool; if it is cancelled before it starts, it does not run."""
        future = self._pool.submit(work, *args, **kwargs)
        return await asyncio.wrap_future(future)

    async def run_maybe_in_pool(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work` in the pool, or directly if it processes at most `MAX_INLINE_BYTES`, which is then faster."""
        if size <= MAX_INLINE_BYTES:
            return work(*args, **kwargs)
        return await self.run_in_pool(work, *args, **kwargs)

    def _grid(self, request: FeatureRequest) -> tuple[int, int]:
        """Return the shape (h, w) of the feature map of an input."""
        patch = self.model.manifest.patch
        return request.size[0] // patch, request.size[1] // patch

    def output_cost(self, request: FeatureRequest) -> int:
        """Estimate the cost of selecting one image's outputs, in bytes of float32; a pooled value counts 16 times."""
        positions = math.prod(self._grid(request))
        regions = 16 * (len(request.boxes) * request.roi_size**2 + len(request.points)) * len(request.region_maps)
        return 4 * self.model.manifest.dim * (positions * len(request.outputs) + regions)

    def memory_bytes(self, request: FeatureRequest) -> int:
        """Estimate the memory that one image needs from its input to its response, bytes."""
        height, width = request.size
        per_position = 4 * self.model.manifest.dim
        feature_map = per_position * math.prod(self._grid(request))
        regions = per_position * (len(request.boxes) * request.roi_size**2 + len(request.points))
        maps = len(request.region_maps)
        inputs = 4 * self.model.manifest.channels * height * width
        return inputs + feature_map * (len(self.model.manifest.outputs) + 2 * maps) + regions * maps

    async def extract(self, upload: UploadedImage, request: FeatureRequest, timing: RequestTiming) -> ImageResult:
        """Compute the requested features of one image.

        Raises:
            APIError: The image can't be used.
        """
        if upload.error is not None:
            raise upload.error
        with self.batcher.expect():
            prepared = await self.run_in_pool(self._prepare, upload, request)
        inference = await self.batcher(prepared.image)
        size = self.output_cost(request)
        result = await self.run_maybe_in_pool(size, self._select_outputs, prepared, inference, request)
        self.metrics.images.inc()
        timing.record_image(prepared.decode_seconds, inference)
        return result

    async def extract_all(
        self, uploads: list[UploadedImage], request: FeatureRequest, timing: RequestTiming
    ) -> list[ImageResult]:
        """Compute the features of several images; the result of a failed image holds its error."""

        async def extract_one(upload: UploadedImage) -> ImageResult:
            try:
                result = await self.extract(upload, request, timing)
            except APIError as error:
                self.metrics.errors.labels(error.code).inc()
                return ImageResult({"name": upload.name, "status": error.status, "error": error.to_dict()})
            return ImageResult({"name": upload.name, "status": 200, **result.metadata}, result.arrays)

        return list(await asyncio.gather(*map(extract_one, uploads)))

    def _prepare(self, upload: UploadedImage, request: FeatureRequest) -> ModelInput:
        started = time.monotonic()
        preprocessing = self.model.preprocessing
        pixels, orientation = decode_upload(upload, preprocessing, self.settings.max_pixels)
        height, width = pixels.shape[:2]
        # Values equal those of `runner.prepare`; a faster resize would differ by one level in some pixels.
        resized = preprocessing.resized_samples(pixels, request.size)
        image = to_input(resized, preprocessing, self.model.manifest.input_format)
        affine = grid_to_pixel(width, height, self._grid(request), orientation)
        if orientation >= 5:
            width, height = height, width
        seconds = time.monotonic() - started
        self.metrics.stage["decode"].observe(seconds)
        return ModelInput(image, width, height, orientation, affine, self.model.manifest.patch, seconds)

    def _select_outputs(self, prepared: ModelInput, inference: InferenceResult, request: FeatureRequest) -> ImageResult:
        arrays = {name: get_output(inference, name) for name in request.outputs}
        for name in request.region_maps:
            arrays |= pool_regions(get_output(inference, name), name, prepared.grid_to_pixel, request)
        cast = {name: cast_array(values, request.dtype) for name, values in arrays.items()}
        if not all(is_finite(values) for values in cast.values()):
            raise APIError(503, "model_failed", f"the features of this image do not fit into {request.dtype}")
        return ImageResult(prepared.metadata(request), cast)


def cast_array(values: np.ndarray, dtype: str) -> np.ndarray:
    """Cast like numpy's `astype`. float16 is cast by torch if it is loaded, by the processor's instruction."""
    torch = sys.modules.get("torch")
    if dtype == "float16" and values.dtype == np.float32 and torch:
        cast = np.empty(values.shape, np.float16)
        source, target = torch.from_numpy(np.ascontiguousarray(values)).view(-1), torch.from_numpy(cast).view(-1)
        for i in range(0, len(source), CAST_CHUNK):
            target[i : i + CAST_CHUNK].copy_(source[i : i + CAST_CHUNK])
        return cast
    return values.astype(dtype)


def is_finite(values: np.ndarray) -> bool:
    """Return True if all values are finite; float16 is tested by its exponent bits, which is ten times as fast."""
    if values.dtype == np.float16:
        return not ((values.view(np.uint16) & 0x7C00) == 0x7C00).any()
    return bool(np.isfinite(values).all())


def get_output(inference: InferenceResult, name: str) -> np.ndarray:
    """Return an output of the model by its name."""
    features = inference.output.features
    assert features is not None, "routes of features refuse a model without them"
    if name in (EMBEDDING, FEATURE_MAP, CLASS_TOKEN):
        return np.asarray(getattr(features, name))
    return np.asarray(features.layers[int(name.removeprefix(f"{FEATURE_MAP}_"))])


def pool_regions(
    feature_map: np.ndarray, name: str, affine: np.ndarray, request: FeatureRequest
) -> dict[str, np.ndarray]:
    """Return `NAME.boxes` (N, D, roi_size, roi_size) and `NAME.points` (N, D), whichever are requested.

    Raises:
        APIError: 422, a box or a point lies outside the image.
    """
    arrays: dict[str, np.ndarray] = {}
    grid = feature_map.shape[1], feature_map.shape[2]
    try:
        if len(request.boxes):
            boxes = project_boxes(affine, request.boxes, grid)
            arrays[f"{name}.boxes"] = roi_features(feature_map, boxes, request.roi_size)
        if len(request.points):
            arrays[f"{name}.points"] = point_features(feature_map, project_points(affine, request.points, grid))
    except ValueError as error:
        parameter = request.parameter_names[0 if str(error).startswith("box") else 1]
        raise invalid_parameter(parameter, str(error)) from error
    return arrays
