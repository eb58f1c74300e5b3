"""Features over HTTP, for dense downstream use, and a page to see them on."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtsa_kit.service.client import AsyncClient, Client, ServiceError

__all__ = ["AsyncClient", "Client", "ServiceError"]


def __getattr__(name: str) -> Any:
    """Import what is asked for when it is: a client needs no torch, and nothing of the server."""
    if name in __all__:
        from gtsa_kit.service import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
