"""Results of tasks as metadata and arrays of a response: classes, masks and detections of one image."""

from typing import Any

import numpy as np

from gtsa_kit.models.outputs import TaskOutput
from gtsa_kit.models.task_spec import Label
from gtsa_kit.service.serialization import ImageResult
from gtsa_kit.service.task_query import TaskRequest
from gtsa_kit.tasks.detection_pictures import encode_png, paint_detections
from gtsa_kit.tasks.detections import ImageDetections, to_detections
from gtsa_kit.tasks.mask_files import encode_mask, pixel_values
from gtsa_kit.tasks.masks import class_numbers, class_probabilities, softmax
from gtsa_kit.tasks.predict_images import resize_mask
from gtsa_kit.tasks.predict_rows import class_shares, segments, top_classes


def describe_classes(output: TaskOutput, labels: tuple[Label, ...], request: TaskRequest) -> ImageResult:
    """Return the most probable classes, and the array `probabilities` if it is requested."""
    assert output.logits is not None
    probabilities = softmax(output.logits)
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


def describe_objects(
    output: TaskOutput,
    labels: tuple[Label, ...],
    sizes: tuple[tuple[int, int], tuple[int, int]],
    request: TaskRequest,
    pixels: np.ndarray | None,
) -> ImageResult:
    """Return the detections from the requested score on.

    Args:
        output: Outputs of a detector for one image, without the batch axis.
        labels: Classes by class number.
        sizes: (height, width) of the input, and of the upright image.
        request: Format, threshold and masks.
        pixels: The upright image, for a picture.

    Raises:
        ImageError: A number of the outputs is not finite.
    """
    detections = to_detections(output, *sizes, request.threshold)
    with_rle = request.masks and request.format == "json"
    metadata = {"detections": [_describe_object(detections, i, labels, with_rle) for i in range(len(detections))]}
    if request.format == "json":
        return ImageResult(metadata)
    if request.format == "png":
        assert pixels is not None
        picture = encode_png(paint_detections(pixels, detections, labels))
        return ImageResult(metadata, {"png": np.frombuffer(picture, np.uint8)})
    arrays = {
        "boxes": detections.boxes,
        "scores": detections.scores,
        "labels": detections.classes.astype(np.int32),
    }
    if request.masks:
        masks = [detections.mask(i).view(np.uint8) for i in range(len(detections))]
        arrays["masks"] = np.stack(masks) if masks else np.zeros((0, *detections.size), np.uint8)
    return ImageResult(metadata, arrays)


def _describe_object(
    detections: ImageDetections, index: int, labels: tuple[Label, ...], with_rle: bool
) -> dict[str, Any]:
    number = int(detections.classes[index])
    described: dict[str, Any] = {
        "number": number,
        "id": labels[number].id,
        "label": labels[number].name,
        "score": float(detections.scores[index]),
        "box": [float(value) for value in detections.boxes[index]],
    }
    return described | ({"mask": detections.rle(index)} if with_rle else {})
