"""The line that `gtsa serve --json` prints once the service answers."""

import http.client
import json
import socket
from typing import Any, Final

from gtsa_kit.service.settings import ServiceSettings

WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
"""Address of this machine by the address that listens on all."""


def describe_ready(settings: ServiceSettings, sock: socket.socket, url: str) -> dict[str, Any] | None:
    """Ask the service for its model, and wait until it answers; a worker that is still loading answers later.

    Args:
        settings: Settings of the service.
        sock: Its listening socket.
        url: Its address, for clients.

    Returns:
        Address, process count, model, provider, outputs and limits; None if the service ended before.
    """
    host, port, *_ = sock.getsockname()
    headers = {} if settings.token is None else {"Authorization": f"Bearer {settings.token}"}
    connection = http.client.HTTPConnection(WILDCARDS.get(host, host), port)
    try:
        connection.request("GET", "/v1/model", headers=headers)
        model = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    outputs = [output["name"] for output in model.pop("manifest")["outputs"]]
    return {"url": url, "artifact": str(settings.artifact), "workers": settings.workers, **model, "outputs": outputs}
