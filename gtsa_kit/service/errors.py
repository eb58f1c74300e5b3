"""Error responses of the service: one JSON format for all of them."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

ERROR_TYPES = {401: "authentication_error", 429: "overloaded_error", 500: "server_error", 503: "overloaded_error"}
"""Value of `type` by status, as in OpenAI's API; others are `invalid_request_error`."""


class APIError(Exception):
    """Raised when a request, or one of its images, can't be answered.

    The message is sent to the client, so it names no paths of the server and no libraries.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
        items: list[dict[str, Any]] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field
        self.headers = dict(headers or {})
        self.items = items

    def to_dict(self) -> dict[str, Any]:
        """Return the error as JSON, with the keys of OpenAI's errors, which its clients display."""
        return {
            "message": self.message,
            "type": ERROR_TYPES.get(self.status, "invalid_request_error"),
            "param": self.field,
            "code": self.code,
        }

    def to_response(self) -> JSONResponse:
        """Return the HTTP response."""
        items = {"items": self.items} if self.items is not None else {}
        return JSONResponse({"error": self.to_dict(), **items}, self.status, self.headers)


def invalid_parameter(field: str, message: str) -> APIError:
    """Return a 422 error about a parameter, a header or a part of the body."""
    return APIError(422, "invalid_parameter", f"{field}: {message}", field)


def overloaded(retry_after: int) -> APIError:
    """Return a 503 error with the seconds after which the client should retry."""
    return APIError(
        503,
        "overloaded",
        f"the queue is full; try again in {retry_after} s",
        headers={"Retry-After": str(retry_after)},
    )


def too_large(subject: str, limit_bytes: int, field: str | None = None) -> APIError:
    """Return a 413 error about a size above its limit."""
    return APIError(413, "too_large", f"{subject} is larger than the limit of {limit_bytes / (1 << 20):g} MiB", field)


def unsupported_media_type(message: str, field: str = "content-type") -> APIError:
    """Return a 415 error."""
    return APIError(415, "unsupported_media_type", message, field)
