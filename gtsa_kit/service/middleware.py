"""What stands before the routes: headers, counting, the token, the bound on what is taken on."""

import asyncio
import base64
import binascii
import hmac
import time
from contextlib import suppress
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gtsa_kit.service.admission import Pending
from gtsa_kit.service.errors import Refusal, overloaded
from gtsa_kit.service.metrics import Metrics

OPEN: Final = frozenset({"/health", "/ready"})
"""Answered without a token: whoever restarts a service has none."""
COMPUTING: Final = frozenset({"/v1/features", "/v1/embeddings", "/v1/similarity"})
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
"""Of every answer that does not say otherwise."""
HEADER_BYTES: Final = 64 << 10
"""Of path, query and headers."""
TOO_SLOW: Final = 408
LINGER_BYTES: Final = 64 << 20
LINGER_SECONDS: Final = 5.0
CLIENT_GONE: Final = 499
"""Never sent: how metrics call the answer to a client that went away."""


class Outer:
    """Around everything: security headers, metrics, HEAD, answers before the body was read."""

    def __init__(self, app: ASGIApp, metrics: Metrics, routes: frozenset[str]) -> None:
        self.app, self.metrics, self.routes = app, metrics, routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        exchange = Exchange(receive, send)
        method = "GET" if scope["method"] == "HEAD" else scope["method"]  # the server leaves the body away
        started = time.monotonic()
        try:
            sizes = (len(name) + len(value) for name, value in scope["headers"])
            if len(scope["query_string"]) + len(scope["path"]) + sum(sizes) > HEADER_BYTES:
                refusal = Refusal(431, "headers_too_large", f"path and headers take more than {HEADER_BYTES} bytes")
                await refusal.response()(scope, exchange.receive, exchange.send)
            else:
                await self.app({**scope, "method": method}, exchange.receive, exchange.send)
        finally:
            path = scope["path"]
            route = path if path in self.routes else "other"
            self.metrics.requests.labels(route, str(exchange.status)).inc()
            self.metrics.latency.labels(route).observe(time.monotonic() - started)


class Exchange:
    """One request's receive and send, watched."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.status = CLIENT_GONE
        self._whole = False

    async def receive(self) -> Message:
        """As the server gives it."""
        message = await self._receive()
        self._whole = self._whole or message["type"] == "http.disconnect" or not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """As the routes give it; returns from the last piece when the client has taken all of it."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            own = {name for name, _ in message["headers"]}
            headers = [*message["headers"], *(pair for pair in DEFAULT_HEADERS if pair[0] not in own)]
            message = {**message, "headers": headers}
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            if not self._whole and self.status != TOO_SLOW:
                await self._linger()
            # The server takes this one when what is before it has left, so a place is held until then.
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)

    async def _linger(self) -> None:
        """Read on, to nowhere, for a while: closing on a client that still sends would take the answer from it."""
        taken = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._whole and taken < LINGER_BYTES:
                    taken += len((await self.receive()).get("body", b""))


class TokenGuard:
    """Bearer tokens; browsers may give the token as a password. Compared in constant time."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] == "http" and scope["path"] not in OPEN and not self._knows(scope):
            headers = {"WWW-Authenticate": 'Basic realm="gtsa"'}
            refusal = Refusal(401, "invalid_token", "send the token: Authorization: Bearer TOKEN", headers=headers)
            await refusal.response()(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    def _knows(self, scope: Scope) -> bool:
        kind, _, said = Headers(scope=scope).get("authorization", "").partition(" ")
        given = said.strip().encode("utf-8", "replace")
        if kind.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).partition(b":")[2]
            except binascii.Error:
                given = b""
        return hmac.compare_digest(given, self.token) and kind.lower() in ("bearer", "basic")


class Admission:
    """A place for each request that computes, from its headers to the end of its answer; 503 at once without one."""

    def __init__(self, app: ASGIApp, pending: Pending, metrics: Metrics) -> None:
        self.app, self.pending, self.metrics = app, pending, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http" or scope["path"] not in COMPUTING or scope["method"] != "POST":
            return await self.app(scope, receive, send)
        try:
            if self.pending.draining:
                raise overloaded(self.pending.retry_after())
            place = self.pending.enter()
        except Refusal as refusal:
            self.metrics.errors.labels(refusal.code).inc()
            return await refusal.response()(scope, receive, send)
        try:
            await self.app({**scope, "state": {**scope.get("state", {}), "place": place}}, receive, send)
        finally:
            place.leave()
