"""Predictions for uploaded images: decode, resize, model and heads, results at the image's own size."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from gtsa_kit.data.image_io import ImageError
from gtsa_kit.embedding.preprocess import to_input
from gtsa_kit.models.pictures import rgb_picture
from gtsa_kit.service.admission import Reservation
from gtsa_kit.service.batcher import InferenceResult
from gtsa_kit.service.decoding import decode_upload
from gtsa_kit.service.errors import APIError, invalid_parameter
from gtsa_kit.service.extract import FeatureExtractor, RequestTiming
from gtsa_kit.service.request_parsing import UploadedImage
from gtsa_kit.service.serialization import ImageResult
from gtsa_kit.service.task_query import TaskRequest
from gtsa_kit.service.task_results import describe_classes, describe_mask, describe_objects
from gtsa_kit.tasks.predictor import DETECTOR_VALUES, Predictor

MAX_PROBABILITY_BYTES: Final = 256 << 20
"""Maximum bytes of the probabilities of one image, and of the arrays of its masks."""


@dataclass(frozen=True)
class TaskInput:
    """Preprocessed image, and the properties of its file."""

    image: np.ndarray
    """Model input without the batch axis."""
    size: tuple[int, int]
    """Height and width of the upright image, pixels."""
    orientation: int
    """EXIF orientation of the file, 1 to 8."""
    input_size: tuple[int, int]
    """Height and width of the model's input, pixels."""
    decode_seconds: float
    pixels: np.ndarray | None = None
    """Picture (H, W, 3) uint8 of the upright image, if one is requested."""


class TaskExtractor:
    """Predictions by the model and the threads of a `FeatureExtractor`."""

    def __init__(self, extractor: FeatureExtractor, display_channels: tuple[int, ...] = ()) -> None:
        """Predict with the model of an extractor.

        Args:
            extractor: The extractor.
            display_channels: Channels of pictures of images that are not 8-bit RGB.
        """
        self.extractor, self.model, self.display_channels = extractor, extractor.model, display_channels

    async def predict(
        self, upload: UploadedImage, request: TaskRequest, timing: RequestTiming, reservation: Reservation
    ) -> ImageResult:
        """Compute the requested predictions for one image.

        Raises:
            APIError: The image can't be used, or its predictions are too large.
        """
        if upload.error is not None:
            raise upload.error
        extractor = self.extractor
        with extractor.batcher.expect():
            prepared = await extractor.run_in_pool(self._prepare, upload, request)
        reservation.acquire(size=self._memory_bytes(prepared, request))
        inference = await extractor.batcher(prepared.image, frozenset(request.heads))
        result = await extractor.run_in_pool(self._finish, prepared, inference, request)
        extractor.metrics.images.inc()
        timing.record_image(prepared.decode_seconds, inference)
        return result

    async def predict_all(
        self, uploads: list[UploadedImage], request: TaskRequest, timing: RequestTiming, reservation: Reservation
    ) -> list[ImageResult]:
        """Compute the predictions for several images; the result of a failed image holds its error."""

        async def predict_one(upload: UploadedImage) -> ImageResult:
            try:
                result = await self.predict(upload, request, timing, reservation)
            except APIError as error:
                self.extractor.metrics.errors.labels(error.code).inc()
                return ImageResult({"name": upload.name, "status": error.status, "error": error.to_dict()})
            return ImageResult({"name": upload.name, "status": 200, **result.metadata}, result.arrays)

        return list(await asyncio.gather(*map(predict_one, uploads)))

    def _prepare(self, upload: UploadedImage, request: TaskRequest) -> TaskInput:
        started = time.monotonic()
        preprocessing = self.model.preprocessing
        pixels, orientation = decode_upload(upload, preprocessing, self.extractor.settings.max_pixels)
        height, width = pixels.shape[:2]
        size = request.resize(width, height)
        whole = Image.fromarray(pixels) if preprocessing.is_rgb else pixels
        resized = preprocessing.resized(request.resize.cut(whole, preprocessing.interpolation), size)
        image = to_input(resized, preprocessing, self.model.manifest.input_format)
        seconds = time.monotonic() - started
        self.extractor.metrics.stage["decode"].observe(seconds)
        kept = rgb_picture(pixels, preprocessing, self.display_channels) if request.picture else None
        return TaskInput(image, (height, width), orientation, size, seconds, kept)

    def _memory_bytes(self, prepared: TaskInput, request: TaskRequest) -> int:
        """Return the memory from the input of one image to its response, bytes.

        Raises:
            APIError: 422, its probabilities or masks are too large.
        """
        pixels, inputs = int(np.prod(prepared.size)), int(np.prod(prepared.input_size))
        bytes_per_pixel = 4 * self.model.manifest.channels
        head = self.model.heads[request.heads[0]]
        if isinstance(head, Predictor) and head.task == "detect":
            slots = head.manifest.max_detections or 0
            masks = slots * pixels * (request.masks and request.format != "json")
            _check_bytes("masks", masks, "; the format json holds their run lengths")
            return (bytes_per_pixel + 4 * DETECTOR_VALUES) * inputs + (3 + 6 * request.picture) * pixels + 2 * masks
        classes = sum(len(self.model.heads[name].labels) for name in request.heads)
        probabilities = 2 * classes * pixels * request.probabilities
        _check_bytes("probabilities", probabilities)
        logits = 4 * classes * (inputs if head.task == "segment" else 1)
        return bytes_per_pixel * inputs + logits + 3 * pixels * len(request.heads) + 2 * probabilities

    def _finish(self, prepared: TaskInput, inference: InferenceResult, request: TaskRequest) -> ImageResult:
        height, width = prepared.size
        common: dict[str, Any] = {"width": width, "height": height, "orientation": prepared.orientation}
        common["input_size"] = list(prepared.input_size)
        results = {name: self._describe(name, prepared, inference, request) for name in request.heads}
        if len(results) == 1:
            (result,) = results.values()
            return ImageResult({**common, **result.metadata}, result.arrays)
        heads = {name: result.metadata for name, result in results.items()}
        arrays = {f"{name}.{key}": value for name, result in results.items() for key, value in result.arrays.items()}
        return ImageResult({**common, "heads": heads}, arrays)

    def _describe(
        self, name: str, prepared: TaskInput, inference: InferenceResult, request: TaskRequest
    ) -> ImageResult:
        """Return the result of a head."""
        output, head = inference.output.predictions[name], self.model.heads[name]
        if output.logits is not None and not np.isfinite(output.logits).all():
            raise APIError(503, "model_failed", "the logits of this image are not finite")
        if head.task == "classify":
            return describe_classes(output, head.labels, request)
        if head.task == "segment":
            return describe_mask(output, head.labels, prepared.size, request)
        try:
            sizes = prepared.input_size, prepared.size
            return describe_objects(output, head.labels, sizes, request, prepared.pixels)
        except ImageError as error:
            raise APIError(503, "model_failed", error.reason) from error


def _check_bytes(parameter: str, size: int, hint: str = "") -> None:
    if size > MAX_PROBABILITY_BYTES:
        taken, limit = f"{size >> 20} MiB", f"{MAX_PROBABILITY_BYTES >> 20} MiB"
        raise invalid_parameter(parameter, f"take {taken} for this image, above the limit of {limit}{hint}")
