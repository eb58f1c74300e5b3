"""What a client sends and reads; it needs numpy and safetensors, no torch."""

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import httpx

Picture = bytes | str | Path | Any
"""The bytes of an image file, its path, a PIL image, or (H, W, 3) uint8."""
Box = Sequence[float]
Point = Sequence[float]


class ServiceError(Exception):
    """The service said no."""

    def __init__(self, status: int, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field


@dataclass(frozen=True)
class Answer:
    """Features of one image.

    `answer["feature_map"]` is (D, h, w); `about` has grid, stride, `grid_to_pixel`, and the model's hash.
    """

    arrays: Mapping[str, np.ndarray]
    about: Mapping[str, Any]

    def __getitem__(self, name: str) -> np.ndarray:
        """An array by its name: embedding, feature_map, feature_map_8, feature_map.boxes, feature_map.points."""
        return self.arrays[name]

    @property
    def grid_to_pixel(self) -> np.ndarray:
        """(2, 3): (u, v, 1) on the map, in cells, to (x, y) in pixels of the image as its file stores it."""
        return np.array(self.about["grid_to_pixel"])


@dataclass(frozen=True)
class Call:
    """One request, whoever sends it."""

    path: str
    query: list[tuple[str, str]]
    pictures: list[tuple[str, bytes]]
    alone: bool
    """One image, which is the body."""

    def sent_as(self) -> dict[str, Any]:
        """Arguments of httpx's `post`."""
        if self.alone:
            return {"params": self.query, "content": self.pictures[0][1], "headers": {"Content-Type": OCTETS}}
        files = [("images", (name, content, OCTETS)) for name, content in self.pictures]
        return {"params": self.query, "files": files}


OCTETS = "application/octet-stream"


def features_call(
    pictures: Picture | Sequence[Picture],
    outputs: Sequence[str],
    size: int | tuple[int, int] | None,
    dtype: str,
    boxes: Sequence[Box],
    points: Sequence[Point],
    roi_size: int,
) -> Call:
    """POST /v1/features."""
    alone = not isinstance(pictures, (list, tuple))
    listed: list[Any] = [pictures] if alone else list(pictures)  # type: ignore[arg-type]
    query = [("outputs", ",".join(outputs)), ("format", "safetensors"), ("dtype", dtype), *_size(size)]
    query += [("boxes", _numbers(box)) for box in boxes] + [("points", _numbers(point)) for point in points]
    if boxes:
        query.append(("roi_size", str(roi_size)))
    return Call("/v1/features", query, [(f"{i}", to_bytes(picture)) for i, picture in enumerate(listed)], alone)


def similarity_call(
    first: Picture,
    second: Picture,
    point: Point | None,
    box: Box | None,
    output: str,
    size: int | tuple[int, int] | None,
) -> Call:
    """POST /v1/similarity."""
    query = [("output", output), ("format", "safetensors"), *_size(size)]
    query += [("point", _numbers(point))] if point is not None else []
    query += [("box", _numbers(box))] if box is not None else []
    return Call("/v1/similarity", query, [("first", to_bytes(first)), ("second", to_bytes(second))], False)


def to_bytes(picture: Picture) -> bytes:
    """An image file's bytes; what is not a file yet becomes a PNG, which loses nothing."""
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, (str, Path)):
        return Path(picture).read_bytes()
    from PIL import Image

    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def read_answer(content: bytes) -> Answer:
    """Safetensors to arrays and their account."""
    from safetensors.numpy import load

    length = int.from_bytes(content[:8], "little")
    about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["about"])
    return Answer(load(content), about)


def split(answer: Answer) -> list[Answer | ServiceError]:
    """An answer for several images to one each; an error in the place of an image that can't be used."""
    common = {name: value for name, value in answer.about.items() if name != "items"}
    found: list[Answer | ServiceError] = []
    for i, about in enumerate(answer.about["items"]):
        if "error" in about:
            found.append(error_of(about["status"], about["error"]))
            continue
        own = {name[len(f"{i}.") :]: v for name, v in answer.arrays.items() if name.startswith(f"{i}.")}
        found.append(Answer(own, {**common, **about}))
    return found


def checked(response: "httpx.Response") -> bytes:
    """The body of a good answer, else `ServiceError`."""
    if response.status_code == 200:
        return response.content
    try:
        problem = response.json()["error"]
    except (ValueError, KeyError, TypeError):  # something else stands between
        problem = {"code": "unknown", "message": f"status {response.status_code}"}
    raise error_of(response.status_code, problem)


def wait_seconds(response: "httpx.Response", tries_left: int) -> float | None:
    """How long to wait before the next try; None if this answer is the last word."""
    after = response.headers.get("retry-after", "")
    return float(after) if response.status_code == 503 and tries_left > 0 and after.isdecimal() else None


def error_of(status: int, problem: Mapping[str, Any]) -> ServiceError:
    """An error out of the JSON of an answer."""
    return ServiceError(status, problem.get("code", ""), problem.get("message", ""), problem.get("param"))


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{float(value):.6f}".rstrip("0").rstrip(".") for value in values)


def _size(size: int | tuple[int, int] | None) -> list[tuple[str, str]]:
    if size is None:
        return []
    return [("size", str(size) if isinstance(size, int) else f"{size[0]}x{size[1]}")]
