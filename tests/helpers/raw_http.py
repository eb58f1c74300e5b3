"""Plain HTTP/1.1 client: sends many requests cheaply, and requests that no library would send."""

import asyncio
import re
import socket
from collections.abc import Sequence

# Details of the server that no response may reveal: paths, tracebacks, modules, versions, memory addresses.
LEAKS = re.compile(
    rb"/(usr|home|tmp|root|work|opt)/|Traceback|\.py\b|site-packages|0x[0-9a-f]{6}|pillow|PIL|uvicorn|starlette|fastapi|"
    rb"pydantic|torch|numpy|onnx|libtiff|[0-9]+\.[0-9]+\.[0-9]+",
    re.IGNORECASE,
)


def request(path: str, body: bytes = b"", method: str = "POST", **headers: str) -> bytes:
    """Return the bytes of a request; underscores in header names stand for dashes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
    if "Content_Length" not in headers and "Transfer_Encoding" not in headers and (body or method == "POST"):
        lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


async def send_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes
) -> tuple[int, dict[str, str], bytes]:
    """Send one request on an open connection and return the status, the headers in lower case, and the body."""
    writer.write(content)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split()[1]), headers, body


async def send_requests(
    port: int, requests: Sequence[bytes], concurrency: int
) -> list[tuple[int, dict[str, str], bytes]]:
    """Send all requests over `concurrency` connections and return the responses in the order of the requests."""
    responses: dict[int, tuple[int, dict[str, str], bytes]] = {}
    remaining = iter(enumerate(requests))

    async def work() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for i, content in remaining:
            responses[i] = await send_request(reader, writer, content)
            if responses[i][1].get("connection") == "close":
                writer.close()
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()

    await asyncio.gather(*(work() for _ in range(concurrency)))
    return [responses[i] for i in range(len(requests))]


def send_raw(port: int, content: bytes, seconds: float = 10.0) -> bytes:
    """Send bytes and return everything received until the service closes the connection or `seconds` pass."""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(content)
        received = b""
        try:
            while chunk := connection.recv(65536):
                received += chunk
        except (TimeoutError, ConnectionResetError):
            pass
        return received


def status_of(response: bytes) -> int:
    """Return the status of a raw response, 0 if there is none."""
    return int(response.split(b" ", 2)[1]) if response.startswith(b"HTTP/1.1 ") else 0
