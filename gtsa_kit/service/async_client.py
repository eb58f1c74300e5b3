"""Asynchronous client of the service."""

import asyncio
import json
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from gtsa_kit.service.client import DEFAULT_URL, auth_headers
from gtsa_kit.service.client_protocol import (
    Box,
    ClientRequest,
    FeaturesResponse,
    ImageInput,
    Point,
    features_request,
    get_content,
    parse_answer,
    parse_response,
    retry_delay,
    similarity_request,
    task_request,
)


class AsyncClient:
    """Asynchronous client with the methods of `Client`, except `ready`. Concurrent requests share batches."""

    def __init__(
        self, url: str = DEFAULT_URL, token: str | None = None, timeout: float = 60.0, retries: int = 3
    ) -> None:
        """Create a client; the arguments are those of `Client`."""
        import httpx

        self._http = httpx.AsyncClient(base_url=url, headers=auth_headers(token), timeout=timeout)
        self._retries = retries

    async def features(
        self,
        images: ImageInput | Sequence[ImageInput],
        outputs: Sequence[str] = ("embedding", "feature_map"),
        size: int | tuple[int, int] | None = None,
        dtype: str = "float16",
        boxes: Sequence[Box] = (),
        points: Sequence[Point] = (),
        roi_size: int = 7,
    ) -> Any:
        """Compute features of one image or of several, like `Client.features`."""
        request = features_request(images, outputs, size, dtype, boxes, points, roi_size)
        return parse_answer(request, await self._post(request))

    async def similarity(
        self,
        first: ImageInput,
        second: ImageInput,
        point: Point | None = None,
        box: Box | None = None,
        output: str = "feature_map",
        size: int | tuple[int, int] | None = None,
    ) -> FeaturesResponse:
        """Compute a similarity map, like `Client.similarity`."""
        return parse_response(await self._post(similarity_request(first, second, point, box, output, size)))

    async def segment(
        self,
        images: ImageInput | Sequence[ImageInput],
        head: str | None = None,
        size: int | tuple[int, int] | None = None,
        probabilities: bool = False,
    ) -> Any:
        """Predict the class of each pixel of one image or of several, like `Client.segment`."""
        request = task_request("segment", images, head, size, probabilities=probabilities)
        return parse_answer(request, await self._post(request))

    async def classify(
        self,
        images: ImageInput | Sequence[ImageInput],
        head: str | None = None,
        size: int | tuple[int, int] | None = None,
        top_k: int = 5,
    ) -> Any:
        """Predict the class of one image or of several, like `Client.classify`."""
        request = task_request("classify", images, head, size, top_k=top_k)
        return parse_answer(request, await self._post(request))

    async def detect(
        self,
        images: ImageInput | Sequence[ImageInput],
        head: str | None = None,
        size: int | tuple[int, int] | None = None,
        threshold: float = 0.5,
        masks: bool = False,
    ) -> Any:
        """Detect the objects in one image or in several, like `Client.detect`."""
        request = task_request("detect", images, head, size, threshold=threshold, masks=masks)
        return parse_answer(request, await self._post(request))

    async def model(self) -> dict[str, Any]:
        """Return the artifact's manifest and the limits of the service."""
        return dict(json.loads(get_content(await self._http.get("/v1/model"))))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _post(self, request: ClientRequest) -> bytes:
        for retries_left in range(self._retries, -1, -1):
            response = await self._http.post(request.path, **request.post_arguments())
            delay = retry_delay(response, retries_left)
            if delay is None:
                break
            await asyncio.sleep(delay)
        return get_content(response)
