"""Retries of network requests that failed for a passing reason."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")

RETRY_DELAYS = (0.5, 2.0)
"""Seconds before the second and the third attempt; there is no fourth."""

_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_CLIENTS = {"aiohttp", "httpx", "httpcore", "requests", "urllib3", "botocore"}
"""Packages of network clients, whose errors have no common class; one without a status is of the connection."""


def with_retries(call: Callable[[], Result]) -> Result:
    """Return the result of `call`; call again, after a growing delay, if it fails for a passing reason."""
    for delay in RETRY_DELAYS:
        try:
            return call()
        except Exception as error:  # clients of storage services raise errors of any class
            if not is_transient(error):
                raise
        time.sleep(delay)
    return call()


def is_transient(error: BaseException) -> bool:
    """Return whether a request may succeed later: no connection, a time-out, or a server that is overloaded."""
    for cause in _causes(error):
        status = _status(cause)
        if status is not None:
            return status in _TRANSIENT_STATUS
        if isinstance(cause, (ConnectionError, TimeoutError)):
            return True
        if type(cause).__module__.split(".")[0] in _CLIENTS and not isinstance(cause, ValueError):
            return True
    return False


def describe_remote_error(error: BaseException) -> str:
    """Return one line on the first cause of an error, which fsspec often hides behind "file not found"."""
    cause = list(_causes(error))[-1]
    text = " ".join(str(cause).split())
    return f"{type(cause).__name__}{f': {text}' if text else ''}"[:200]


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, its cause, the cause of that, and so on."""
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__


def _status(error: Any) -> int | None:
    """Return the HTTP status that an error of any client carries, or None."""
    response = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        code = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        return code if isinstance(code, int) else None
    for holder, name in ((error, "status"), (response, "status_code"), (error, "code")):
        value = getattr(holder, name, None)
        if isinstance(value, int) and value >= 100:
            return value
    return None
