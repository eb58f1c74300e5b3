"""ASGI middleware around the routes: security headers, metrics, token authentication and admission control."""

import asyncio
import base64
import binascii
import hmac
import time
from contextlib import suppress
from typing import Final

from starlette.datastructures import Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gtsa_kit.service.admission import AdmissionLimiter
from gtsa_kit.service.errors import APIError, overloaded
from gtsa_kit.service.metrics import ServiceMetrics

PUBLIC_PATHS: Final = frozenset({"/health", "/ready"})
"""Paths that need no token, because the probes of an orchestrator have none."""
COMPUTE_PATHS: Final = frozenset(
    f"/v1/{name}" for name in ("features", "embeddings", "similarity", "segment", "classify", "detect", "picture")
)
"""Paths whose requests are subject to admission control."""
DEFAULT_HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)
"""Headers of every response that does not set them itself."""
MAX_HEADER_BYTES: Final = 64 << 10
"""Maximum bytes of path, query and headers together."""
REQUEST_TIMEOUT: Final = 408
LINGER_BYTES: Final = 64 << 20
LINGER_SECONDS: Final = 5.0
"""Limits of the rest of a request body that is read and discarded after the response."""
CLIENT_CLOSED_REQUEST: Final = 499
"""Status of a request whose client disconnected, as nginx logs it. It appears in the metrics and is never sent."""


class RequestMiddleware:
    """Outermost middleware: a limit on the headers, default headers, metrics, and HEAD answered as GET."""

    def __init__(self, app: ASGIApp, metrics: ServiceMetrics, routes: frozenset[str], root_path: str = "") -> None:
        self.app, self.metrics, self.routes, self.root_path = app, metrics, routes, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process one request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        connection = TrackedConnection(receive, send)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]  # the server omits the body
        started = time.monotonic()
        try:
            sizes = (len(name) + len(value) for name, value in scope["headers"])
            if len(scope["query_string"]) + len(scope["path"]) + sum(sizes) > MAX_HEADER_BYTES:
                error = APIError(431, "headers_too_large", f"path and headers take more than {MAX_HEADER_BYTES} bytes")
                await error.to_response()(scope, connection.receive, connection.send)
            else:
                await self.app({**scope, "method": method}, connection.receive, connection.send)
        finally:
            path = scope["path"].removeprefix(self.root_path)
            route = path if path in self.routes else "other"
            self.metrics.requests.labels(route, str(connection.status)).inc()
            self.metrics.latency.labels(route).observe(time.monotonic() - started)


class TrackedConnection:
    """Wrapper of a request's `receive` and `send` that records the status and whether the body was read completely."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.status = CLIENT_CLOSED_REQUEST
        self._body_complete = False

    async def receive(self) -> Message:
        """Return the next message of the server."""
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._body_complete = True
        return message

    async def send(self, message: Message) -> None:
        """Pass a message to the server; the last call returns when the client has received the whole response."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            present = {name for name, _ in message["headers"]}
            headers = [*message["headers"], *(pair for pair in DEFAULT_HEADERS if pair[0] not in present)]
            message = {**message, "headers": headers}
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            if not self._body_complete and self.status != REQUEST_TIMEOUT:
                await self._linger()
            # The server accepts the final empty message only after the data before it has been sent. The request's
            # reservation is held until then.
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        """Read and discard the rest of the body for a limited time.

        A connection that is closed while its client still sends is reset, and the client loses the response.
        """
        discarded = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._body_complete and discarded < LINGER_BYTES:
                    discarded += len((await self.receive()).get("body", b""))


class RootPathMiddleware:
    """Middleware that removes a path prefix, so that a proxy may pass it on or remove it itself."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app, self.root_path = app, root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process one request; the prefix alone leads to the page, whose links are relative."""
        path, app = scope.get("path", ""), self.app
        if path == self.root_path:
            app = RedirectResponse(self.root_path + "/")
        elif path.startswith(self.root_path + "/"):
            path = path.removeprefix(self.root_path)
            scope = {**scope, "path": path, "raw_path": path.encode()}
        await app(scope, receive, send)


class TokenMiddleware:
    """Middleware that requires the token, as a bearer token or as the password of Basic authentication.

    Tokens are compared in constant time.
    """

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process one request."""
        if scope["type"] == "http" and scope["path"] not in PUBLIC_PATHS and not self._authorized(scope):
            headers = {"WWW-Authenticate": 'Basic realm="gtsa"'}
            error = APIError(401, "invalid_token", "send the token: Authorization: Bearer TOKEN", headers=headers)
            await error.to_response()(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _authorized(self, scope: Scope) -> bool:
        scheme, _, credentials = Headers(scope=scope).get("authorization", "").partition(" ")
        token = credentials.strip().encode("utf-8", "replace")
        if scheme.lower() == "basic":
            try:
                token = base64.b64decode(token, validate=True).partition(b":")[2]
            except binascii.Error:
                token = b""
        return hmac.compare_digest(token, self.token) and scheme.lower() in ("bearer", "basic")


class AdmissionMiddleware:
    """Middleware that reserves capacity for each request that computes, from its headers to the end of its response.

    A request that does not fit is answered with 503 immediately.
    """

    def __init__(self, app: ASGIApp, limiter: AdmissionLimiter, metrics: ServiceMetrics) -> None:
        self.app, self.limiter, self.metrics = app, limiter, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process one request."""
        if scope["type"] != "http" or scope["path"] not in COMPUTE_PATHS or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        try:
            if self.limiter.draining:
                raise overloaded(self.limiter.retry_after())
            reservation = self.limiter.acquire()
        except APIError as error:
            self.metrics.errors.labels(error.code).inc()
            return await error.to_response()(scope, receive, send)
        try:
            await self.app({**scope, "state": {**scope.get("state", {}), "reservation": reservation}}, receive, send)
        finally:
            reservation.release()
