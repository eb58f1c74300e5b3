"""Predictions for uploaded images: decode, resize, model and heads, masks at the image's own size."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from gtsa_kit.embedding.preprocess import to_input
from gtsa_kit.models.task_spec import Label, TaskOutput
from gtsa_kit.service.admission import Reservation
from gtsa_kit.service.batcher import InferenceResult
from gtsa_kit.service.errors import APIError, invalid_parameter
from gtsa_kit.service.extract import FeatureExtractor, RequestTiming, decode_upload
from gtsa_kit.service.request_parsing import UploadedImage
from gtsa_kit.service.serialization import ImageResult
from gtsa_kit.service.task_query import TaskRequest
from gtsa_kit.tasks.mask_files import encode_mask, pixel_values
from gtsa_kit.tasks.masks import class_numbers, class_probabilities
from gtsa_kit.tasks.predict_images import resize_mask
from gtsa_kit.tasks.predict_rows import class_shares, segments, top_classes

MAX_PROBABILITY_BYTES: Final = 256 << 20
"""Maximum bytes of the probabilities of one image."""


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


class TaskExtractor:
    """Predictions by the model and the threads of a `FeatureExtractor`."""

    def __init__(self, extractor: FeatureExtractor) -> None:
        self.extractor, self.model = extractor, extractor.model

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
        pixels, orientation = decode_upload(upload, self.extractor.settings.max_pixels)
        height, width = pixels.shape[:2]
        size, preprocessing = request.resize(width, height), self.model.preprocessing
        resized = preprocessing.resized(Image.fromarray(pixels), size)
        image = to_input(resized, preprocessing, self.model.manifest.input_format)
        seconds = time.monotonic() - started
        self.extractor.metrics.stage["decode"].observe(seconds)
        return TaskInput(image, (height, width), orientation, size, seconds)

    def _memory_bytes(self, prepared: TaskInput, request: TaskRequest) -> int:
        """Return the memory from the input of one image to its response, bytes.

        Raises:
            APIError: 422, its probabilities are too large.
        """
        pixels, inputs = int(np.prod(prepared.size)), int(np.prod(prepared.input_size))
        classes = sum(len(self.model.heads[name].labels) for name in request.heads)
        probabilities = 2 * classes * pixels * request.probabilities
        if probabilities > MAX_PROBABILITY_BYTES:
            size, limit = f"{probabilities >> 20} MiB", f"{MAX_PROBABILITY_BYTES >> 20} MiB"
            raise invalid_parameter("probabilities", f"take {size} for this image, above the limit of {limit}")
        logits = 4 * classes * (inputs if self.model.heads[request.heads[0]].task == "segment" else 1)
        return 12 * inputs + logits + 3 * pixels * len(request.heads) + 2 * probabilities

    def _finish(self, prepared: TaskInput, inference: InferenceResult, request: TaskRequest) -> ImageResult:
        height, width = prepared.size
        common: dict[str, Any] = {"width": width, "height": height, "orientation": prepared.orientation}
        common["input_size"] = list(prepared.input_size)
        results = {}
        for name in request.heads:
            output, labels = inference.output.predictions[name], self.model.heads[name].labels
            if output.logits is not None and not np.isfinite(output.logits).all():
                raise APIError(503, "model_failed", "the logits of this image are not finite")
            work = describe_classes if self.model.heads[name].task == "classify" else describe_mask
            results[name] = work(output, labels, prepared.size, request)
        if len(results) == 1:
            (result,) = results.values()
            return ImageResult({**common, **result.metadata}, result.arrays)
        heads = {name: result.metadata for name, result in results.items()}
        arrays = {f"{name}.{key}": value for name, result in results.items() for key, value in result.arrays.items()}
        return ImageResult({**common, "heads": heads}, arrays)


def describe_classes(
    output: TaskOutput, labels: tuple[Label, ...], size: tuple[int, int], request: TaskRequest
) -> ImageResult:
    """Return the most probable classes, and the array `probabilities` if it is requested."""
    assert output.logits is not None
    probabilities = torch.from_numpy(np.ascontiguousarray(output.logits)).softmax(0).numpy()
    classes = [
        {"number": number, "id": labels[number].id, "name": labels[number].name, "probability": probability}
        for number, probability in top_classes(probabilities, request.top_k)
    ]
    return ImageResult({"classes": classes}, {} if request.format == "json" else {"probabilities": probabilities})


def describe_mask(
    output: TaskOutput, labels: tuple[Label, ...], size: tuple[int, int], request: TaskRequest
) -> ImageResult:
    """Return the mask in the requested format, with the share of each class that it holds."""
    if output.logits is None:
        assert output.mask is not None
        mask = resize_mask(output.mask, size)
    else:
        mask = class_numbers(output.logits, size)
    values, _ = pixel_values(labels)
    classes = [
        {
            "number": number,
            "pixel": int(values[number]),
            "id": labels[number].id,
            "name": labels[number].name,
            "color": list(labels[number].color),
            "share": float(share),
        }
        for number, share in enumerate(class_shares(mask, len(labels)))
        if share > 0
    ]
    metadata: dict[str, Any] = {"classes": sorted(classes, key=lambda one: -float(str(one["share"])))}
    if request.format == "png":
        return ImageResult(metadata, {"png": np.frombuffer(encode_mask(mask, labels), np.uint8)})
    if request.format == "rle":
        own = [{key: value for key, value in one.items() if key != "path"} for one in segments("", mask, labels)]
        return ImageResult({**metadata, "segments": own})
    if request.format == "json":
        return ImageResult(metadata)
    arrays = {"mask": mask}
    if request.probabilities:
        assert output.logits is not None
        arrays["probabilities"] = class_probabilities(output.logits, size)
    return ImageResult(metadata, arrays)
