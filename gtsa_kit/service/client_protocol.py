"""Requests and responses of the clients. Needs numpy and safetensors, but not torch."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import httpx

ImageInput = bytes | str | Path | Any
"""Image as the bytes of its file, its path, a PIL image, or an array: (H, W, 3) uint8, or samples (H, W, N) for a model
of other channels."""
Box = Sequence[float]
"""x1, y1, x2, y2 in pixels of the image as stored in its file."""
Point = Sequence[float]
"""x, y in pixels of the image as stored in its file."""
OCTET_STREAM = "application/octet-stream"


class ServiceError(Exception):
    """Raised when the service answers with an error; `status`, `code` and `field` are those of the response."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field


@dataclass(frozen=True)
class FeaturesResponse:
    """Arrays of one image by name, and their metadata: grid, stride, `grid_to_pixel`, and the model's hash.

    For a task, the metadata has the `classes` or `detections`, or those of each head in `heads`.
    """

    arrays: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any]

    def __getitem__(self, name: str) -> np.ndarray:
        """Return an array: embedding, feature_map, feature_map_8, feature_map.boxes, mask, probabilities, road.mask."""
        return self.arrays[name]

    @property
    def grid_to_pixel(self) -> np.ndarray:
        """Affine (2, 3) from a position (u, v, 1) on the feature map, in patches, to (x, y) in pixels of the file."""
        return np.array(self.metadata["grid_to_pixel"])


@dataclass(frozen=True)
class ClientRequest:
    """Path, query and images of one POST request."""

    path: str
    query: list[tuple[str, str]]
    files: list[tuple[str, bytes]]
    """Name and bytes of each image file."""
    single: bool
    """True if the one image is the body, False if the images are parts of a multipart body."""

    def post_arguments(self) -> dict[str, Any]:
        """Return the keyword arguments of httpx's `post`."""
        if self.single:
            return {"params": self.query, "content": self.files[0][1], "headers": {"Content-Type": OCTET_STREAM}}
        parts = [("images", (name, content, OCTET_STREAM)) for name, content in self.files]
        return {"params": self.query, "files": parts}


def features_request(
    images: ImageInput | Sequence[ImageInput],
    outputs: Sequence[str],
    size: int | tuple[int, int] | None,
    dtype: str,
    boxes: Sequence[Box],
    points: Sequence[Point],
    roi_size: int,
) -> ClientRequest:
    """Build a request to /v1/features."""
    single = not isinstance(images, (list, tuple))
    listed: list[Any] = [images] if single else list(images)  # type: ignore[arg-type]
    query = [("outputs", ",".join(outputs)), ("format", "safetensors"), ("dtype", dtype), *_size_parameter(size)]
    query += [("boxes", _join_numbers(box)) for box in boxes] + [("points", _join_numbers(point)) for point in points]
    if boxes:
        query.append(("roi_size", str(roi_size)))
    files = [(f"{i}", to_bytes(image)) for i, image in enumerate(listed)]
    return ClientRequest("/v1/features", query, files, single)


def similarity_request(
    first: ImageInput,
    second: ImageInput,
    point: Point | None,
    box: Box | None,
    output: str,
    size: int | tuple[int, int] | None,
) -> ClientRequest:
    """Build a request to /v1/similarity."""
    query = [("output", output), ("format", "safetensors"), *_size_parameter(size)]
    query += [("point", _join_numbers(point))] if point is not None else []
    query += [("box", _join_numbers(box))] if box is not None else []
    files = [("first", to_bytes(first)), ("second", to_bytes(second))]
    return ClientRequest("/v1/similarity", query, files, single=False)


def task_request(
    task: str,
    images: ImageInput | Sequence[ImageInput],
    head: str | None,
    size: int | tuple[int, int] | None,
    **more: object,
) -> ClientRequest:
    """Build a request to the route of a task; `more` are its other parameters."""
    single = not isinstance(images, (list, tuple))
    listed: list[Any] = [images] if single else list(images)  # type: ignore[arg-type]
    query = [("format", "safetensors"), *_size_parameter(size)] + ([("head", head)] if head else [])
    query += [(name, str(value).lower()) for name, value in more.items()]
    files = [(f"{i}", to_bytes(image)) for i, image in enumerate(listed)]
    return ClientRequest(f"/v1/{task}", query, files, single)


def to_bytes(image: ImageInput) -> bytes:
    """Return the bytes of an image file; PIL images and arrays are encoded without loss, as PNG or as `.npy`."""
    if isinstance(image, bytes):
        return image
    if isinstance(image, (str, Path)):
        return Path(image).read_bytes()
    from PIL import Image

    buffer = io.BytesIO()
    if isinstance(image, np.ndarray) and not _is_picture(image):
        np.save(buffer, image, allow_pickle=False)
        return buffer.getvalue()
    opened = image if isinstance(image, Image.Image) else Image.fromarray(image)
    opened.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _is_picture(array: np.ndarray) -> bool:
    """Return whether PNG holds an array: gray, RGB or RGBA of 8 bits."""
    return array.dtype == np.uint8 and (array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4)))


def parse_response(content: bytes) -> FeaturesResponse:
    """Parse a response in safetensors."""
    from safetensors.numpy import load

    length = int.from_bytes(content[:8], "little")
    metadata = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["metadata"])
    return FeaturesResponse(load(content), metadata)


def parse_answer(request: ClientRequest, content: bytes) -> Any:
    """Parse a response in safetensors to what the request asked for: one response, or a list of one for each image."""
    response = parse_response(content)
    return response if request.single else split_by_image(response)


def split_by_image(response: FeaturesResponse) -> list[FeaturesResponse | ServiceError]:
    """Split a response for several images into one per image, or an error for an image that can't be used."""
    common = {name: value for name, value in response.metadata.items() if name != "items"}
    items: list[FeaturesResponse | ServiceError] = []
    for i, metadata in enumerate(response.metadata["items"]):
        if "error" in metadata:
            items.append(to_service_error(metadata["status"], metadata["error"]))
            continue
        arrays = {name[len(f"{i}.") :]: v for name, v in response.arrays.items() if name.startswith(f"{i}.")}
        items.append(FeaturesResponse(arrays, {**common, **metadata}))
    return items


def get_content(response: "httpx.Response") -> bytes:
    """Return the body of a response with status 200.

    Raises:
        ServiceError: The status is another one.
    """
    if response.status_code == 200:
        return response.content
    try:
        error = response.json()["error"]
    except (ValueError, KeyError, TypeError):  # a proxy answered, not the service
        error = {"code": "unknown", "message": f"status {response.status_code}"}
    raise to_service_error(response.status_code, error)


def retry_delay(response: "httpx.Response", retries_left: int) -> float | None:
    """Return the seconds to wait before the next attempt, or None if this response is final."""
    retry_after = response.headers.get("retry-after", "")
    if response.status_code == 503 and retries_left > 0 and retry_after.isdecimal():
        return float(retry_after)
    return None


def to_service_error(status: int, error: Mapping[str, Any]) -> ServiceError:
    """Return the exception for the JSON of an error."""
    return ServiceError(status, error.get("code", ""), error.get("message", ""), error.get("param"))


def _join_numbers(values: Sequence[float]) -> str:
    return ",".join(f"{float(value):.6f}".rstrip("0").rstrip(".") for value in values)


def _size_parameter(size: int | tuple[int, int] | None) -> list[tuple[str, str]]:
    if size is None:
        return []
    return [("size", str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}")]
