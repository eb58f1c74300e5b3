"""Responses with arrays and their metadata."""

import time
from collections.abc import Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from gtsa_kit.service.extract import RequestTiming
from gtsa_kit.service.serialization import MEDIA_TYPES, ImageResult, encode_response
from gtsa_kit.service.state import get_state


async def build_response(
    request: Request,
    response_format: str,
    results: Sequence[ImageResult],
    multiple: bool,
    timing: RequestTiming,
) -> Response:
    """Return the arrays and their metadata in the requested format."""
    state = get_state(request)
    started = time.monotonic()
    size = sum(values.nbytes for result in results for values in result.arrays.values())
    # Encoding numbers as text takes far longer than copying their bytes.
    cost = size if response_format in ("safetensors", "npz") else 16 * size
    metadata: dict[str, Any] = {"model": state.model_info()}
    body = await state.extractor.run_maybe_in_pool(cost, encode_response, response_format, metadata, results, multiple)
    timing.record("encode", time.monotonic() - started)
    state.metrics.stage["encode"].observe(timing.stages["encode"])
    state.limiter.record_completion(len(results))
    return Response(body, media_type=MEDIA_TYPES[response_format], headers={"Server-Timing": timing.header()})
