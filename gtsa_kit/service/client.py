"""A client of the service, sync and async."""

import asyncio
import json
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from gtsa_kit.service.client_protocol import (
    Answer,
    Box,
    Call,
    Picture,
    Point,
    ServiceError,
    checked,
    features_call,
    read_answer,
    similarity_call,
    split,
    wait_seconds,
)

__all__ = ["Answer", "AsyncClient", "Client", "ServiceError"]

URL = "http://127.0.0.1:8000"


def _headers(token: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"} if token else {}


class Client:
    """Talks to one service; use it in `with`, or `close` it."""

    def __init__(self, url: str = URL, token: str | None = None, timeout: float = 60.0, retries: int = 3) -> None:
        """Connect when first used.

        Args:
            url: Of the service.
            token: If it wants one.
            timeout: Seconds for an answer.
            retries: Further tries when the service is full, each after the time that it names.
        """
        import httpx

        self._http = httpx.Client(base_url=url, headers=_headers(token), timeout=timeout)
        self._retries = retries

    def features(
        self,
        images: Picture | Sequence[Picture],
        outputs: Sequence[str] = ("embedding", "feature_map"),
        size: int | tuple[int, int] | None = None,
        dtype: str = "float16",
        boxes: Sequence[Box] = (),
        points: Sequence[Point] = (),
        roi_size: int = 7,
    ) -> Any:
        """An `Answer` for one image; for a list of them a list, with a `ServiceError` for each that can't be used.

        Args:
            images: One, or a list.
            outputs: Names of the artifact's outputs.
            size: Of the input: N or (height, width); by default the artifact's own.
            dtype: float16 or float32.
            boxes: (x1, y1, x2, y2) in pixels of the image.
            points: (x, y) in pixels of the image.
            roi_size: Cells along each side of a box's features.

        Raises:
            ServiceError: The request, or its one image, was refused.
        """
        call = features_call(images, outputs, size, dtype, boxes, points, roi_size)
        answer = read_answer(self._send(call))
        return answer if call.alone else split(answer)

    def similarity(
        self,
        first: Picture,
        second: Picture,
        point: Point | None = None,
        box: Box | None = None,
        output: str = "feature_map",
        size: int | tuple[int, int] | None = None,
    ) -> Answer:
        """`answer["similarity"]` (h, w): cosines over the second image with a point or box of the first."""
        return read_answer(self._send(similarity_call(first, second, point, box, output, size)))

    def model(self) -> dict[str, Any]:
        """The artifact's manifest, and the service's limits."""
        return dict(json.loads(checked(self._http.get("/v1/model"))))

    def ready(self) -> bool:
        """Whether the service takes requests."""
        import httpx

        try:
            return self._http.get("/ready").status_code == 200
        except httpx.TransportError:
            return False

    def close(self) -> None:
        """Let the connections go."""
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, call: Call) -> bytes:
        for left in range(self._retries, -1, -1):
            response = self._http.post(call.path, **call.sent_as())
            wait = wait_seconds(response, left)
            if wait is None:
                break
            time.sleep(wait)
        return checked(response)


class AsyncClient:
    """`Client` for asyncio: the same calls, awaited; many at a time share batches."""

    def __init__(self, url: str = URL, token: str | None = None, timeout: float = 60.0, retries: int = 3) -> None:
        """As `Client`."""
        import httpx

        self._http = httpx.AsyncClient(base_url=url, headers=_headers(token), timeout=timeout)
        self._retries = retries

    async def features(
        self,
        images: Picture | Sequence[Picture],
        outputs: Sequence[str] = ("embedding", "feature_map"),
        size: int | tuple[int, int] | None = None,
        dtype: str = "float16",
        boxes: Sequence[Box] = (),
        points: Sequence[Point] = (),
        roi_size: int = 7,
    ) -> Any:
        """As `Client.features`."""
        call = features_call(images, outputs, size, dtype, boxes, points, roi_size)
        answer = read_answer(await self._send(call))
        return answer if call.alone else split(answer)

    async def similarity(
        self,
        first: Picture,
        second: Picture,
        point: Point | None = None,
        box: Box | None = None,
        output: str = "feature_map",
        size: int | tuple[int, int] | None = None,
    ) -> Answer:
        """As `Client.similarity`."""
        return read_answer(await self._send(similarity_call(first, second, point, box, output, size)))

    async def model(self) -> dict[str, Any]:
        """As `Client.model`."""
        return dict(json.loads(checked(await self._http.get("/v1/model"))))

    async def close(self) -> None:
        """Let the connections go."""
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, call: Call) -> bytes:
        for left in range(self._retries, -1, -1):
            response = await self._http.post(call.path, **call.sent_as())
            wait = wait_seconds(response, left)
            if wait is None:
                break
            await asyncio.sleep(wait)
        return checked(response)
