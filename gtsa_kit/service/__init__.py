"""Features over HTTP: a server with a web page, and clients for it."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gtsa_kit.service.async_client import AsyncClient
    from gtsa_kit.service.client import Client, ServiceError

__all__ = ["AsyncClient", "Client", "ServiceError"]


def __getattr__(name: str) -> Any:
    """Import the clients when they are first used; they need neither torch nor the server's packages."""
    if name in __all__:
        from gtsa_kit.service import async_client, client

        return getattr(async_client if name == "AsyncClient" else client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
