"""Client of the service; `async_client` has the asynchronous one."""

import json
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from gtsa_kit.service.client_protocol import (
    Box,
    ClientRequest,
    FeaturesResponse,
    ImageInput,
    Point,
    ServiceError,
    features_request,
    get_content,
    parse_answer,
    parse_response,
    retry_delay,
    similarity_request,
    task_request,
)

__all__ = ["Client", "FeaturesResponse", "ServiceError"]

DEFAULT_URL = "http://127.0.0.1:8000"


def auth_headers(token: str | None) -> dict[str, str]:
    """Return the headers that hold a bearer token."""
    return {"Authorization": f"Bearer {token}"} if token else {}


class Client:
    """Client of one service. Use it in a `with` block, or call `close`."""

    def __init__(
        self, url: str = DEFAULT_URL, token: str | None = None, timeout: float = 60.0, retries: int = 3
    ) -> None:
        """Create a client, which connects at its first request.

        Args:
            url: Address of the service.
            token: Bearer token, if the service requires one.
            timeout: Seconds to wait for a response.
            retries: Further attempts when the service is overloaded, each after the delay of its `Retry-After` header.
        """
        import httpx

        self._http = httpx.Client(base_url=url, headers=auth_headers(token), timeout=timeout)
        self._retries = retries

    def features(
        self,
        images: ImageInput | Sequence[ImageInput],
        outputs: Sequence[str] = ("embedding", "feature_map"),
        size: int | tuple[int, int] | None = None,
        dtype: str = "float16",
        boxes: Sequence[Box] = (),
        points: Sequence[Point] = (),
        roi_size: int = 7,
    ) -> Any:
        """Compute features of one image or of several.

        Args:
            images: One image, or a list.
            outputs: Names of the artifact's outputs.
            size: Size of the model's input, N or (height, width); default: the artifact's own.
            dtype: float16 or float32.
            boxes: (x1, y1, x2, y2) in pixels of the image.
            points: (x, y) in pixels of the image.
            roi_size: Height and width of a box's features.

        Returns:
            A `FeaturesResponse` for one image. For a list, a list with one response per image, and a `ServiceError` for
            each image that can't be used.

        Raises:
            ServiceError: The request, or its one image, was rejected.
        """
        request = features_request(images, outputs, size, dtype, boxes, points, roi_size)
        return parse_answer(request, self._post(request))

    def similarity(
        self,
        first: ImageInput,
        second: ImageInput,
        point: Point | None = None,
        box: Box | None = None,
        output: str = "feature_map",
        size: int | tuple[int, int] | None = None,
    ) -> FeaturesResponse:
        """Compute the cosine similarity (h, w) of a point or box in the first image to the patches of the second.

        Returns:
            A response with the array `similarity`, and the maximum in its metadata as `best`.
        """
        return parse_response(self._post(similarity_request(first, second, point, box, output, size)))

    def segment(
        self,
        images: ImageInput | Sequence[ImageInput],
        head: str | None = None,
        size: int | tuple[int, int] | None = None,
        probabilities: bool = False,
    ) -> Any:
        """Predict the class of each pixel of one image or of several.

        Args:
            images: One image, or a list.
            head: Name of a head; default: all heads for pixels. With several, names of arrays begin with `{head}.`.
            size: Size of the model's input, N or (height, width); default: that of its training.
            probabilities: Whether the probabilities of the classes are returned too.

        Returns:
            A response with `mask` (H, W) uint8 of class numbers, at the size of the upright image, and on request
            `probabilities` (K, H, W) float16; `metadata["classes"]` lists the classes in the mask. For a list of
            images, a list as from `features`.
        """
        request = task_request("segment", images, head, size, probabilities=probabilities)
        return parse_answer(request, self._post(request))

    def classify(
        self,
        images: ImageInput | Sequence[ImageInput],
        head: str | None = None,
        size: int | tuple[int, int] | None = None,
        top_k: int = 5,
    ) -> Any:
        """Predict the class of one image or of several.

        Returns:
            A response with `probabilities` (K,) float32; `metadata["classes"]` lists the `top_k` most probable
            classes. For a list of images, a list as from `features`.
        """
        request = task_request("classify", images, head, size, top_k=top_k)
        return parse_answer(request, self._post(request))

    def detect(
        self,
        images: ImageInput | Sequence[ImageInput],
        head: str | None = None,
        size: int | tuple[int, int] | None = None,
        threshold: float = 0.5,
        masks: bool = False,
    ) -> Any:
        """Detect the objects in one image or in several.

        Args:
            images: One image, or a list.
            head: Name of a head; default: the one that detects objects.
            size: Size of the model's input, N or (height, width); default: that of its training.
            threshold: Lowest score of the detections.
            masks: Whether the masks of the detections are returned too.

        Returns:
            A response with `boxes` (N, 4) float32 x0, y0, x1, y1 in pixels of the upright image, `scores` (N,) and
            `labels` (N,) int32 of class numbers, the highest score first, and on request `masks` (N, H, W) uint8;
            `metadata["detections"]` lists them by name. For a list of images, a list as from `features`.
        """
        request = task_request("detect", images, head, size, threshold=threshold, masks=masks)
        return parse_answer(request, self._post(request))

    def model(self) -> dict[str, Any]:
        """Return the artifact's manifest and the limits of the service."""
        return dict(json.loads(get_content(self._http.get("/v1/model"))))

    def ready(self) -> bool:
        """Return True if the service accepts requests."""
        import httpx

        try:
            return self._http.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _post(self, request: ClientRequest) -> bytes:
        for retries_left in range(self._retries, -1, -1):
            response = self._http.post(request.path, **request.post_arguments())
            delay = retry_delay(response, retries_left)
            if delay is None:
                break
            time.sleep(delay)
        return get_content(response)
