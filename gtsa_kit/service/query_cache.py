"""A way past routing and validation for queries that have been through both."""

from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match
from starlette.types import Receive, Scope, Send

from gtsa_kit.service.query import Ask

MOST: Final = 64
LONGEST: Final = 1024
"""Bytes of a query that is kept."""


class KnownQueries(BaseRoute):
    """POST of one path with a query that was found sound before, letter for letter: a route before all others.

    Most clients send one query again and again. What is refused is never kept, so it is refused anew in the same words.
    """

    def __init__(self, path: str, answer: Callable[[Request, str, Ask], Awaitable[Response]]) -> None:
        self.path, self.answer = path, answer
        self._known: dict[bytes, tuple[str, Ask]] = {}

    def keep(self, scope: Scope, form: str, ask: Ask) -> None:
        """Remember what the query of this request means, in place of the oldest if there are too many."""
        query = scope["query_string"]
        if len(query) <= LONGEST:
            if len(self._known) >= MOST:
                del self._known[next(iter(self._known))]
            self._known[query] = form, ask

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        """Whether this query of this path is known."""
        known = scope["type"] == "http" and scope["path"] == self.path and scope["method"] == "POST"
        return Match.FULL if known and scope["query_string"] in self._known else Match.NONE, {}

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The answer, as the path's own route gives it."""
        response = await self.answer(Request(scope, receive, send), *self._known[scope["query_string"]])
        await response(scope, receive, send)
