"""What the service says when it says no: one shape of answer for all of it, in words of our own."""

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

TYPES = {401: "authentication_error", 429: "overloaded_error", 500: "server_error", 503: "overloaded_error"}


class Refusal(Exception):
    """A request, or an image of it, that is not answered; `message` names neither files nor libraries."""

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

    def about(self) -> dict[str, Any]:
        """The error as JSON; the keys are those of OpenAI's errors, which its clients show."""
        return {
            "message": self.message,
            "type": TYPES.get(self.status, "invalid_request_error"),
            "param": self.field,
            "code": self.code,
        }

    def response(self) -> JSONResponse:
        """The whole answer."""
        items = {"items": self.items} if self.items is not None else {}
        return JSONResponse({"error": self.about(), **items}, self.status, self.headers)


def invalid(field: str, message: str) -> Refusal:
    """422: a parameter or a part of the body."""
    return Refusal(422, "invalid_parameter", f"{field}: {message}", field)


def overloaded(seconds: int) -> Refusal:
    """503, with the time after which a try may succeed."""
    return Refusal(
        503, "overloaded", f"the queue is full; try again in {seconds} s", headers={"Retry-After": str(seconds)}
    )


def too_large(what: str, limit_bytes: int, field: str | None = None) -> Refusal:
    """413."""
    return Refusal(413, "too_large", f"{what} is larger than the limit of {limit_bytes / (1 << 20):g} MiB", field)


def unsupported(message: str) -> Refusal:
    """415."""
    return Refusal(415, "unsupported_media_type", message, "content-type")
